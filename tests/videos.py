"""Small videos made by PyAV, and their frames as PyAV decodes them one after another."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

Frames = dict[float, np.ndarray]


def scene(number: int, size: tuple[int, int]) -> np.ndarray:
    """An RGB picture `(*size, 3)` of a smooth gradient and a red square, which move with the number."""
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.stack([(3 * x + 5 * number) % 256, (2 * y + 7 * number) % 256, (x + y + number) % 256], axis=-1)
    picture[5:15, 2 * number % 30 :][:, :10] = (255, 0, 0)
    return picture.astype(np.uint8)


def make(
    path: Path,
    frames: int = 40,
    size: tuple[int, int] = (48, 64),
    *,
    codec: str = "libx264",
    gop: int = 12,
    times: Any = None,
    options: dict[str, str] | None = None,
    first: int = 0,
    picture: Any = None,
) -> Path:
    """Write a video of 10 frames a second, with B-frames where the codec has some.

    Args:
        path: the file, whose suffix says the container.
        frames: the number of frames.
        size: height and width.
        codec: the name of the encoder.
        gop: the most frames from one key frame to the next.
        times: the times of frames in milliseconds. Default: those of 10 frames a second.
        options: of the encoder.
        first: the number of the first scene.
        picture: makes the picture of a number and a size. Default: `scene`.
    """
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, 2
        stream.codec_context.time_base = Fraction(1, 10 if times is None else 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray((picture or scene)(first + number, size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy(source: Path, path: Path, later: int = 0, *, then: Path | None = None, **options: str) -> Path:
    """Write the packets of a video into another file, all later by some units of time.

    Args:
        source, path: the files.
        later: units of time.
        then: a video of two seconds later, whose packets follow.
        options: of the container.
    """
    with av.open(str(path), "w", options=options) as written:
        stream = None
        for part, shift in ((source, later), *([] if then is None else [(then, 2 * 90000)])):
            with av.open(str(part)) as read:
                stream = stream or written.add_stream_from_template(read.streams.video[0])
                for packet in read.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        written.mux(packet)
    return path


def turned(source: Path, path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Write an MP4 file with another display matrix: how much of x and of y is across and down on the screen."""
    content = bytearray(source.read_bytes())
    place = content.index(b"tkhd") + 44
    across_of_x, down_of_x, across_of_y, down_of_y = matrix
    numbers = [across_of_x, down_of_x, 0, across_of_y, down_of_y, 0, 0, 0, 2**14]
    content[place : place + 36] = np.array([round(65536 * number) for number in numbers], ">i4").tobytes()
    path.write_bytes(content)
    return path


def decoded(path: Path) -> Frames:
    """The RGB frames of a video by their times, in order. They are not turned."""
    with av.open(str(path)) as container:
        return {
            float(frame.pts * frame.time_base): frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)
        }
