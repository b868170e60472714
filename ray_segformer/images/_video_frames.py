"""Frames of videos: the cell `{"path", "seconds", "start", "error"}`, and how it becomes an RGB array.

Frames are those that FFmpeg decodes one after another. Its swscale converts them to RGB, by the colour space and range
that the video names; without a name, by BT.601 and limited range. Ten bits become eight, and tones of HDR stay as they
are. The rotation of phones' videos is applied, as EXIF is. Pixels that are not square, and interlaced lines, stay, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_segformer.images._encoded import check_size
from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._files import local_path
from ray_segformer.images._header import Header
from ray_segformer.images._video_file import REORDERED, VideoFile, start_of

FRAME_CELL = pa.struct(
    [("path", pa.string()), ("seconds", pa.float64()), ("start", pa.float64()), ("error", pa.string())]
)
"""The type of a frame as an image cell."""

_NEAR = 2.0  # seconds: to read up to a key frame this near is faster than to seek
_FURTHER_BACK = 10.0  # seconds: after some key frames, the picture is refreshed in parts (intra refresh)
_KEPT = 8  # frames that were decoded last: threads do not ask for them in order

_lock = threading.Lock()
_last: list[tuple[Any, _Decoder]] = []  # the video that this process decoded last


def is_frame(cell: Any) -> bool:
    """Return whether a cell is a frame of a video."""
    return isinstance(cell, Mapping) and "seconds" in cell


def frame_to_rgb(cell: Mapping[str, Any], max_pixels: int) -> npt.NDArray[np.uint8]:
    """Return a frame as an RGB array; see `to_rgb`.

    The video stays open until this process decodes another one, so that the next frame is decoded on from this one.
    """
    with _lock, as_image_error("decode the video"):
        frame, decoder = _decoded(cell, max_pixels)
        return _upright(decoder.to_rgb(frame), frame)


def frame_header(cell: Mapping[str, Any], max_pixels: int) -> Header:
    """Return what a video says of a frame; see `read_header`. Its format is the codec, and its mode FFmpeg's."""
    with _lock, as_image_error("decode the video"):
        frame, decoder = _decoded(cell, max_pixels)
        matrix = _matrix(frame)
        height, width = (frame.width, frame.height) if matrix[0, 0] == 0 else (frame.height, frame.width)
        return Header(
            format=decoder.codec.upper(),
            mode=frame.format.name,
            height=height,
            width=width,
            exif_rotated=not np.array_equal(matrix, np.eye(2)),
            deep=frame.format.components[0].bits > 8,
            several_frames=False,
            lossy=decoder.codec,
        )


def _decoded(cell: Mapping[str, Any], max_pixels: int) -> tuple[Any, _Decoder]:
    """Return a frame as PyAV has it, and what decoded it."""
    if cell["error"] is not None:
        raise ImageError(cell["error"])
    path = local_path(cell["path"])
    with as_image_error("read the file"):
        status = None if "://" in path else os.stat(path)
    key = (path, max_pixels, status and (status.st_size, status.st_mtime_ns))  # the file may have been replaced
    if not _last or _last[0][0] != key:
        while _last:
            _last.pop()[1].close()
        _last.append((key, _Decoder(cell["path"], max_pixels)))
    decoder = _last[0][1]
    return decoder.frame(cell["seconds"], cell["start"]), decoder


