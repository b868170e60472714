"""Roads, along the view or across it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ray_segformer.demo._classes import ROAD
from ray_segformer.demo._stage import UP, Colour, Stage, mix

FARTHEST = 220.0  # metres: how far a road along the view is drawn


@dataclass(frozen=True)
class Road:
    """A road. Its `direction` is "along" (away from the camera) or "across" (from left to right).

    A road along the view follows `centre(z)`, which `offset`, `slope` and `bend` define. A road across the view lies
    between the depths `near` and `far`. Lengths are metres.
    """

    direction: str
    half_width: float
    offset: float = 0.0
    slope: float = 0.0
    bend: float = 0.0
    near: float = 0.0
    far: float = 0.0

    def centre(self, z: float) -> float:
        """Return the x of the middle of a road along the view, at depth `z`."""
        return self.offset + self.slope * z + self.bend * z * z / 100


def draw_road(stage: Stage, road: Road, rng: np.random.Generator) -> None:
    """Draw asphalt with kerbs and lane markings."""
    tone = rng.uniform(78, 118)
    asphalt = (tone, tone * 1.0, tone * rng.uniform(1.0, 1.06))
    kerb = (196, 192, 186) if rng.random() < 0.7 else (150, 142, 132)
    paint = (236, 236, 230) if rng.random() < 0.75 else (240, 204, 96)
    middle = str(rng.choice(["dashed", "double", "none"], p=[0.65, 0.2, 0.15]))
    edge_lines = rng.random() < 0.5
    if road.direction == "along":
        depths = np.geomspace(max(1.0, stage.camera.nearest_ground * 0.8), FARTHEST, 26)
        runs = [(float(a), float(b)) for a, b in itertools.pairwise(depths)]
    else:
        reach = stage.camera.half_width(road.far) * 1.1
        runs = [(-reach, reach)]
    half = road.half_width

    def strip(start: float, end: float, left: float, right: float, colour: Colour, paints: bool) -> None:
        """Fill the part from `start` to `end` along the road and from `left` to `right` of its middle, in metres.

        With `paints` only the picture changes, not the mask.
        """
        if road.direction == "along":
            corners = [
                (road.centre(start) + left, start),
                (road.centre(start) + right, start),
                (road.centre(end) + right, end),
                (road.centre(end) + left, end),
            ]
        else:
            middle_z = (road.near + road.far) / 2
            corners = [
                (start, middle_z + left),
                (end, middle_z + left),
                (end, middle_z + right),
                (start, middle_z + right),
            ]
        depth = sum(z for _, z in corners) / 4
        shaded = stage.light.shade(colour, UP, depth)
        stage.world_polygon([(x, 0.0, z) for x, z in corners], shaded, None if paints else ROAD)

    for start, end in runs:
        strip(start, end, -half - 0.35, half + 0.35, kerb, False)
        strip(start, end, -half, half, asphalt, False)
        # Two darker tracks in each lane, worn by wheels.
        for track in (-0.72, -0.28, 0.28, 0.72):
            strip(
                start,
                end,
                (track - 0.08) * half,
                (track + 0.08) * half,
                mix(asphalt, (60, 60, 62), 0.22),
                True,
            )
        if edge_lines:
            strip(start, end, -half * 0.93, -half * 0.93 + 0.13, paint, True)
            strip(start, end, half * 0.93 - 0.13, half * 0.93, paint, True)
        if middle == "double":
            strip(start, end, -0.22, -0.08, paint, True)
            strip(start, end, 0.08, 0.22, paint, True)
    if middle == "dashed":
        first, last = (runs[0][0], 90.0) if road.direction == "along" else runs[0]
        for dash in np.arange(first - rng.uniform(0, 6), last, 6.0):
            strip(max(float(dash), first), max(float(dash), first) + 2.8, -0.09, 0.09, paint, True)
