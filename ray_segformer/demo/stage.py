"""What every part of a scene is drawn with: a camera, a light, and a pair of canvases.

World coordinates are metres: x to the right, y up from the ground, z away from the camera. Colours are
RGB triples from 0 to 255. Drawing happens on a canvas SUPERSAMPLE times larger than the result, on which
the picture and the class mask receive exactly the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 2
TILE = 512
NEAREST_DEPTH = 1.0

Colour = tuple[float, float, float]
Point = tuple[float, float]


@lru_cache(maxsize=4)
def noise_tile(roughness: float) -> np.ndarray:
    """Seamless fractal noise: float32 (TILE, TILE), mean 0, deviation 1.

    A spectrum falling as 1/f**roughness: about 1.8 gives clouds, about 0.7 gives grain.
    """
    spectrum = np.fft.rfft2(np.random.default_rng(7).standard_normal((TILE, TILE)))
    rows = np.fft.fftfreq(TILE)[:, None]
    columns = np.fft.rfftfreq(TILE)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    tile = np.fft.irfft2(spectrum / frequency**roughness, s=(TILE, TILE))
    return (tile / tile.std()).astype(np.float32)


def sample_tile(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Values of `tile` at columns `u` and rows `v` (any real numbers; the tile repeats)."""
    return tile[v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)]


def mix(first: Sequence[float], second: Sequence[float], share: float) -> Colour:
    """`first` with a `share` (0 to 1) of `second` mixed in."""
    keep = 1.0 - share
    return (
        first[0] * keep + second[0] * share,
        first[1] * keep + second[1] * share,
        first[2] * keep + second[2] * share,
    )


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera. `width`, `height`, `horizon` and `focal` are canvas pixels, `eye` metres."""

    width: int
    height: int
    horizon: float
    focal: float
    eye: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Canvas position of a point of the world."""
        z = max(z, NEAREST_DEPTH)
        return (self.width / 2 + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z)

    def half_width(self, depth: float) -> float:
        """Metres from the middle of the view to its side at `depth`."""
        return self.width / 2 / self.focal * depth

    @property
    def nearest_ground(self) -> float:
        """Depth of the ground at the bottom of the picture."""
        return self.focal * self.eye / (self.height - self.horizon)


