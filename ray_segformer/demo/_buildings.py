"""Buildings: boxes with windows, doors and roofs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_segformer.demo._classes import BUILDING
from ray_segformer.demo._stage import Colour, Point, Stage, mix

Corner = tuple[float, float, float]
Normal = tuple[float, float, float]

WALLS: tuple[Colour, ...] = (
    (214, 196, 166),
    (190, 112, 88),
    (226, 222, 212),
    (206, 168, 122),
    (168, 172, 178),
    (232, 204, 150),
    (178, 138, 118),
    (196, 206, 206),
)
ROOFS: tuple[Colour, ...] = ((164, 84, 62), (112, 82, 74), (92, 96, 106), (140, 104, 82))


@dataclass(frozen=True)
class Building:
    """A building on the rectangle x0..x1, z0..z1 (metres), with walls `height` metres tall.

    `roof` is "flat", "gable" (the ridge runs from left to right) or "front" (the ridge runs away from the camera).
    """

    x0: float
    x1: float
    z0: float
    z1: float
    height: float
    wall: Colour
    roof_colour: Colour
    roof: str
    seed: int

    @property
    def z(self) -> float:
        """The depth of the nearest wall."""
        return self.z0

    def shadows(self, stage: Stage) -> list[list[Point]]:
        """Return the shadow on the ground, as polygons on the canvas."""
        camera, light = stage.camera, stage.light
        corners = [(self.x0, self.z0), (self.x1, self.z0), (self.x1, self.z1), (self.x0, self.z1)]
        feet = [camera.project(x, 0, z) for x, z in corners]
        tips = [camera.project(*light.shadow_of(x, self.height, z)) for x, z in corners]
        sides = [[feet[i], feet[i - 1], tips[i - 1], tips[i]] for i in range(4)]
        return [feet, tips, *sides]

    def draw(self, stage: Stage) -> None:
        """Draw the visible side, the front and the roof."""
        rng = np.random.default_rng(self.seed)
        style = _WindowStyle.choose(rng)
        x0, x1, z0, z1 = self.x0, self.x1, self.z0, self.z1
        if self.roof == "gable":
            self._gable_roof(stage)
        if x0 > 0:
            self._face(stage, (x0, 0.0, z1), (x0, 0.0, z0), (-1.0, 0.0, 0.0), style, rng)
        elif x1 < 0:
            self._face(stage, (x1, 0.0, z0), (x1, 0.0, z1), (1.0, 0.0, 0.0), style, rng)
        if self.roof == "front":
            self._front_roof(stage)
        self._face(stage, (x0, 0.0, z0), (x1, 0.0, z0), (0.0, 0.0, -1.0), style, rng)
        if self.roof == "flat":
            self._parapet(stage)

    def _parapet(self, stage: Stage) -> None:
        """Draw the rim of a flat roof."""
        top, lip, out = self.height, 0.06 * self.height, 0.15
        trim = mix(self.wall, (250, 250, 245), 0.35)
        x0, x1, z0, z1 = self.x0 - out, self.x1 + out, self.z0 - out, self.z1
        if x0 > 0 or x1 < 0:
            x, normal = (x0, (-1.0, 0.0, 0.0)) if x0 > 0 else (x1, (1.0, 0.0, 0.0))
            side = [(x, top - lip, z0), (x, top + 0.2, z0), (x, top + 0.2, z1), (x, top - lip, z1)]
            stage.world_polygon(side, stage.light.shade(trim, normal, z0), BUILDING)
        front = [(x0, top - lip, z0), (x0, top + 0.2, z0), (x1, top + 0.2, z0), (x1, top - lip, z0)]
        stage.world_polygon(front, stage.light.shade(trim, (0.0, 0.0, -1.0), z0), BUILDING)

    def _gable_roof(self, stage: Stage) -> None:
        """Draw a roof whose ridge runs from left to right: the near slope and, from the side, a triangle of wall."""
        x0, x1, z0, z1 = self.x0 - 0.3, self.x1 + 0.3, self.z0 - 0.4, self.z1
        eaves, ridge, middle = self.height - 0.1, self.height + 0.42 * (z1 - z0), (z0 + z1) / 2
        slope = [(x0, eaves, z0), (x1, eaves, z0), (x1, ridge, middle), (x0, ridge, middle)]
        stage.world_polygon(slope, stage.light.shade(self.roof_colour, (0.0, 0.76, -0.65), z0), BUILDING)
        rows = 6
        tile = stage.light.shade(mix(self.roof_colour, (40, 30, 30), 0.25), (0.0, 0.76, -0.65), z0)
        for row in range(1, rows):
            share = row / rows
            y, z = eaves + (ridge - eaves) * share, z0 + (middle - z0) * share
            line = [(x0, y, z), (x1, y, z), (x1, y - 0.07, z), (x0, y - 0.07, z)]
            stage.world_polygon(line, tile, None)
        if x0 > 0 or x1 < 0:
            x, normal = (self.x0, (-1.0, 0.0, 0.0)) if x0 > 0 else (self.x1, (1.0, 0.0, 0.0))
            wall = stage.light.shade(self.wall, normal, z0)
            stage.world_polygon([(x, eaves, z0), (x, eaves, 2 * middle - z0), (x, ridge, middle)], wall, BUILDING)
        chimney_x, size = self.x0 + 0.25 * (self.x1 - self.x0), 0.45
        stack = [(chimney_x - size, ridge - 0.9, middle), (chimney_x + size, ridge - 0.9, middle)]
        stack += [(chimney_x + size, ridge + 0.9, middle), (chimney_x - size, ridge + 0.9, middle)]
        stage.world_polygon(stack, stage.light.shade((150, 92, 76), (0.0, 0.0, -1.0), z0), BUILDING)

    def _front_roof(self, stage: Stage) -> None:
        """Draw a roof whose ridge runs away from the camera: one slope and the triangle of wall at the front."""
        x0, x1, z0, z1 = self.x0 - 0.4, self.x1 + 0.4, self.z0 - 0.3, self.z1
        middle = (x0 + x1) / 2
        eaves, ridge = self.height - 0.1, self.height + 0.4 * (x1 - x0)
        slope_x, across = (x0, -0.65) if middle > 0 else (x1, 0.65)
        slope = [(slope_x, eaves, z0), (slope_x, eaves, z1), (middle, ridge, z1), (middle, ridge, z0)]
        stage.world_polygon(slope, stage.light.shade(self.roof_colour, (across, 0.76, 0.0), z0), BUILDING)
        edge = [(x0, eaves, z0), (middle, ridge, z0), (x1, eaves, z0)]
        stage.world_polygon(edge, stage.light.shade(self.roof_colour, (0.0, 0.0, -1.0), z0), BUILDING)
        wall = stage.light.shade(self.wall, (0.0, 0.0, -1.0), z0)
        gable = [(self.x0, eaves - 0.1, z0), (middle, ridge - 0.45, z0), (self.x1, eaves - 0.1, z0)]
        stage.world_polygon(gable, wall, BUILDING)

    def _face(
        self,
        stage: Stage,
        start: Corner,
        end: Corner,
        normal: Normal,
        style: _WindowStyle,
        rng: np.random.Generator,
    ) -> None:
        """Draw a wall from `start` (left) to `end` (right), with windows and perhaps a door."""
        depth = min(start[2], end[2])
        length = abs(end[0] - start[0]) + abs(end[2] - start[2])
        light = stage.light

        def patch(left: float, right: float, low: float, high: float, colour: Colour, wall: bool = False) -> None:
            """Fill a rectangle of the wall, in metres along it and above the ground."""
            corners = []
            for along, y in ((left, low), (right, low), (right, high), (left, high)):
                share = along / length
                x, z = start[0] + (end[0] - start[0]) * share, start[2] + (end[2] - start[2]) * share
                corners.append((x, y, z))
            stage.world_polygon(corners, colour, BUILDING if wall else None)

        patch(0, length, 0, self.height, light.shade(self.wall, normal, depth), wall=True)
        plinth = light.shade(mix(self.wall, (96, 92, 90), 0.5), normal, depth)
        patch(0, length, 0, 0.55, plinth)
        floors = max(1, int(self.height / style.storey))
        bays = max(1, int(length / style.bay))
        if style.width * stage.camera.focal / depth < 4:
            return
        storey, bay = self.height / floors, length / bays
        frame = light.shade(mix(self.wall, style.frame, 0.7), normal, depth)
        glass = light.shade(mix((58, 72, 88), light.sky_low, 0.22), normal, depth)
        gleam = mix(glass, light.sky_low, 0.3)
        door_bay = int(rng.integers(bays)) if normal[2] < 0 else -1
        shining = rng.random((floors, bays)) < (0.5 if light.lamps_lit else 0.03)
        for floor in range(floors):
            if style.band:
                patch(0, length, floor * storey, floor * storey + 0.14, frame)
            for number in range(bays):
                middle = (number + 0.5) * bay
                half = min(style.width / 2, bay * 0.42)
                if floor == 0 and number == door_bay:
                    patch(middle - 0.75, middle + 0.75, 0, 2.5, frame)
                    patch(middle - 0.6, middle + 0.6, 0, 2.35, light.shade(style.door, normal, depth))
                    continue
                low = floor * storey + storey * 0.3
                high = min(low + style.tall, (floor + 1) * storey - 0.25)
                patch(middle - half - 0.12, middle + half + 0.12, low - 0.16, high + 0.1, frame)
                pane = (255, 214, 130) if shining[floor, number] else glass
                patch(middle - half, middle + half, low, high, pane)
                if not shining[floor, number]:
                    patch(middle - half, middle, low + (high - low) * 0.45, high, gleam)
                if style.cross:
                    patch(middle - 0.04, middle + 0.04, low, high, frame)


@dataclass(frozen=True)
class _WindowStyle:
    """How the windows and doors of a building look; lengths are metres."""

    storey: float
    bay: float
    width: float
    tall: float
    frame: Colour
    door: Colour
    cross: bool
    band: bool

    @classmethod
    def choose(cls, rng: np.random.Generator) -> _WindowStyle:
        """Choose a random style."""
        bay = rng.uniform(2.2, 3.6)
        doors = ((112, 62, 48), (52, 84, 82), (64, 66, 96), (142, 44, 44))
        return cls(
            storey=rng.uniform(2.8, 3.5),
            bay=bay,
            width=bay * rng.uniform(0.38, 0.66),
            tall=rng.uniform(1.3, 1.8),
            frame=(246, 244, 238) if rng.random() < 0.7 else (84, 76, 72),
            door=doors[int(rng.integers(4))],
            cross=bool(rng.random() < 0.5),
            band=bool(rng.random() < 0.35),
        )
