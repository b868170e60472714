"""Videos of overlays: the frames of a video with their masks drawn over them, at the times of the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.exports._export_format import ExportError
from ray_segformer.exports._source_format import SourceFormat, SourcePart
from ray_segformer.images import MAX_PIXELS, NO_PYAV, ImageError, frames_in, public_uri, to_rgb
from ray_segformer.viz import class_palette, overlay

_CODEC = "libx264"
_OPTIONS = {"preset": "veryfast", "crf": "20", "bf": "0"}  # without B-frames, MP4 holds how long the last frame lasts
_TICKS = 90_000  # in a second: the times of common frame rates are whole numbers of them, or nearly
_SECONDS = 0.04  # that a frame without a next one lasts


class Video(SourceFormat):
    """An H.264 video in MP4 for each video, without sound. It plays in browsers.

    A frame is shown when it is in the source, less the time of the source's first frame, and until the next one with a
    mask. An odd side gets a pixel more. Needs PyAV.

    See `SourceFormat`.
    """

    suffix = ".mp4"
    kind = "videos"
    columns = ("frame", "seconds")

    def __init__(self, id2label: Mapping[int, str]) -> None:
        super().__init__(id2label)
        try:
            import av

            av.Codec(_CODEC, "w")
        except ImportError as error:
            raise ExportError(f"{NO_PYAV} ({error})") from error
        except ValueError as error:
            raise ExportError(f"the format video needs a PyAV with the encoder {_CODEC}, as that of PyPI is") from error
        self._palette = class_palette(self.id2label)

    def write(self, source: str, parts: Iterator[SourcePart], path: str) -> None:
        """See `SourceFormat`."""
        import av

        pictures = self._pictures(source, parts)
        ticks, picture = next(pictures)
        height, width = (side + side % 2 for side in picture.shape[:2])
        with av.open(path, "w", options={"movflags": "faststart"}) as container:
            stream: Any = container.add_stream(_CODEC, options=_OPTIONS)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            stream.codec_context.flags |= av.codec.context.Flags.frame_duration.value
            stream.codec_context.thread_count = 1  # that the task reserves
            for tag in ("colorspace", "color_primaries", "color_trc", "color_range"):
                setattr(stream.codec_context, tag, 1)  # BT.709, and the limited range
            lasts = round(_SECONDS * _TICKS)
            for following in pictures:
                lasts = following[0] - ticks
                container.mux(stream.encode(_frame(picture, (height, width), ticks, lasts)))
                ticks, picture = following
            container.mux(stream.encode(_frame(picture, (height, width), ticks, lasts)))
            container.mux(stream.encode(None))

    def _pictures(self, source: str, parts: Iterator[SourcePart]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield the time and the overlay of each frame that has a mask."""
        frames = frames_in(source)
        first: float | None = None
        for part in parts:
            seconds: float = part.place["seconds"]
            for frame in frames:
                first = frame.seconds if first is None else first
                if frame.seconds == seconds or frame.error is not None:
                    break
            else:
                raise ExportError(f"{public_uri(source)}: there is no frame at {seconds:.3f} seconds any more")
            try:
                image = to_rgb({"path": source, **frame._asdict()}, max(MAX_PIXELS, part.mask.size))
                picture = overlay(image, part.mask, self._palette)
            except (ImageError, ValueError) as error:
                raise ExportError(f"{public_uri(source)}: {error}; is it the video that was segmented?") from error
            yield round((seconds - (first or 0)) * _TICKS), picture


def _frame(picture: npt.NDArray[np.uint8], size: tuple[int, int], ticks: int, lasts: int) -> Any:
    """Return a picture as a frame of a size, which is even. An odd side gets its last row or column twice."""
    import av

    height, width, _ = picture.shape
    picture = np.pad(picture, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        width=size[1], height=size[0], format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", threads=1
    )
    frame.pts, frame.duration, frame.time_base = ticks, lasts, Fraction(1, _TICKS)
    return frame
