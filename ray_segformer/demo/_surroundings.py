"""The surroundings of a scene: sky, land, hills and a distant wood."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ray_segformer.demo._classes import GROUND, SKY, TREE
from ray_segformer.demo._stage import SUPERSAMPLE, UP, Camera, Colour, Light, Point, Stage, mix, noise_tile, sample_tile

# For each kind of ground: two colours between which it varies in patches, and the strength of its grain.
GROUND_COLOURS: dict[str, tuple[Colour, Colour, float]] = {
    "grass": ((104, 142, 62), (140, 162, 80), 0.15),
    "meadow": ((156, 160, 84), (188, 176, 104), 0.14),
    "sand": ((222, 200, 154), (206, 182, 136), 0.06),
    "snow": ((232, 236, 244), (212, 220, 234), 0.03),
    "earth": ((150, 118, 84), (128, 100, 72), 0.13),
    "paving": ((192, 180, 164), (176, 166, 154), 0.05),
}


def empty_stage(camera: Camera, light: Light, ground: str, rng: np.random.Generator) -> Stage:
    """Return a stage with nothing but sky and one kind of ground, a key of `GROUND_COLOURS`."""
    width, height = camera.width // SUPERSAMPLE, camera.height // SUPERSAMPLE
    horizon = camera.horizon / SUPERSAMPLE
    boundary = min(height - 1, max(1, int(horizon)))
    base = np.empty((height, width, 3), dtype=np.float32)
    base[:boundary] = _sky(boundary, width, light, rng)
    base[boundary:] = _land(boundary, camera, light, ground, rng)
    # Textures need no supersampling. They are made at the final size; enlarging and reducing does not change them.
    picture = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
    picture = picture.resize((camera.width, camera.height), Image.Resampling.NEAREST)
    classes = np.full((camera.height, camera.width), SKY, dtype=np.uint8)
    classes[boundary * SUPERSAMPLE :] = GROUND
    return Stage(camera, light, picture, Image.fromarray(classes))


def _sky(rows: int, width: int, light: Light, rng: np.random.Generator) -> npt.NDArray[np.floating[Any]]:
    """Return the pixels above the horizon `(rows, width, 3)`."""
    top, low = np.array(light.sky_top, np.float32), np.array(light.sky_low, np.float32)
    down = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    sky = top + (low - top) * (down ** rng.uniform(1.0, 1.8))[:, None, None]
    sky = np.repeat(sky, width, axis=1)
    across = (np.arange(width, dtype=np.float32) + 0.5) / width
    if light.direction[2] > 0 and light.name != "overcast":
        # The sun is in front of the camera: brighten the sky around it.
        sun_x = 0.5 + 0.5 * light.direction[0] / max(light.direction[2], 0.3)
        sun_y = 1 - light.direction[1] * 1.4
        distance = (across - sun_x)[None, :] ** 2 * 3 + (down - sun_y)[:, None] ** 2 * 2
        glow = np.exp(-distance * 5) * 0.5 + np.exp(-distance * 120) * 0.4
        sky += glow[:, :, None] * (np.array((255, 244, 214), np.float32) - sky)
    # Clouds lie on a plane overhead, so they look smaller and closer together towards the horizon.
    tile = noise_tile(1.75)
    slant = 1.0 / (1.12 - down)
    scale = 150 * rng.uniform(0.6, 1.3) * rows / max(rows, 60)
    shift_u, shift_v = rng.uniform(0, 512, 2)
    u = (across - 0.5)[None, :] * slant[:, None] * scale * (width / rows) * 0.6 + shift_u
    v = np.broadcast_to((slant * scale * 0.9 + shift_v)[:, None], u.shape)
    density = sample_tile(tile, u, v)
    toward_light = sample_tile(tile, u + 9 * np.sign(light.direction[0]), v - 7)
    cover = np.clip((density - 1.1 + 2.0 * light.cloud_cover) * rng.uniform(0.5, 1.2), 0, 1)
    cover *= np.clip(1.3 - down, 0, 1)[:, None] * (0.55 if light.name == "mist" else 0.88)
    bright = np.minimum(np.array(light.incoming(UP), np.float32) * 262, 255) * 0.6 + low * 0.4
    dark = bright * 0.72 + np.array((4, 6, 14), np.float32)
    lit = np.clip(0.62 + (density - toward_light) * 0.55, 0, 1)[:, :, None]
    sky += cover[:, :, None] * (dark + (bright - dark) * lit - sky)
    return sky


def _land(
    first_row: int, camera: Camera, light: Light, ground: str, rng: np.random.Generator
) -> npt.NDArray[np.floating[Any]]:
    """Return the pixels from `first_row` to the bottom `(rows, width, 3)`."""
    width, height = camera.width // SUPERSAMPLE, camera.height // SUPERSAMPLE
    focal = camera.focal / SUPERSAMPLE
    below = np.arange(first_row, height, dtype=np.float32) + 0.5 - camera.horizon / SUPERSAMPLE
    depth = np.minimum(focal * camera.eye / np.maximum(below, 0.2), 4000)[:, None]
    x = (np.arange(width, dtype=np.float32) - width / 2)[None, :] * depth / focal
    z = np.broadcast_to(depth, x.shape)
    first, second, grain = GROUND_COLOURS[ground]
    one, two = np.array(first, np.float32), np.array(second, np.float32)
    shift = rng.uniform(0, 512, 4)
    patches = sample_tile(noise_tile(1.75), x * 20 + shift[0], z * 20 + shift[1])
    albedo = one + (two - one) * np.clip(0.5 + 0.35 * patches, 0, 1)[:, :, None]
    # The grain fades with distance, because detail finer than a pixel would be mere noise.
    fading = np.clip(14 / depth, 0.12, 1)
    relief = sample_tile(noise_tile(0.7), x * 96 + shift[2], z * 36 + shift[3]) * grain * fading
    if ground == "paving":
        slab = rng.uniform(0.6, 1.1)
        joint = (np.mod(x, slab) < 0.035 * slab + depth / focal) | (np.mod(z, slab) < 0.05 * slab)
        relief = relief - 0.16 * joint * np.clip(1.6 - depth / 12, 0, 1)
    elif ground == "earth":
        relief = relief + 0.1 * np.sin(x * rng.uniform(3, 6)) * np.clip(1.8 - depth / 20, 0, 1)
    lit = albedo * (1 + relief)[:, :, None] * np.array(light.incoming(UP), np.float32)
    haze = (1 - np.exp(-depth / light.haze_range))[:, :, None]
    land: npt.NDArray[np.floating[Any]] = lit + (np.array(light.sky_low, np.float32) - lit) * haze
    return land


def draw_hills(stage: Stage, ground: str, height: float, rng: np.random.Generator) -> None:
    """Draw ranges of hills along the horizon, at most `height` (a share of the picture's height) tall."""
    camera, light = stage.camera, stage.light
    count = int(rng.integers(1, 4))
    for layer in range(count):
        distance = (1.9, 1.0, 0.5)[layer + 3 - count] * light.haze_range
        colour = mix(GROUND_COLOURS[ground][0], (96, 112, 88), 0.5 if ground == "snow" else 0.75)
        top = height * (1.0, 0.62, 0.32)[layer + 3 - count] * camera.height
        points = ridge(camera, 12, 0.55 * rng.uniform(0.6, 1.3), rng)
        outline = [(x, camera.horizon - top * max(0.02, 0.55 + 0.5 * rise)) for x, rise in points]
        _fill_down(stage, outline, light.shade(colour, (0.0, 0.9, -0.4), distance), GROUND)


def draw_treeline(stage: Stage, height: float, rng: np.random.Generator) -> None:
    """Draw a distant wood along the horizon, about `height` (a share of the picture's height) tall."""
    camera = stage.camera
    colour = stage.light.shade((64, 92, 56), (0.0, 0.7, -0.7), 0.3 * stage.light.haze_range)
    gaps = ridge(camera, 4, 0.5, rng)
    leaves = ridge(camera, 4, 14.0, rng)
    top = height * camera.height
    outline = [
        (x, camera.horizon + 2 - max(0.0, top * (0.6 + 0.45 * broad + 0.1 * fine)))
        for (x, broad), (_, fine) in zip(gaps, leaves, strict=True)
    ]
    _fill_down(stage, outline, colour, TREE)


def ridge(camera: Camera, step: int, speed: float, rng: np.random.Generator) -> list[Point]:
    """Return a smooth random line: canvas columns `step` pixels apart, each with a height of about -1 to 1.

    The higher `speed` is, the faster the heights change.
    """
    xs = np.arange(-step, camera.width + 2 * step, step)
    row = noise_tile(1.75)[int(rng.integers(512))]
    positions = (xs / camera.height * 100 * speed + rng.uniform(0, 512)) % 512
    rises = np.clip(np.interp(positions, np.arange(513), np.append(row, row[0])) / 1.5, -1.3, 1.3)
    return [(float(x), float(rise)) for x, rise in zip(xs, rises, strict=True)]


def _fill_down(stage: Stage, outline: list[Point], colour: Colour, class_id: int) -> None:
    """Fill the area between an outline and the horizon."""
    bottom = stage.camera.horizon + 2
    stage.polygon([(outline[0][0], bottom), *outline, (outline[-1][0], bottom)], colour, class_id)
