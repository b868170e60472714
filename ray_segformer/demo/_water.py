"""Water: where its shore runs, its surface, and the reflections on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ray_segformer.demo._classes import GROUND, WATER
from ray_segformer.demo._roads import Road
from ray_segformer.demo._stage import SUPERSAMPLE, UP, Camera, Colour, Point, Stage, mix, noise_tile, sample_tile
from ray_segformer.demo._surroundings import GROUND_COLOURS, ridge


def water_shore(kind: str, camera: Camera, road: Road | None, rng: np.random.Generator) -> tuple[list[Point], float]:
    """Return the outline of the water on the canvas, and the depth of its far side in metres.

    `kind` is "sea" (as far as the horizon), "river" (a band across the view), "lake" (a pond in the land), or "coast"
    (everything on one side of a road along the view). The depth is infinite for "sea" and "coast".
    """
    horizon, height = camera.horizon, camera.height
    span = height - horizon
    if kind == "sea":
        near = horizon + span * rng.uniform(0.25, 0.6)
        tilt = rng.uniform(-0.1, 0.1) * span / camera.width
        line = [
            (x, near + tilt * (x - camera.width / 2) + 0.03 * span * rise) for x, rise in ridge(camera, 8, 0.8, rng)
        ]
        return [(line[0][0], horizon), (line[-1][0], horizon), *reversed(line)], float("inf")
    if kind == "river":
        far, broad = rng.uniform(0.1, 0.25) * span, rng.uniform(0.15, 0.35) * span
        tilt = rng.uniform(-0.06, 0.06) * span / camera.width
        upper = [
            (x, horizon + far + tilt * (x - camera.width / 2) + 0.012 * span * r) for x, r in ridge(camera, 8, 0.5, rng)
        ]
        lower = [
            (x, horizon + far + broad + tilt * (x - camera.width / 2) + 0.03 * span * r)
            for x, r in ridge(camera, 8, 0.7, rng)
        ]
        return [*upper, *reversed(lower)], camera.focal * camera.eye / far
    if kind == "coast" and road is not None:
        side = 1 if road.offset < 0 else -1
        points, phase = [], rng.uniform(0, 2 * np.pi)
        for z in np.geomspace(camera.nearest_ground * 0.7, 900, 26):
            edge = road.centre(min(z, 120)) + side * (road.half_width + 2.4 + 0.7 * np.sin(0.35 * z + phase))
            points.append(camera.project(edge, 0, float(z)))
        outside = (camera.width + 8) if side > 0 else -8
        return [*points, (outside, horizon + 1), (outside, height + 8)], float("inf")
    centre_z = camera.nearest_ground * rng.uniform(1.8, 3.2)
    long, deep = camera.half_width(centre_z) * rng.uniform(0.5, 1.1), centre_z * rng.uniform(0.3, 0.45)
    centre_x = rng.uniform(-0.5, 0.5) * camera.half_width(centre_z)
    phases = rng.uniform(0, 2 * np.pi, 3)
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    wobble = 1 + 0.1 * np.sin(2 * angles + phases[0]) + 0.06 * np.sin(3 * angles + phases[1])
    wobble += 0.03 * np.sin(7 * angles + phases[2])
    xs, zs = centre_x + long * wobble * np.cos(angles), centre_z + deep * wobble * np.sin(angles)
    return [camera.project(float(x), 0, float(z)) for x, z in zip(xs, zs, strict=True)], float(zs.max())


def fill_water(stage: Stage, shore: Sequence[Point], ground: str, rng: np.random.Generator) -> Colour:
    """Fill a canvas polygon with still water, surrounded by a narrow wet bank. Return the water's own colour."""
    light = stage.light
    body = mix((34, 78, 104), (44, 104, 108), rng.random())
    wet = mix(GROUND_COLOURS[ground][0], (84, 78, 62), 0.45)
    rim = stage.camera.height * 0.006
    bank = [(x, y + rim if y > stage.camera.horizon + 2 * rim else y) for x, y in shore]
    stage.polygon(bank, light.shade(wet, UP, 25), GROUND)
    stage.polygon([(x, y - rim * 0.3) for x, y in bank], light.shade(wet, UP, 25), GROUND)
    colour = light.shade(body, UP, 10)
    stage.polygon(shore, colour, WATER)
    return colour


def reflect_in_water(stage: Stage, body: Colour, rng: np.random.Generator) -> None:
    """Draw reflections, distorted by ripples, on all pixels of class "water".

    Args:
        stage: the scene, with everything drawn that stands beyond the water.
        body: the water's own colour.
        rng: the source of randomness.
    """
    region = np.asarray(stage.mask)[::SUPERSAMPLE, ::SUPERSAMPLE] == WATER
    rows = np.flatnonzero(region.any(axis=1))
    if rows.size == 0:
        return
    camera, light = stage.camera, stage.light
    first, last = int(rows[0]), int(rows[-1]) + 1
    region = region[first:last]
    picture = np.asarray(stage.picture)[::SUPERSAMPLE, ::SUPERSAMPLE]
    width = region.shape[1]
    shore = first + region.argmax(axis=0)[None, :]
    y = np.arange(first, last)[:, None]
    below = np.maximum(y + 0.5 - camera.horizon / SUPERSAMPLE, 0.3)
    depth = camera.focal / SUPERSAMPLE * camera.eye / below
    x = (np.arange(width)[None, :] - width / 2) * depth * SUPERSAMPLE / camera.focal
    shift = rng.uniform(0, 512, 2)
    z = np.broadcast_to(depth * rng.uniform(30, 60), x.shape)
    ripples = sample_tile(noise_tile(1.2), x * rng.uniform(10, 20) + shift[0], z + shift[1])
    calm = rng.uniform(0.03, 0.12)
    mirrored = 2 * shore - y + (ripples * calm * (y - shore + 4)).astype(np.int32)
    mirrored = np.clip(mirrored, 0, np.maximum(shore - 1, 0))
    reflection = picture[mirrored, np.arange(width)[None, :]].astype(np.float32)
    # Water reflects best at a glancing angle, which means far away.
    glancing = np.clip(0.34 + 0.012 * depth, 0, 0.82)
    strength = np.clip(glancing + 0.07 * ripples, 0, 1)[:, :, None]
    water = np.array(body, np.float32) * (1 - strength) + reflection * strength
    water *= (1 + 0.06 * ripples)[:, :, None]
    if light.direction[2] > 0 and light.name in ("evening", "dusk", "day"):
        # Glitter on the water below a low sun.
        path = 0.5 + 0.5 * light.direction[0] / max(light.direction[2], 0.3)
        streak = np.exp(-((((np.arange(width) / width) - path) / 0.09) ** 2))[None, :]
        sparkle = np.clip(ripples - 0.5, 0, 1) * streak
        water += sparkle[:, :, None] * np.array((190, 170, 130), np.float32)
    surface = Image.fromarray(np.clip(water, 0, 255).astype(np.uint8))
    corner = (0, first * SUPERSAMPLE)
    size = (camera.width, (last - first) * SUPERSAMPLE)
    stencil = np.asarray(stage.mask)[corner[1] : corner[1] + size[1]] == WATER
    stage.picture.paste(
        surface.resize(size, Image.Resampling.NEAREST),
        corner,
        Image.fromarray(stencil.astype(np.uint8) * 255),
    )
