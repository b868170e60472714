"""Frames of videos: all of them, at their times, and equal to those of PyAV's sequential decoder. No Ray is started."""

from __future__ import annotations

import itertools
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from PIL import Image
from videos import copy, decoded, make, scene, turned

from ray_segformer.exports import SourcePart, Video
from ray_segformer.images import MAX_PIXELS, ImageError, cause_of, describe, frame_header, to_rgb
from ray_segformer.images._video_file import VideoFile, _shown
from ray_segformer.inputs import InputError, find_annotated, find_images, find_rounds
from ray_segformer.viz import class_palette, overlay

# x264 refreshes a picture bit by bit, without a whole one; and begins groups with frames that need the group before.
REFRESH, OPEN = {"x264-params": "intra-refresh=1:keyint=10"}, {"x264-params": "open-gop=1:scenecut=0"}


def uneven(count):
    """Times of a video whose rate changes, in milliseconds."""
    return np.cumsum([0, *([40, 100, 250, 3000] * count)])[:count].tolist()


MADE = {
    "h264.mp4": lambda path: make(path),
    "uneven.mp4": lambda path: make(path, times=uneven(40)),
    "uneven.mkv": lambda path: make(path, times=uneven(40)),
    "open.ts": lambda path: make(path, options=OPEN),
    "refresh.mp4": lambda path: make(path, options=REFRESH),
    "h265.mp4": lambda path: make(path, codec="libx265", options={"x265-params": "log-level=none"}),
    "old.avi": lambda path: make(path, codec="mpeg4"),
    "old.mpg": lambda path: make(path, codec="mpeg2video"),
    "vp9.webm": lambda path: make(path, codec="libvpx-vp9"),
    # An edit list hides the beginning, up to the middle of a group.
    "edited.mp4": lambda path: copy(make(path.with_name("whole.mp4")), path, -7 * 1024, avoid_negative_ts="disabled"),
}
DAMAGED = "cannot decode: the video is damaged from "


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """40 frames in groups of 12: 0 to 11, 12 to 23, 24 to 35 and 36 to 39."""
    return make(tmp_path_factory.mktemp("clip") / "clip.mp4")


def rows_of(source, **options):
    return find_images(str(source), **options).take(10**6)


def errors_of(path):
    """Why frames cannot be decoded, by number."""
    errors = {}
    for row in rows_of(path):
        try:
            to_rgb(row["image"])
        except ImageError as error:
            errors[row["frame"]] = str(error)
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_frames_in_any_order_are_those_of_a_sequential_decoder(tmp_path, name):
    path = MADE[name](tmp_path / name)
    expected = decoded(path)
    rows = rows_of(path)
    assert [row["seconds"] for row in rows] == list(expected) == sorted(expected)
    assert all(row["image"]["start"] <= row["seconds"] for row in rows)
    assert [row["frame"] for row in rows] == list(range(33 if name == "edited.mp4" else 40))
    shuffled = random.Random(0).sample(rows, len(rows))
    pieces = [rows[first : first + 5] for first in range(0, len(rows), 5)]
    for order in (rows, shuffled, itertools.chain(*reversed(pieces)), rows[::9]):
        for row in order:
            np.testing.assert_array_equal(to_rgb(row["image"]), expected[row["seconds"]])
    assert frame_header(rows[3]["image"], MAX_PIXELS).kind.endswith(" yuv420p")


def test_rows_say_which_frame_they_are(clip):
    found = find_images(str(clip), every=15)
    assert found.columns.names == ["frame", "seconds"] and found.rows == 3
    rows = found.take(9)
    assert [(row["index"], row["frame"], row["name"]) for row in rows] == [
        *((0, 0, "clip/000000"), (1, 15, "clip/000015"), (2, 30, "clip/000030"))
    ]
    assert {row["path"] for row in rows} == {str(clip)} == {describe(row["image"]) for row in rows}
    assert [row["key"] for row in rows] == list(found.keys()) == [f"{clip}#frame={number}" for number in (0, 15, 30)]
    assert np.abs(to_rgb(rows[1]["image"]).astype(int) - scene(15, (48, 64))).mean() < 12


