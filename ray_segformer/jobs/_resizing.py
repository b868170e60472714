"""What a checkpoint's preprocessing keeps of an image of some size."""

from __future__ import annotations

from dataclasses import dataclass

from ray_segformer.pretrained import ImageSettings

# An aspect ratio that changes by so much is a finding. ADE20K's images of 4:3, as squares, change by 1.33.
SQUASHED = 2.0
# So is a side of which less is kept. SegFormer's logits have a quarter of the resolution of its input, so each of them
# stands for more than 32 pixels of such a side.
SHRUNK = 1 / 8


@dataclass(frozen=True)
class Kept:
    """What is kept of an image.

    Attributes:
        height, width: of the image.
        resized_height, resized_width: of the network's input.
        rows, columns: the shares of the image's rows and columns that the input has, at most 1.
        aspect_change: the factor, at least 1, by which the aspect ratio changes.
    """

    height: int
    width: int
    resized_height: int
    resized_width: int
    rows: float
    columns: float
    aspect_change: float

    @property
    def least(self) -> float:
        """The smaller one of `rows` and `columns`."""
        return min(self.rows, self.columns)

    @property
    def is_squashed(self) -> bool:
        """Whether the aspect ratio changes by a factor of 2 or more."""
        return self.aspect_change >= SQUASHED

    @property
    def is_shrunk(self) -> bool:
        """Whether less than an eighth of the rows or of the columns is kept."""
        return self.least < SHRUNK

    def __str__(self) -> str:
        if (self.height, self.width) == (self.resized_height, self.resized_width):
            return f"{self.height} x {self.width} stays as it is"
        aspect = f", and changes the aspect ratio by {self.aspect_change:.1f}" if self.aspect_change >= 1.05 else ""
        return (
            f"{self.height} x {self.width} becomes {self.resized_height} x {self.resized_width}, which keeps "
            f"{self.rows:.0%} of the rows and {self.columns:.0%} of the columns{aspect}"
        )


def kept_of(settings: ImageSettings, height: int, width: int) -> Kept:
    """Return what the settings keep of an image of a size in pixels."""
    resized_height, resized_width = settings.resized(height, width) if settings.do_resize else (height, width)
    rows, columns = resized_height / height, resized_width / width
    change = max(rows, columns) / min(rows, columns)
    return Kept(height, width, resized_height, resized_width, min(1.0, rows), min(1.0, columns), change)