@dataclass(frozen=True)
class Light:
    """Sun, sky light and haze. `direction` is the unit vector towards the sun; `haze_range` is metres."""

    name: str
    direction: tuple[float, float, float]
    sun: Colour
    ambient: Colour
    sky_top: Colour
    sky_low: Colour
    haze_range: float
    shadow: float
    cloud_cover: float

    @property
    def lamps_lit(self) -> bool:
        """Whether it is dark enough for windows and headlights to shine."""
        return self.name == "dusk"

    def incoming(self, normal: tuple[float, float, float]) -> Colour:
        """Light received by a surface, as a factor for each colour channel."""
        facing = max(0.0, sum(a * b for a, b in zip(normal, self.direction, strict=True)))
        sky = 0.85 + 0.15 * normal[1]
        return (
            self.ambient[0] * sky + self.sun[0] * facing,
            self.ambient[1] * sky + self.sun[1] * facing,
            self.ambient[2] * sky + self.sun[2] * facing,
        )

    def shade(self, albedo: Sequence[float], normal: tuple[float, float, float], depth: float) -> Colour:
        """Colour of a surface as seen from `depth` metres away, haze included."""
        light = self.incoming(normal)
        lit = (albedo[0] * light[0], albedo[1] * light[1], albedo[2] * light[2])
        return mix(lit, self.sky_low, self.haze(depth))

    def haze(self, depth: float) -> float:
        """Share of haze (0 to 1) between the camera and `depth` metres."""
        return 1.0 - math.exp(-depth / self.haze_range)

    def shadow_of(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Where on the ground the shadow of a point of the world falls."""
        # A floor under the elevation keeps evening shadows from running across the whole scene.
        length = y / max(self.direction[1], 0.35)
        return (x - self.direction[0] * length, 0.0, max(z - self.direction[2] * length, NEAREST_DEPTH))


def choose_light(rng: np.random.Generator) -> Light:
    """A random time of day and weather."""
    name = str(rng.choice(["day", "evening", "overcast", "dusk", "mist"], p=[0.42, 0.22, 0.16, 0.1, 0.1]))
    low, high = {"day": (30, 62), "evening": (12, 26), "dusk": (12, 20)}.get(name, (35, 60))
    elevation = math.radians(rng.uniform(low, high))
    azimuth = rng.uniform(-2.0, 2.0)
    direction = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        -math.cos(elevation) * math.cos(azimuth),
    )
    # sun, ambient, sky_top, sky_low, haze_range, shadow, cloud_cover
    settings: dict[str, tuple[Colour, Colour, Colour, Colour, float, float, float]] = {
        "day": ((0.72, 0.68, 0.6), (0.5, 0.54, 0.6), (66, 126, 204), (196, 220, 238), 420, 0.5, 0.45),
        "evening": ((0.85, 0.6, 0.34), (0.5, 0.47, 0.5), (92, 126, 188), (252, 208, 156), 300, 0.48, 0.5),
        "overcast": (
            (0.12, 0.12, 0.12),
            (0.72, 0.74, 0.77),
            (158, 168, 180),
            (216, 220, 224),
            260,
            0.22,
            0.9,
        ),
        "dusk": ((0.36, 0.22, 0.18), (0.52, 0.48, 0.6), (52, 64, 124), (236, 150, 118), 280, 0.25, 0.5),
        "mist": ((0.3, 0.27, 0.23), (0.62, 0.62, 0.64), (176, 190, 206), (228, 226, 220), 75, 0.25, 0.3),
    }
    sun, ambient, top, low_sky, haze_range, shadow, cover = settings[name]
    warmth = rng.uniform(-0.06, 0.06)
    strength = rng.uniform(0.92, 1.1)

    def vary(colour: Colour) -> Colour:
        return (
            colour[0] * strength * (1 + warmth),
            colour[1] * strength,
            colour[2] * strength * (1 - warmth),
        )

    return Light(
        name=name,
        direction=direction,
        sun=vary(sun),
        ambient=vary(ambient),
        sky_top=mix(top, vary(top), 0.8),
        sky_low=mix(low_sky, vary(low_sky), 0.4),
        haze_range=haze_range * rng.uniform(0.8, 1.3),
        shadow=shadow,
        cloud_cover=float(np.clip(cover + rng.uniform(-0.4, 0.3), 0, 1)),
    )


class Stage:
    """The picture and its mask while they are drawn, with the camera and the light that they share."""

    def __init__(self, camera: Camera, light: Light, picture: Image.Image, mask: Image.Image) -> None:
        self.camera = camera
        self.light = light
        self.picture = picture
        self.mask = mask
        self._picture_draw = ImageDraw.Draw(picture)
        self._mask_draw = ImageDraw.Draw(mask)

    def polygon(self, points: Sequence[Point], colour: Sequence[float], class_id: int | None) -> None:
        """Fill a polygon. With `class_id` None only the picture changes: a detail of what is there."""
        self._picture_draw.polygon(points, fill=_rgb(colour))
        if class_id is not None:
            self._mask_draw.polygon(points, fill=class_id)

    def ellipse(self, centre: Point, radius: Point, colour: Sequence[float], class_id: int | None) -> None:
        """Fill an ellipse given by its centre and its two radii in canvas pixels."""
        box = (centre[0] - radius[0], centre[1] - radius[1], centre[0] + radius[0], centre[1] + radius[1])
        self._picture_draw.ellipse(box, fill=_rgb(colour))
        if class_id is not None:
            self._mask_draw.ellipse(box, fill=class_id)

    def limb(self, points: Sequence[Point], width: float, colour: Sequence[float], class_id: int | None) -> None:
        """A thick line through `points` with round joints and ends."""
        thickness = max(1, round(width))
        self._picture_draw.line(points, fill=_rgb(colour), width=thickness)
        if class_id is not None:
            self._mask_draw.line(points, fill=class_id, width=thickness)
        for point in points:
            self.ellipse(point, (width / 2, width / 2), colour, class_id)

    def world_polygon(
        self,
        points: Sequence[tuple[float, float, float]],
        colour: Sequence[float],
        class_id: int | None,
    ) -> None:
        """Fill a polygon whose corners are points of the world."""
        self.polygon([self.camera.project(*point) for point in points], colour, class_id)

    def paste(self, sprite: np.ndarray, shape: np.ndarray, corner: tuple[int, int], class_id: int) -> None:
        """Put uint8 pixels (h, w, 3) down where the boolean `shape` (h, w) is true."""
        stencil = Image.fromarray(shape.astype(np.uint8) * 255)
        self.picture.paste(Image.fromarray(sprite), corner, stencil)
        self.mask.paste(
            class_id, (corner[0], corner[1], corner[0] + shape.shape[1], corner[1] + shape.shape[0]), stencil
        )


def _rgb(colour: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(channel))) for channel in colour)
    return red, green, blue