@pytest.mark.slow
def test_threads_share_a_video(clip, tmp_path):
    other = make(tmp_path / "other.mp4", 20, (30, 50), first=7)
    cells = [(row["image"], decoded(path)[row["seconds"]]) for path in (clip, other) for row in rows_of(path)[::2]]
    random.Random(1).shuffle(cells)
    with ThreadPoolExecutor(4) as pool:
        for found, (_, expected) in zip(pool.map(to_rgb, [cell for cell, _ in cells]), cells, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_video_that_is_replaced_is_opened_again(tmp_path):
    path = make(tmp_path / "clip.mp4", 5)
    to_rgb(rows_of(path)[2]["image"])
    make(path, 5, (40, 72), first=50)
    np.testing.assert_array_equal(to_rgb(rows_of(path)[2]["image"]), [*decoded(path).values()][2])


# Phones hold the picture on its side, and say how it is shown: 90 degrees to the right, to the left, upside down.
TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@pytest.mark.parametrize("matrix", TURNS)
def test_turned_videos_are_upright(clip, tmp_path, matrix):
    cell = rows_of(turned(clip, tmp_path / "turned.mp4", matrix))[17]["image"]
    expected = Image.fromarray([*decoded(clip).values()][17]).transpose(TURNS[matrix])
    np.testing.assert_array_equal(to_rgb(cell), np.asarray(expected))
    header = frame_header(cell, MAX_PIXELS)
    assert header.exif_rotated and (header.width, header.height) == expected.size


def test_another_angle_is_refused(clip, tmp_path):
    errors = errors_of(turned(clip, tmp_path / "turned.mp4", (0.7, 0.7, -0.7, 0.7)))
    assert len(errors) == 40 and "turned by another angle" in errors[0]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.avi"])
def test_a_damaged_frame_spoils_its_group_and_no_other(tmp_path, name):
    """Up to the next key frame, no decoder tells that it draws on what is damaged."""
    codec = {"clip.mp4": "libx264", "clip.webm": "libvpx-vp9", "clip.avi": "mpeg4"}[name]
    clip = make(tmp_path / name, codec=codec)
    with av.open(str(clip)) as container:
        packets = {packet.pts: bytes(packet) for packet in container.demux(video=0) if packet.size}
        group = {pts: number for number, pts in enumerate(sorted(packets)) if 12 < number < 24}
    damaged = max(group, key=lambda pts: len(packets[pts]))  # not a B-frame: others refer to it, also such before it
    content, packet = clip.read_bytes(), packets[damaged]
    place, spoilt = content.index(packet), bytes(5) + np.random.default_rng(0).bytes(len(packet) - 5)
    (tmp_path / f"damaged-{name}").write_bytes(content[:place] + spoilt + content[place + len(packet) :])
    errors = errors_of(tmp_path / f"damaged-{name}")
    assert set(range(group[damaged], 24)) <= {*errors} <= set(range(12, 24))
    assert all(error.startswith(DAMAGED) and cause_of(error) == "cannot decode" for error in errors.values())
    expected = [*decoded(clip).values()]
    for row in reversed(rows_of(tmp_path / f"damaged-{name}")):
        if row["frame"] not in errors:
            np.testing.assert_array_equal(to_rgb(row["image"]), expected[row["frame"]])


def test_a_lost_packet_spoils_a_group(tmp_path):
    """Of a broadcast. The decoder of MPEG-2 hides what is lost, and tells it of one frame."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    clip = make(tmp_path / "clip.ts", codec="mpeg2video", picture=lambda number, _: noise + np.uint8(number % 2))
    with av.open(str(clip)) as container:
        lost = [packet.pos for packet in container.demux(video=0)][13] + 188  # the last part of the frame before it
    content, expected = clip.read_bytes(), decoded(clip)
    (tmp_path / "lost.ts").write_bytes(content[:lost] + content[lost + 188 :])
    errors = errors_of(tmp_path / "lost.ts")
    assert [*errors] == list(range(min(errors), 24)) and min(errors) > 9
    for row in rows_of(tmp_path / "lost.ts"):
        if row["frame"] not in errors:
            np.testing.assert_array_equal(to_rgb(row["image"]), expected[row["seconds"]])


@pytest.mark.parametrize("name", ["clip.mp4", "vp9.mp4", "clip.mkv", "clip.avi"])
def test_a_file_that_is_cut_off_ends_with_an_error(tmp_path, name):
    codec = {"vp9.mp4": "libvpx-vp9", "clip.avi": "mpeg4"}.get(name, "libx264")
    whole = make(tmp_path / f"whole{name[-4:]}", codec=codec)
    if name.endswith("mp4"):
        whole = copy(whole, tmp_path / name, movflags="faststart")  # the list of frames comes first
    content = whole.read_bytes()
    cut = 7 * len(content) // 10
    if name == "clip.avi":  # which does not show a cut between two frames; it has other bytes on one CPU
        with av.open(str(whole)) as container:
            key = [packet for packet in container.demux(video=0) if packet.is_keyframe][2]
        cut = key.pos + key.size // 2
    (tmp_path / f"cut-{name}").write_bytes(content[:cut])
    errors = errors_of(tmp_path / f"cut-{name}")
    last = max(errors)
    assert 5 < last < 39 and len(errors) == 1 and "the file is cut off" in errors[last]
    assert rows_of(tmp_path / f"cut-{name}", every=39)[-1]["frame"] == last


def test_a_recording_that_begins_between_key_frames_begins_with_the_next_one(tmp_path):
    whole = make(tmp_path / "whole.ts", options={"x264-params": "scenecut=0"})
    content = whole.read_bytes()
    (tmp_path / "later.ts").write_bytes(content[188 * 12 :])
    times = [row["seconds"] for row in rows_of(tmp_path / "later.ts")]
    assert times == list(decoded(whole))[12:] and errors_of(tmp_path / "later.ts") == {}


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_no_frames(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.open()
        container.start_encoding()


def test_what_has_no_frames_is_one_error(tmp_path):
    said = {}
    for name, content in {"empty.mp4": b"", "text.mp4": b"no video" * 500}.items():
        (tmp_path / name).write_bytes(content)
    write_audio(tmp_path / "sound.mp4")
    write_no_frames(tmp_path / "none.mp4")
    make(tmp_path / "b.avi")
    whole = make(tmp_path / "whole.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(2 * whole)
    for name in ("empty.mp4", "text.mp4", "sound.mp4", "none.mp4", "b.avi", "twice.ts"):
        *_, said[name] = errors_of(tmp_path / name).values()
        assert len(rows_of(tmp_path / name)) == 1 or name == "twice.ts"
        assert rows_of(tmp_path / name)[-1]["seconds"] is None
    assert said["none.mp4"] == "empty: there is no video in the file"
    assert said["empty.mp4"] == "empty: 0 bytes" and "not a video in MP4" in said["text.mp4"]
    assert said["sound.mp4"] == "empty: there is no video in the file, only audio"
    assert "AVI has no times, which h264 with B-frames needs" in said["b.avi"]
    assert "the times of its frames go back to" in said["twice.ts"]


def test_larger_frames_than_the_limit_are_refused(tmp_path):
    """By what the file says before one is decoded; or else by each frame."""
    small, large = make(tmp_path / "small.ts", 12), make(tmp_path / "large.ts", 12, (60, 80))
    rows = rows_of(small)
    assert to_rgb(rows[5]["image"], 48 * 64).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="too large: 64 x 48 pixels, above the limit of 3071"):
        to_rgb(rows[5]["image"], 48 * 64 - 1)
    content = make(tmp_path / "empty.mp4").read_bytes()
    cell = rows_of(tmp_path / "empty.mp4")[0]["image"]
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    (tmp_path / "empty.mp4").write_bytes(content[:begin] + bytes(end - begin) + content[end:])
    for limit, error in ((48 * 64, "there is no key frame"), (48 * 64 - 1, "too large: 64 x 48 pixels")):
        with pytest.raises(ImageError, match=error):
            to_rgb(cell, limit)
    rows = rows_of(copy(small, tmp_path / "grows.ts", then=large))
    assert len(rows) == 24 and {to_rgb(row["image"], 48 * 64).shape for row in rows[:12]} == {(48, 64, 3)}
    with pytest.raises(ImageError, match="too large: 80 x 60 pixels"):
        to_rgb(rows[-1]["image"], 48 * 64)
    np.testing.assert_array_equal(to_rgb(rows[-1]["image"]), [*decoded(large).values()][-1])


def test_a_video_reads_no_other_file(clip, tmp_path):
    """A list of FFmpeg's demuxer concat, under the name of a video. Without limits, PyAV reads what it names.

    Neither are other demuxers used, whatever they read.
    """
    copy(clip, tmp_path / "secret.mkv")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mkv\n")
    with open(tmp_path / "list.mp4", "rb") as file, av.open(file) as container:
        assert len([*container.decode(video=0)]) == 40
    (tmp_path / "list.mkv").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\n{tmp_path}/secret.mkv\n")
    (tmp_path / "flash.mp4").write_bytes(copy(clip, tmp_path / "clip.flv").read_bytes())
    assert len(decoded(tmp_path / "flash.mp4")) == 40
    for name in ("list.mp4", "list.mkv", "flash.mp4"):
        assert "not a video in MP4" in errors_of(tmp_path / name)[0]


def test_folders_globs_and_lists_of_videos(tmp_path):
    folder = tmp_path / "in"
    for name, frames in {"a/clip.mp4": 3, "a/clip.mov": 2, "b.mkv": 4}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make(folder / name, frames)
    (folder / "notes.txt").write_text("b.mkv\na/clip.mov\nb.mkv\n")
    found = find_images(str(folder))
    assert [row["name"] for row in found.take(9)] == [
        *("a/clip.mov/000000", "a/clip.mov/000001", "a/clip.mp4/000000", "a/clip.mp4/000001", "a/clip.mp4/000002"),
        *("b/000000", "b/000001", "b/000002", "b/000003"),
    ]
    assert [(guess.code, guess.rows) for guess in found.guesses] == [("other-files", 1)]
    assert [row["index"] for row in found.take(9)] == list(range(9))
    assert find_images(str(folder / "a" / "*.mp4"), every=2).rows == 2
    assert find_images(str(folder), exclude=["*.mkv"]).rows == 5
    listed = find_images(str(folder / "notes.txt"))
    assert listed.rows == 10 == len({*listed.keys()}) == len({row["name"] for row in listed.take(99)})
    rounds = [*find_rounds(str(folder), first=4)]
    assert [(each.rows, each.is_last) for each in rounds] == [(4, False), (5, True)]
    assert [row for each in rounds for row in each.take(9)] == found.take(9)


def test_what_is_refused(clip, tmp_path, monkeypatch):
    Image.new("RGB", (8, 6)).save(tmp_path / "image.png")
    (tmp_path / "list.txt").write_text(f"{clip}\nimage.png\n")
    with pytest.raises(
        InputError, match=r"list\.txt: there are videos, and other files \(.*image\.png\); name them in runs"
    ):
        find_images(str(tmp_path / "list.txt"))
    for source in (tmp_path, tmp_path / "image.png"):
        with pytest.raises(InputError, match=r"every \(--every\) is for videos, and these are images"):
            find_images(str(source), every=2)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        find_images(str(clip), every=0)
    with pytest.raises(InputError, match=r"clip\.mp4: videos have no annotations"):
        find_annotated(str(clip))
    rows = rows_of(clip)
    copy(clip, tmp_path / "clip.mp4")
    assert find_images(str(tmp_path)).rows == 1  # where images are, videos are other files
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r'clip\.mp4: videos need PyAV: pip install "ray_segformer\[video\]"'):
        find_images(str(clip))
    with pytest.raises(ImageError, match=r'cannot decode: videos need PyAV: pip install "ray_segformer\[video\]"'):
        to_rgb({**rows[0]["image"], "path": str(tmp_path / "clip.mp4")})


def test_overlays_keep_their_colours(tmp_path):
    """Each of two areas, of a plain video, is of one colour. Another matrix of colours errs by more than ten levels."""
    plain = make(tmp_path / "plain.mp4", 3, picture=lambda number, size: np.full((*size, 3), (70, 140, 30), np.uint8))
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 2
    id2label = {class_id: f"class {class_id}" for class_id in range(3)}
    parts = [SourcePart({"frame": row["frame"], "seconds": row["seconds"]}, mask) for row in rows_of(plain)]
    Video(id2label).write(str(plain), iter(parts), str(tmp_path / "overlay.mp4"))
    found = [*decoded(tmp_path / "overlay.mp4").values()]
    expected = overlay(next(iter(decoded(plain).values())), mask, class_palette(id2label)).astype(int)
    assert len(found) == 3
    for area in (np.s_[4:-4, 4:28], np.s_[4:-4, 36:-4]):
        assert np.abs(found[1][area] - expected[area]).max() <= 3


def test_the_second_half_of_a_picture_is_no_frame(clip):
    """Its time is that of the first one."""
    with VideoFile(str(clip)) as video:
        shown = [1024, 2048]
        assert [*_shown(video, (2048, 0), shown)] == [] and shown == [1024, 2048]
        ((seconds, start, error),) = _shown(video, (2049, 1024), shown)
    assert shown == [2048, 2049] and error is None
    assert (seconds, start) == (float(2049 * video.stream.time_base), float(1024 * video.stream.time_base))


def test_an_odd_side_has_its_last_line_twice(tmp_path):
    options = {"codec": "libvpx-vp9", "picture": lambda number, size: np.full((*size, 3), 250, np.uint8)}
    source = make(tmp_path / "odd.webm", 2, (47, 63), **options)
    parts = [SourcePart({"frame": 0, "seconds": 0.0}, np.zeros((47, 63), np.uint8))]
    Video({0: "all"}).write(str(source), iter(parts), str(tmp_path / "overlay.mp4"))
    (found,) = decoded(tmp_path / "overlay.mp4").values()
    assert found.shape == (48, 64, 3) and np.ptp(found, axis=(0, 1)).max() <= 3


def test_overlays_are_shown_at_the_times_of_the_source(tmp_path):
    """Less that of its first frame, which has no mask here; and each one until the next."""
    source = make(tmp_path / "late.mp4", 4, times=[500, 540, 800, 1400])
    rows, mask = rows_of(source), np.zeros((48, 64), np.uint8)
    assert [row["seconds"] for row in rows] == [0.5, 0.54, 0.8, 1.4]
    parts = [SourcePart({"frame": row["frame"], "seconds": row["seconds"]}, mask) for row in rows[1:]]
    Video({0: "all"}).write(str(source), iter(parts), str(tmp_path / "overlay.mp4"))
    assert [*decoded(tmp_path / "overlay.mp4")] == pytest.approx([0.04, 0.3, 0.9])
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        lasts = [float(packet.duration * packet.time_base) for packet in container.demux(video=0) if packet.size]
    assert lasts == pytest.approx([0.26, 0.6, 0.6])


def test_a_video_in_a_store_of_objects(clip, object_store):
    store, options = object_store
    store.create_dir("videos")
    with store.open_output_stream("videos/a clip.mp4") as file:
        file.write(clip.read_bytes())
    rows = rows_of(f"s3://nobody:top%2Fsecret@videos/a clip.mp4{options}", every=13)
    assert rows[1]["path"] == "s3://videos/a%20clip.mp4" and rows[1]["key"] == "s3://videos/a%20clip.mp4#frame=13"
    expected = [*decoded(clip).values()]
    for row in reversed(rows):
        np.testing.assert_array_equal(to_rgb(row["image"]), expected[row["frame"]])
    with pytest.raises(ImageError) as raised:
        to_rgb({**rows[0]["image"], "path": rows[0]["image"]["path"].replace("clip", "other")})
    assert "secret" not in str(raised.value)
