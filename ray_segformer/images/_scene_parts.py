"""Parts of scenes: how the bands of a scene become colours, which pixels are read, and which are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Area:
    """A rectangle of a scene, in pixels: the upper left corner, and the size."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Bands:
    """How the bands of a scene become red, green and blue.

    Attributes:
        numbers: the three bands, or the one that is grey, from 1.
        low, high: the values that become 0 and 255. None, for bands of uint8 alone: values stay.
        percentile: whether `low` and `high` are percentiles of the values of each band in the whole scene.

    Raises:
        ValueError: the numbers or the range have no meaning.
    """

    numbers: tuple[int, ...] = (1, 2, 3)
    low: float | None = None
    high: float | None = None
    percentile: bool = False

    def __post_init__(self) -> None:
        own = {"low": self.low, "high": self.high, "percentile": self.percentile}
        for name, value in own.items():  # rows and summaries are JSON, which holds Python's numbers
            object.__setattr__(self, name, value.item() if isinstance(value, np.generic) else value)
        numbers = (n.item() if isinstance(n, np.generic) else n for n in self.numbers)
        object.__setattr__(self, "numbers", tuple(numbers))
        given = ",".join(map(str, self.numbers))
        if len(self.numbers) not in (1, 3) or not all(isinstance(n, int) and n >= 1 for n in self.numbers):
            raise ValueError(f"bands (--bands) are three numbers from 1, or one, not {given}")
        if (self.low is None) != (self.high is None) or (self.percentile and self.low is None):
            raise ValueError(f"range (--range) is two values, low and high, not {self.low} and {self.high}")
        if self.low is not None and self.high is not None:
            limits = (0, 100) if self.percentile else (-np.inf, np.inf)
            if not limits[0] <= self.low < self.high <= limits[1]:
                what = "percentiles in [0, 100]" if self.percentile else "values"
                raise ValueError(f"range (--range) is two {what}, the lower one first, not {self.low} {self.high}")

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Bands:
        """Return what `as_json` returned."""
        return cls(**{**json, "numbers": tuple(json["numbers"])})

    def as_json(self) -> dict[str, Any]:
        """Return the attributes as JSON has them."""
        return {**asdict(self), "numbers": list(self.numbers)}


@dataclass(frozen=True)
class ScenePart:
    """A part of a scene, as it is read and as it is kept.

    Attributes:
        path: the path or URI of the file.
        bands: what is read.
        area: the pixels that the network sees: the part, and what the windows over its edges see beyond them.
        core: the pixels whose classes are kept.
    """

    path: str
    bands: Bands
    area: Area
    core: Area

    @classmethod
    def of(cls, cell: Any) -> ScenePart | None:
        """Return the part of a cell; None if the cell is another."""
        if not isinstance(cell, Mapping) or "core" not in cell:
            return None
        bands = Bands(tuple(int(number) for number in cell["bands"]), cell["low"], cell["high"], cell["percentile"])
        area, core = (Area(*map(int, cell[name])) for name in ("area", "core"))
        return cls(cell["path"], bands, area, core)

    def as_cell(self) -> dict[str, Any]:
        """Return the part as an image cell, of the type `SCENE_CELL`."""
        bands = self.bands
        return {
            "path": self.path,
            "bands": list(bands.numbers),
            "low": bands.low,
            "high": bands.high,
            "percentile": bands.percentile,
            "area": [self.area.row, self.area.column, self.area.height, self.area.width],
            "core": [self.core.row, self.core.column, self.core.height, self.core.width],
        }

    def in_area(self) -> tuple[slice, slice]:
        """Return where the core is in an array of the area."""
        row, column = self.core.row - self.area.row, self.core.column - self.area.column
        return slice(row, row + self.core.height), slice(column, column + self.core.width)


SCENE_CELL = pa.struct(
    [
        ("path", pa.string()),
        ("bands", pa.list_(pa.int32())),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("percentile", pa.bool_()),
        ("area", pa.list_(pa.int32())),
        ("core", pa.list_(pa.int32())),
    ]
)
"""The type of a `ScenePart` as an image cell."""