class _Decoder:
    """An open video, whose frames are decoded in order from some key frame on. Not for several threads at a time."""

    def __init__(self, path: str, max_pixels: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._max_pixels = path, max_pixels
        self._reformatter = VideoReformatter()
        self._file = VideoFile(path, max_pixels)
        self._packets = self._file.packets()
        self._has_ended = False
        self._began = self._place = 0  # where decoding began, or would have; and the frame that was passed last
        self._keys: deque[int] = deque(maxlen=REORDERED)  # the key frames that were decoded last
        self._ready: deque[Any] = deque()  # frames that are decoded, and not asked for yet
        self._passed: deque[Any] = deque(maxlen=_KEPT)  # the last ones before these
        self._damaged: dict[int, int] = {}  # by key frame: the first frame that is damaged before the next one

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return str(self._file.stream.codec_context.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def to_rgb(self, frame: Any) -> npt.NDArray[np.uint8]:
        """Return a frame as an RGB array, which is not turned yet, and which belongs to PyAV."""
        return np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())

    def frame(self, seconds: float, start_seconds: float) -> Any:
        """Return a frame.

        Args:
            seconds: when it is shown.
            start_seconds: the time of the key frame from which it can be decoded.

        Raises:
            ImageError: the video is damaged there, or has no such frame, or a larger one than `max_pixels`.
        """
        pts, start = self._file.pts(seconds), self._file.pts(start_seconds)
        try:
            frame = self._found(pts, start)
        except BaseException:
            self._forget()  # the position in the file is unknown after an error
            raise
        if self._damaged.get(start, pts + 1) <= pts:
            since = self._file.seconds(self._damaged[start])
            raise ImageError(
                f"cannot decode: the video is damaged from {since:.3f} seconds on, up to its next key frame"
            )
        if frame is None:
            raise ImageError(f"cannot decode: there is no frame at {seconds:.3f} seconds")
        check_size(frame.width, frame.height, self._max_pixels)
        return frame

    def _found(self, pts: int, start: int) -> Any:
        """Return a frame; None if it is not there, or damaged."""
        frame = next((frame for frame in self._passed if frame.pts == pts), None)
        if frame is None:
            is_ahead = bool(self._keys) and start <= self._keys[-1] and pts >= self._place
            if not is_ahead:
                self._begin(start)
            frame = self._next(pts)
        further = start - self._file.pts(_FURTHER_BACK)
        if frame is None and start not in self._damaged and self._began > further:
            self._seek(further)
            self._decode_from(self._find(None))
            self._began = further
            frame = self._next(pts)
        return frame

    def _next(self, pts: int) -> Any:
        """Decode on up to a frame, and return it; None if it is not there."""
        while True:
            while self._ready and self._ready[0].pts <= pts:
                self._passed.append(self._ready.popleft())
                self._place = self._passed[-1].pts
                if self._place == pts:
                    return self._passed[-1]
            if self._ready or self._has_ended:
                return None
            self._decode(next(self._packets, None))

    def _begin(self, start: int) -> None:
        """Decode the key frame of a time.

        Raises:
            ImageError: it is not there.
        """
        here = self._keys[-1] if self._keys else self._file.stream.start_time or 0
        packet = self._find(start) if 0 <= start - here <= self._file.pts(_NEAR) else None
        place, step = start, self._file.pts(1.0)
        while packet is None:
            from_top = self._seek(place)
            packet = self._find(start)
            if packet is None and from_top:
                raise ImageError(f"cannot decode: there is no key frame at {self._file.seconds(start):.3f} seconds")
            place, step = place - step, 2 * step
        self._decode_from(packet)
        self._began = start

    def _seek(self, place: int) -> bool:
        """Go to a place near a time, or to the top of the file if it is before that. Return whether it is the top."""
        from av.error import FFmpegError

        first = self._file.stream.start_time
        if first is not None and place > first:
            with contextlib.suppress(FFmpegError):
                self._file.container.seek(place, stream=self._file.stream)
                self._packets = self._file.packets()
                return False
        file = VideoFile(self._path, self._max_pixels)
        self._file.close()
        self._file, self._packets = file, file.packets()
        return True

    def _forget(self) -> None:
        """Forget what was decoded."""
        self._has_ended = False
        self._began = self._place = 0
        self._keys.clear()
        self._ready.clear()
        self._passed.clear()
        self._damaged.clear()

    def _find(self, start: int | None) -> Any:
        """Read over packets up to that of a key frame, and return it; None if it is not ahead.

        Args:
            start: its time; None for any key frame.
        """
        keys = (packet for packet in self._packets if packet.is_keyframe)
        packet = next(keys if start is None else (packet for packet in keys if packet.pts >= start), None)
        return packet if packet is None or start is None or packet.pts == start else None

    def _decode_from(self, packet: Any) -> None:
        """Decode a key frame, after others than the last ones."""
        self._file.stream.codec_context.flush_buffers()
        self._forget()
        if packet is not None:
            self._place = packet.pts
            self._decode(packet)

    def _decode(self, packet: Any) -> None:
        """Decode a packet, whose frame may come later; None after the last one.

        What refers to a damaged picture is damaged, too, and no decoder tells it: all that follows in the file, up to
        the next key frame.
        """
        from av.error import FFmpegError

        if packet is None:
            self._has_ended = True
        elif packet.is_keyframe:
            self._keys.append(packet.pts)
        is_damaged = packet is not None and (packet.is_corrupt or self._keys[-1] in self._damaged)
        frames = []
        try:
            frames = self._file.stream.codec_context.decode(packet)
        except FFmpegError:
            is_damaged = packet is not None
        if is_damaged:
            self._damage(packet.pts, self._keys[-1])
            self._damage(packet.pts, start_of(packet.pts, self._keys))
        for frame in frames:
            if frame.pts is not None:
                self._ready.append(frame)
                if frame.is_corrupt:
                    self._damage(frame.pts, start_of(frame.pts, self._keys))

    def _damage(self, pts: int, key: int | None) -> None:
        """Note that all is damaged from a time on, up to the key frame that follows a key frame."""
        if key is not None:
            self._damaged[key] = min(pts, self._damaged.get(key, pts))


def _matrix(frame: Any) -> npt.NDArray[np.int64]:
    """Return how a frame is turned or mirrored: the signs of x and y on the screen (columns) for x and y (rows).

    Raises:
        ImageError: it is turned by another angle than 90, 180 or 270 degrees.
    """
    content = frame.side_data.get("DISPLAYMATRIX")
    if content is None:
        return np.eye(2, dtype=np.int64)
    numbers = np.frombuffer(content, np.int32).astype(np.int64).reshape(3, 3)[:2, :2]
    signs = np.sign(numbers)
    if abs(signs).sum() != 2 or not abs(signs).any(0).all() or not abs(signs).any(1).all():
        raise ImageError("cannot decode: the video is turned by another angle than 90, 180 or 270 degrees")
    return signs


def _upright(rgb: npt.NDArray[np.uint8], frame: Any) -> npt.NDArray[np.uint8]:
    """Return a frame as it is shown: turned and mirrored as its matrix says."""
    matrix = _matrix(frame)
    if matrix[0, 0] == 0:
        rgb = rgb.transpose(1, 0, 2)
    across, down = matrix.sum(0)  # one of the numbers of each column is 0
    return rgb[:: int(down), :: int(across)].copy()
