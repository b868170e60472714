"""Cars of three models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ray_segformer.demo._classes import CAR
from ray_segformer.demo._stage import Colour, Point, Stage, mix

PAINTS: tuple[Colour, ...] = (
    (196, 40, 40),
    (44, 84, 160),
    (232, 232, 230),
    (58, 60, 66),
    (172, 176, 182),
    (226, 170, 42),
    (52, 116, 88),
    (122, 36, 52),
)
GLASS: Colour = (52, 64, 76)
TYRE: Colour = (34, 34, 36)

# Outlines seen from the side, from the front bumper over the roof to the rear bumper: metres behind the front, and
# metres above the ground.
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "saloon": (
        (0, 0.3),
        (0, 0.7),
        (1.15, 0.92),
        (1.85, 1.44),
        (3.1, 1.44),
        (3.75, 1.0),
        (4.4, 0.95),
        (4.4, 0.3),
    ),
    "hatch": (
        (0, 0.3),
        (0, 0.72),
        (0.95, 0.96),
        (1.6, 1.5),
        (3.2, 1.5),
        (3.8, 1.0),
        (3.85, 0.95),
        (3.85, 0.3),
    ),
    "van": (
        (0, 0.3),
        (0, 0.86),
        (0.8, 1.12),
        (1.4, 1.92),
        (4.3, 1.92),
        (4.55, 1.12),
        (4.6, 1.05),
        (4.6, 0.3),
    ),
}
HALF_WIDTH = 0.92


@dataclass(frozen=True)
class Car:
    """A car whose middle is at (x, z) and whose front points along `heading` (radians).

    A heading of 0 is away from the camera, and pi / 2 is to the right. `model` is a key of `OUTLINES`.
    """

    x: float
    z: float
    heading: float
    model: str
    paint: Colour

    def _place(self, along: float, y: float, side: float) -> tuple[float, float, float]:
        """Return the world position of a point `along` metres behind the front and `side` metres right of the middle.

        `y` is its height above the ground.
        """
        ahead = OUTLINES[self.model][-1][0] / 2 - along
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        return (self.x + ahead * sine + side * cosine, y, self.z + ahead * cosine - side * sine)

    def shadows(self, stage: Stage) -> list[list[Point]]:
        """Return the shadow on the ground, as polygons on the canvas."""
        camera, light = stage.camera, stage.light
        outline = OUTLINES[self.model]
        length = outline[-1][0]
        low = [self._place(a, 0.0, s) for a, s in ((0, -1), (0, 1), (length, 1), (length, -1))]
        roof = [
            light.shadow_of(*self._place(outline[i][0], outline[i][1], s * 0.8))
            for i, s in ((3, -1), (3, 1), (4, 1), (4, -1))
        ]
        body = [light.shadow_of(x, 0.9, z) for x, _, z in low]
        joined = [[low[i], low[i - 1], body[i - 1], body[i]] for i in range(4)]
        return [[camera.project(*p) for p in shape] for shape in (low, body, roof, *joined)]

    def draw(self, stage: Stage) -> None:
        """Draw the faces that point towards the camera, farthest first."""
        outline = OUTLINES[self.model]
        belt = outline[2][1]
        self._underside(stage)
        strips = []
        for number in range(len(outline) - 1):
            (a0, y0), (a1, y1) = outline[number], outline[number + 1]
            centre = self._place((a0 + a1) / 2, (y0 + y1) / 2, 0)
            size = math.hypot(a1 - a0, y1 - y0)
            normal = self._turn(-(y1 - y0) / size, (a1 - a0) / size, 0.0)
            if self._faces(stage, centre, normal):
                strips.append((centre[2], number, normal))
        for _, number, normal in sorted(strips, reverse=True):
            self._strip(stage, number, normal)
        for side in (-1.0, 1.0):
            normal = self._turn(0.0, 0.0, side)
            if self._faces(stage, self._place(outline[-1][0] / 2, belt, side * HALF_WIDTH), normal):
                self._flank(stage, side, normal)

    def _turn(self, behind: float, up: float, right: float) -> tuple[float, float, float]:
        """Return the world direction of a direction that is given relative to the car."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        return (-behind * sine + right * cosine, up, -behind * cosine - right * sine)

    def _faces(self, stage: Stage, point: tuple[float, float, float], normal: tuple[float, float, float]) -> bool:
        """Return whether a surface through `point` points towards the camera."""
        return -point[0] * normal[0] + (stage.camera.eye - point[1]) * normal[1] - point[2] * normal[2] > 0

    def _half(self, y: float) -> float:
        """Return half the width of the body at height `y`. Above the belt line it becomes narrower."""
        belt = OUTLINES[self.model][2][1]
        return HALF_WIDTH - 0.3 * max(0.0, y - belt)

    def _quad(
        self,
        stage: Stage,
        corners: list[tuple[float, float, float]],
        colour: Colour,
        normal: tuple[float, float, float],
        body: bool = False,
    ) -> None:
        """Fill a polygon given relative to the car. Without `body` only the picture changes, not the mask."""
        points = [self._place(*corner) for corner in corners]
        shaded = stage.light.shade(colour, normal, self.z)
        stage.world_polygon(points, shaded, CAR if body else None)

    def _underside(self, stage: Stage) -> None:
        """Draw the dark space between the wheels, and the wheels seen from the front and the rear."""
        length = OUTLINES[self.model][-1][0]
        for along in (0.25, length - 0.25):
            corners = [(along, y, s * HALF_WIDTH) for y, s in ((0.16, -1), (0.16, 1), (0.5, 1), (0.5, -1))]
            self._quad(stage, corners, (26, 26, 28), (0.0, 0.0, -1.0), body=True)
            for side in (-1.0, 1.0):
                inner, outer = side * (HALF_WIDTH - 0.24), side * HALF_WIDTH
                tyre = [(along + 0.3, 0.0, inner), (along + 0.3, 0.0, outer), (along + 0.3, 0.5, outer)]
                self._quad(stage, [*tyre, (along + 0.3, 0.5, inner)], TYRE, (0.0, 0.0, -1.0), body=True)

    def _strip(self, stage: Stage, number: int, normal: tuple[float, float, float]) -> None:
        """Draw one part of the body from side to side: number 0 is the front bumper, the last the rear bumper."""
        outline = OUTLINES[self.model]
        (a0, y0), (a1, y1) = outline[number], outline[number + 1]

        def inside(share: float, side: float) -> tuple[float, float, float]:
            y = y0 + (y1 - y0) * share
            return (a0 + (a1 - a0) * share, y, side * self._half(y))

        def part(low: float, high: float, left: float, right: float, colour: Colour, body: bool = False) -> None:
            corners = [inside(low, left), inside(low, right), inside(high, right), inside(high, left)]
            self._quad(stage, corners, colour, normal, body)

        part(0, 1, -1, 1, self.paint, body=True)
        last = len(outline) - 2
        if number in (2, 4):
            glass = mix(GLASS, stage.light.sky_low, 0.25)
            part(0.08, 0.92, -0.88, 0.88, glass)
            part(0.12, 0.88, -0.3, 0.15, mix(glass, stage.light.sky_low, 0.22))
        elif number == 0:
            lamp: Colour = (255, 252, 226)
            part(0.0, 0.22, -1, 1, mix(self.paint, (40, 40, 42), 0.8))
            part(0.3, 0.72, -0.5, 0.5, (40, 42, 46))
            part(0.12, 0.3, -0.26, 0.26, (236, 236, 230))
            for side in (-0.78, 0.78):
                part(0.52, 0.86, side - 0.16, side + 0.16, lamp)
                if stage.light.lamps_lit:
                    self._lamp(stage, inside(0.7, side), (255, 246, 206))
        elif number == last:
            part(0.78, 1.0, -1, 1, mix(self.paint, (40, 40, 42), 0.8))
            part(0.4, 0.62, -0.3, 0.3, (236, 236, 230))
            for side in (-0.82, 0.82):
                part(0.12, 0.46, side - 0.15, side + 0.15, (206, 30, 30))
                if stage.light.lamps_lit:
                    self._lamp(stage, inside(0.3, side), (255, 70, 50))

    def _lamp(self, stage: Stage, spot: tuple[float, float, float], colour: Colour) -> None:
        """Draw a shining lamp."""
        x, y, z = self._place(*spot)
        radius = 0.1 * stage.camera.focal / z
        stage.ellipse(stage.camera.project(x, y, z), (radius, radius), colour, None)

    def _flank(self, stage: Stage, side: float, normal: tuple[float, float, float]) -> None:
        """Draw one long side: body, side windows, door gaps and wheels."""
        outline = OUTLINES[self.model]
        belt, length = outline[2][1], outline[-1][0]

        def at(along: float, y: float) -> tuple[float, float, float]:
            return (along, y, side * self._half(y))

        body = [at(a, y) for a, y in outline]
        self._quad(stage, body, self.paint, normal, body=True)
        skirt = [at(0, 0.3), at(length, 0.3), at(length, 0.42), at(0, 0.42)]
        self._quad(stage, skirt, mix(self.paint, (30, 30, 32), 0.7), normal)
        (front, _), (back, top) = outline[3], outline[4]
        rear = outline[5][0]
        glass = mix(GLASS, stage.light.sky_low, 0.2)
        pillar = (front + back) / 2 + 0.1
        low, high = belt + 0.06, top - 0.1
        self._quad(
            stage,
            [
                at(outline[2][0] + 0.3, low),
                at(front + 0.1, high),
                at(pillar - 0.05, high),
                at(pillar - 0.05, low),
            ],
            glass,
            normal,
        )
        self._quad(
            stage,
            [at(pillar + 0.05, low), at(pillar + 0.05, high), at(back - 0.05, high), at(rear - 0.3, low)],
            glass,
            normal,
        )
        seam = mix(self.paint, (20, 20, 20), 0.45)
        for along in (outline[2][0] + 0.25, pillar):
            self._quad(
                stage,
                [at(along, 0.42), at(along, belt), at(along + 0.035, belt), at(along + 0.035, 0.42)],
                seam,
                normal,
            )
        for along in (0.8, length - 0.8):
            for radius, colour, is_body in (
                (0.4, (22, 22, 24), False),
                (0.34, TYRE, True),
                (0.2, (170, 172, 176), False),
            ):
                turns = np.linspace(0, 2 * math.pi, 16, endpoint=False)
                rim = [(along + radius * math.cos(t), 0.34 + radius * math.sin(t), side * HALF_WIDTH) for t in turns]
                if radius > 0.34:
                    # The wheel arch is part of the body, so it ends where the body does.
                    rim = [(a, max(y, 0.3), s) for a, y, s in rim]
                self._quad(stage, rim, colour, normal, body=is_body)
