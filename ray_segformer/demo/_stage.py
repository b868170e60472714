"""The stage on which a scene is drawn: a camera, a light, and two canvases for the picture and its class mask.

World coordinates are metres: x to the right, y up from the ground, z (the depth) away from the camera. Colours are RGB
triples from 0 to 255. The canvases are SUPERSAMPLE times larger than the result. Each shape is drawn on both of them,
so the mask fits the picture exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

SUPERSAMPLE = 2
TILE = 512  # pixels: the side of a tile of noise
NEAREST_DEPTH = 1.0  # metres: nearer points are drawn as if they were at this depth
UP = (0.0, 1.0, 0.0)  # the normal of level ground

Colour = tuple[float, float, float]
Point = tuple[float, float]


@lru_cache(maxsize=4)
def noise_tile(roughness: float) -> npt.NDArray[np.float32]:
    """Return fractal noise that repeats without a seam: float32 `(TILE, TILE)`, mean 0, standard deviation 1.

    Its spectrum falls as 1 / f**roughness: a roughness of about 1.8 looks like clouds, about 0.7 like grain.
    """
    spectrum = np.fft.rfft2(np.random.default_rng(7).standard_normal((TILE, TILE)))
    rows = np.fft.fftfreq(TILE)[:, None]
    columns = np.fft.rfftfreq(TILE)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    tile = np.fft.irfft2(spectrum / frequency**roughness, s=(TILE, TILE))
    noise: npt.NDArray[np.float32] = (tile / tile.std()).astype(np.float32)
    return noise


def sample_tile(tile: npt.NDArray[np.float32], u: npt.NDArray[Any], v: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the values of `tile` at columns `u` and rows `v`: any real numbers, because the tile repeats."""
    values: npt.NDArray[np.float32] = tile[v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)]
    return values


def mix(first: Sequence[float], second: Sequence[float], share: float) -> Colour:
    """Return `first` with a `share` (0 to 1) of `second` mixed in."""
    keep = 1.0 - share
    return (
        first[0] * keep + second[0] * share,
        first[1] * keep + second[1] * share,
        first[2] * keep + second[2] * share,
    )


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera.

    `width`, `height`, `horizon` (its row) and `focal` (the focal length) are canvas pixels. `eye` is the camera's
    height above the ground in metres.
    """

    width: int
    height: int
    horizon: float
    focal: float
    eye: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Return the canvas position of a point of the world."""
        z = max(z, NEAREST_DEPTH)
        return (self.width / 2 + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z)

    def half_width(self, depth: float) -> float:
        """Return the metres from the middle of the view to its side, at `depth`."""
        return self.width / 2 / self.focal * depth

    @property
    def nearest_ground(self) -> float:
        """Depth of the ground at the bottom of the picture."""
        return self.focal * self.eye / (self.height - self.horizon)


@dataclass(frozen=True)
class Light:
    """Sun, sky light, haze and clouds.

    `direction` is the unit vector towards the sun. `haze_range` is metres: at this depth, 63 % of a colour is haze.
    `shadow` and `cloud_cover` are shares from 0 to 1.
    """

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
        """Return the light that a surface receives, as a factor for each colour channel."""
        facing = max(0.0, sum(a * b for a, b in zip(normal, self.direction, strict=True)))
        sky = 0.85 + 0.15 * normal[1]
        return (
            self.ambient[0] * sky + self.sun[0] * facing,
            self.ambient[1] * sky + self.sun[1] * facing,
            self.ambient[2] * sky + self.sun[2] * facing,
        )

    def shade(self, albedo: Sequence[float], normal: tuple[float, float, float], depth: float) -> Colour:
        """Return the colour of a surface seen from `depth` metres away, including haze."""
        light = self.incoming(normal)
        lit = (albedo[0] * light[0], albedo[1] * light[1], albedo[2] * light[2])
        return mix(lit, self.sky_low, self.haze(depth))

    def haze(self, depth: float) -> float:
        """Return the share of haze (0 to 1) in a colour seen from `depth` metres away."""
        return 1.0 - math.exp(-depth / self.haze_range)

    def shadow_of(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """Return where on the ground the shadow of a point of the world falls."""
        # The elevation has a minimum, else shadows in the evening would cross the whole scene.
        length = y / max(self.direction[1], 0.35)
        return (x - self.direction[0] * length, 0.0, max(z - self.direction[2] * length, NEAREST_DEPTH))


def choose_light(rng: np.random.Generator) -> Light:
    """Choose a random time of day and weather."""
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
    """The picture and its mask while they are drawn, with their camera and light."""

    def __init__(self, camera: Camera, light: Light, picture: Image.Image, mask: Image.Image) -> None:
        self.camera = camera
        self.light = light
        self.picture = picture
        self.mask = mask
        self._picture_draw = ImageDraw.Draw(picture)
        self._mask_draw = ImageDraw.Draw(mask)

    def polygon(self, points: Sequence[Point], colour: Sequence[float], class_id: int | None) -> None:
        """Fill a polygon. If `class_id` is None, only the picture changes, for a detail of a thing drawn before."""
        self._picture_draw.polygon(points, fill=_rgb(colour))
        if class_id is not None:
            self._mask_draw.polygon(points, fill=class_id)

    def ellipse(self, centre: Point, radius: Point, colour: Sequence[float], class_id: int | None) -> None:
        """Fill an ellipse, given its centre and its two radii in canvas pixels."""
        box = (centre[0] - radius[0], centre[1] - radius[1], centre[0] + radius[0], centre[1] + radius[1])
        self._picture_draw.ellipse(box, fill=_rgb(colour))
        if class_id is not None:
            self._mask_draw.ellipse(box, fill=class_id)

    def limb(self, points: Sequence[Point], width: float, colour: Sequence[float], class_id: int | None) -> None:
        """Draw a thick line through `points`, with round joints and ends."""
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

    def paste(
        self, sprite: npt.NDArray[np.uint8], shape: npt.NDArray[np.bool_], corner: tuple[int, int], class_id: int
    ) -> None:
        """Paste uint8 pixels `(h, w, 3)` where `shape`, bool `(h, w)`, is True. `corner` is the top left one."""
        stencil = Image.fromarray(shape.astype(np.uint8) * 255)
        self.picture.paste(Image.fromarray(sprite), corner, stencil)
        self.mask.paste(
            class_id, (corner[0], corner[1], corner[0] + shape.shape[1], corner[1] + shape.shape[0]), stencil
        )


def _rgb(colour: Sequence[float]) -> tuple[int, int, int]:
    """Return a colour as integers from 0 to 255."""
    red, green, blue = (min(255, max(0, int(channel))) for channel in colour)
    return red, green, blue
