"""Video files: opened by PyAV (the extra `video`), and their frames found without decoding them.

FFmpeg gets an open file, never a path, and may use a few demuxers only: others open files and addresses that a file
names (playlists, HLS, concat).
"""

from __future__ import annotations

import heapq
import re
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from ray_segformer.images._encoded import MAX_PIXELS, check_size
from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._files import open_file

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi"),
        *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
    )
)
"""The suffixes of the files that count as videos."""

NO_PYAV = 'videos need PyAV: pip install "ray_segformer[video]"'
"""The message where PyAV is not installed."""

# FFmpeg's names of the demuxers of these. None of them reads other files than the one that it is given.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg"
_CONTAINERS = "MP4, MOV, 3GP, Matroska, WebM, AVI, MPEG-TS or MPEG-PS"

_BUFFER_BYTES = 2**20  # read at once: each read of an object store is a request
REORDERED = 64  # frames: more than any codec decodes before the one that is shown next
_BACK = 1.0  # seconds that decoding timestamps (DTS) may go back
_ALIGNED_PIXELS = 2**23  # that decoders add, since they make sides longer
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


class FrameTime(NamedTuple):
    """A frame of a video, before it is decoded.

    Attributes:
        seconds: when it is shown, as the file says it; None if there is no such frame, but an error.
        start: the time of the key frame from which it can be decoded.
        error: why the rest of the video cannot be read; None for a frame.
    """

    seconds: float | None
    start: float | None
    error: str | None = None


def frames_in(path: str) -> Iterator[FrameTime]:
    """Yield the frames of a video in the order in which they are shown. They are not decoded.

    Frames before the first key frame are left out, since nothing can decode them. So are those that an edit list hides.
    A video that cannot be read, or not to its end, ends with an error.

    Args:
        path: a path or a URI.
    """
    try:
        with VideoFile(path) as video:
            yield from _frames(video)
    except ImageError as error:
        yield FrameTime(None, None, str(error))


class VideoFile:
    """An open video file, of which the first video stream counts. It is to be closed.

    Args:
        path: a path or a URI.
        max_pixels: refuse a video of larger frames.

    Attributes:
        container, stream: PyAV's.

    Raises:
        ImageError: it cannot be read, has no video, or larger frames; or PyAV is not installed.
    """

    def __init__(self, path: str, max_pixels: int = MAX_PIXELS) -> None:
        av = _pyav()
        limit = {"max_pixels": str(max_pixels + _ALIGNED_PIXELS)}  # a file may have larger frames than it says
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "", **limit}
        self._file = open_file(path)
        try:
            with as_image_error("decode the video"):
                if not self._file.read(1):
                    raise ImageError("empty: 0 bytes")
                self._file.seek(0)
                try:
                    self.container: Any = av.open(
                        self._file, options=options, metadata_errors="ignore", buffer_size=_BUFFER_BYTES
                    )
                except av.error.FFmpegError as error:
                    raise ImageError(
                        f"cannot decode: not a video in {_CONTAINERS}, or a damaged one: {error.strerror}"
                    ) from error
            self.stream = _video_of(self.container)
            check_size(self.stream.width, self.stream.height, max_pixels)
            self.stream.codec_context.options = limit
            self.stream.thread_count = 1  # the tasks of a job are side by side already
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.container.close()
        self._file.close()

    def packets(self) -> Iterator[Any]:
        """Yield the packets of the video, each of which holds a frame, in the order in which they are decoded.

        Raises:
            ImageError: the file cannot be read, or a packet has no time.
        """
        with as_image_error("decode the video"):
            for packet in self.container.demux(self.stream):
                if packet.size and packet.pts is None:
                    raise ImageError("cannot decode: a frame has no time; encode the video again, as MP4")
                if packet.size:  # PyAV ends with an empty one
                    yield packet

    def seconds(self, pts: int) -> float:
        """Return a time in seconds."""
        return float(pts * self.stream.time_base)

    def pts(self, seconds: float) -> int:
        """Return a time in the file's unit. It is the one that `seconds` was given."""
        pts: int = round(Fraction(seconds) / self.stream.time_base)
        return pts


def start_of(pts: int, keys: Iterable[int]) -> int | None:
    """Return the key frame from which a frame can be decoded, among those before it in the file; None if none is there.

    A frame that is shown before the last key frame needs the one before that, too.
    """
    return next((key for key in reversed([*keys]) if key <= pts), None)


def _frames(video: VideoFile) -> Iterator[FrameTime]:
    codec = video.stream.codec_context
    if video.container.format.name == "avi" and codec.has_b_frames and codec.name in ("h264", "hevc"):
        raise ImageError(
            f"cannot decode: AVI has no times, which {codec.name} with B-frames needs; encode the video again, as MP4"
        )
    keys: deque[int] = deque(maxlen=REORDERED)
    waiting: list[tuple[int, int]] = []
    shown: list[int] = []  # the last two frames that were yielded
    count, decoded, why, packet = 0, -(2**63), None, None
    for packet in video.packets():
        goes_back = packet.dts is not None and packet.dts < decoded - video.pts(_BACK)
        if goes_back or (shown and packet.pts < shown[-1]):
            why = f"the times of its frames go back to {video.seconds(packet.pts):.3f} seconds; cut the video there"
            break
        count, decoded = count + 1, decoded if packet.dts is None else packet.dts
        if packet.is_keyframe:
            keys.append(packet.pts)
        start = start_of(packet.pts, keys)
        if start is not None and not packet.is_discard:
            heapq.heappush(waiting, (packet.pts, start))
        if len(waiting) > REORDERED:
            yield from _shown(video, heapq.heappop(waiting), shown)
    if why is None and packet is not None and packet.is_corrupt:
        why = "the file is cut off"
        waiting = [frame for frame in waiting if frame[0] != packet.pts]
    for frame in sorted(waiting):
        yield from _shown(video, frame, shown)
    if not shown:
        raise ImageError("empty: the video has no frames")
    why = why or _missing_end(video, count, shown)
    if why is not None:
        raise ImageError(f"cannot decode: after {video.seconds(shown[-1]):.3f} seconds, {why}")


def _shown(video: VideoFile, frame: tuple[int, int], shown: list[int]) -> Iterator[FrameTime]:
    """Yield a frame, unless its time is that of the one before: then both are halves of a picture."""
    pts, start = frame
    if not shown or pts > shown[-1]:
        shown[:] = [*shown[-1:], pts]
        yield FrameTime(video.seconds(pts), video.seconds(start))


def _missing_end(video: VideoFile, count: int, shown: list[int]) -> str | None:
    """Return what is wrong if a file says that it has more than its `count` frames, of which `shown` are the last."""
    if "mp4" in video.container.format.name and video.stream.frames > count:
        return f"the file is cut off; it says that it has {video.stream.frames} frames"
    duration = _DURATION.fullmatch(video.stream.metadata.get("DURATION", ""))  # of Matroska
    if duration:
        hours, minutes, seconds = map(float, duration.groups())
        says, ends = 3600 * hours + 60 * minutes + seconds, video.seconds(2 * shown[-1] - shown[0])
        if says > ends + 1:
            return f"the file is cut off; it says that it has {says:.3f} seconds"
    return None


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImageError(f"cannot decode: {NO_PYAV} ({error})") from error
    return av


def _video_of(container: Any) -> Any:
    """Return the first video stream that is no cover picture."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise ImageError("cannot decode: PyAV has no decoder for the codec of the video")
            return stream
    others = sorted({stream.type for stream in container.streams})
    raise ImageError("empty: there is no video in the file" + (f", only {' and '.join(others)}" if others else ""))
