"""The surroundings of a scene: sky, land, hills, roads and water."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .classes import GROUND, ROAD, SKY, TREE, WATER
from .stage import SUPERSAMPLE, Camera, Colour, Light, Point, Stage, mix, noise_tile, sample_tile

UP = (0.0, 1.0, 0.0)
FARTHEST = 220.0

# Two colours that patches of each kind of ground vary between, and the strength of its grain.
GROUND_COLOURS: dict[str, tuple[Colour, Colour, float]] = {
    "grass": ((104, 142, 62), (140, 162, 80), 0.15),
    "meadow": ((156, 160, 84), (188, 176, 104), 0.14),
    "sand": ((222, 200, 154), (206, 182, 136), 0.06),
    "snow": ((232, 236, 244), (212, 220, 234), 0.03),
    "earth": ((150, 118, 84), (128, 100, 72), 0.13),
    "paving": ((192, 180, 164), (176, 166, 154), 0.05),
}


def empty_stage(camera: Camera, light: Light, ground: str, rng: np.random.Generator) -> Stage:
    """A stage with nothing but sky and the chosen kind of ground."""
    width, height = camera.width // SUPERSAMPLE, camera.height // SUPERSAMPLE
    horizon = camera.horizon / SUPERSAMPLE
    boundary = min(height - 1, max(1, int(horizon)))
    base = np.empty((height, width, 3), dtype=np.float32)
    base[:boundary] = _sky(boundary, width, light, camera, rng)
    base[boundary:] = _land(boundary, camera, light, ground, rng)
    # Textures need no supersampling: made at the final size, they survive enlarging and reducing as is.
    picture = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
    picture = picture.resize((camera.width, camera.height), Image.Resampling.NEAREST)
    classes = np.full((camera.height, camera.width), SKY, dtype=np.uint8)
    classes[boundary * SUPERSAMPLE :] = GROUND
    return Stage(camera, light, picture, Image.fromarray(classes))


def _sky(rows: int, width: int, light: Light, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    top, low = np.array(light.sky_top, np.float32), np.array(light.sky_low, np.float32)
    down = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    sky = top + (low - top) * (down ** rng.uniform(1.0, 1.8))[:, None, None]
    sky = np.repeat(sky, width, axis=1)
    across = (np.arange(width, dtype=np.float32) + 0.5) / width
    if light.direction[2] > 0 and light.name != "overcast":
        # The sun is in front: brighten the sky around it.
        sun_x = 0.5 + 0.5 * light.direction[0] / max(light.direction[2], 0.3)
        sun_y = 1 - light.direction[1] * 1.4
        distance = (across - sun_x)[None, :] ** 2 * 3 + (down - sun_y)[:, None] ** 2 * 2
        glow = np.exp(-distance * 5) * 0.5 + np.exp(-distance * 120) * 0.4
        sky += glow[:, :, None] * (np.array((255, 244, 214), np.float32) - sky)
    # Clouds lie on a plane overhead, so they shrink and crowd together towards the horizon.
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


def _land(first_row: int, camera: Camera, light: Light, ground: str, rng: np.random.Generator) -> np.ndarray:
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
    # Detail finer than a pixel would only flicker, so the grain fades with distance.
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
    return lit + (np.array(light.sky_low, np.float32) - lit) * haze


def draw_hills(stage: Stage, ground: str, height: float, rng: np.random.Generator) -> None:
    """Ranges of hills along the horizon, at most `height` (share of the picture) tall."""
    camera, light = stage.camera, stage.light
    count = int(rng.integers(1, 4))
    for layer in range(count):
        distance = (1.9, 1.0, 0.5)[layer + 3 - count] * light.haze_range
        colour = mix(GROUND_COLOURS[ground][0], (96, 112, 88), 0.5 if ground == "snow" else 0.75)
        top = height * (1.0, 0.62, 0.32)[layer + 3 - count] * camera.height
        points = _ridge(camera, 12, 0.55 * rng.uniform(0.6, 1.3), rng)
        outline = [(x, camera.horizon - top * max(0.02, 0.55 + 0.5 * rise)) for x, rise in points]
        _fill_down(stage, outline, light.shade(colour, (0.0, 0.9, -0.4), distance), GROUND)


def draw_treeline(stage: Stage, height: float, rng: np.random.Generator) -> None:
    """A far wood along the horizon, about `height` (share of the picture) tall."""
    camera = stage.camera
    colour = stage.light.shade((64, 92, 56), (0.0, 0.7, -0.7), 0.3 * stage.light.haze_range)
    gaps = _ridge(camera, 4, 0.5, rng)
    leaves = _ridge(camera, 4, 14.0, rng)
    top = height * camera.height
    outline = [
        (x, camera.horizon + 2 - max(0.0, top * (0.6 + 0.45 * broad + 0.1 * fine)))
        for (x, broad), (_, fine) in zip(gaps, leaves, strict=True)
    ]
    _fill_down(stage, outline, colour, TREE)


def _ridge(camera: Camera, step: int, speed: float, rng: np.random.Generator) -> list[Point]:
    """Canvas columns `step` apart, each with a smooth random height of about -1 to 1."""
    xs = np.arange(-step, camera.width + 2 * step, step)
    row = noise_tile(1.75)[int(rng.integers(512))]
    positions = (xs / camera.height * 100 * speed + rng.uniform(0, 512)) % 512
    rises = np.clip(np.interp(positions, np.arange(513), np.append(row, row[0])) / 1.5, -1.3, 1.3)
    return [(float(x), float(rise)) for x, rise in zip(xs, rises, strict=True)]


def _fill_down(stage: Stage, outline: list[Point], colour: Colour, class_id: int) -> None:
    bottom = stage.camera.horizon + 2
    stage.polygon([(outline[0][0], bottom), *outline, (outline[-1][0], bottom)], colour, class_id)


@dataclass(frozen=True)
class Road:
    """A road. Along the view it follows `centre(z)`; across it lies between depths `near` and `far`."""

    direction: str
    half_width: float
    offset: float = 0.0
    slope: float = 0.0
    bend: float = 0.0
    near: float = 0.0
    far: float = 0.0

    def centre(self, z: float) -> float:
        """x of the middle of a road that leads away from the camera, at depth `z`."""
        return self.offset + self.slope * z + self.bend * z * z / 100


def draw_road(stage: Stage, road: Road, rng: np.random.Generator) -> None:
    """Asphalt with kerbs and lane markings."""
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
        """Part of the road from `start` to `end` along it and from `left` to `right` of its middle."""
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
        # Wheels wear two darker tracks into each lane.
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


def fill_water(stage: Stage, shore: Sequence[Point], ground: str, rng: np.random.Generator) -> Colour:
    """Cover a canvas polygon with still water inside a narrow wet bank; returns the water's own colour."""
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
    """Mirror what stands beyond the water in all pixels of class "water", broken up by ripples."""
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
    # Water mirrors best at a glancing angle, that is far away.
    glancing = np.clip(0.34 + 0.012 * depth, 0, 0.82)
    strength = np.clip(glancing + 0.07 * ripples, 0, 1)[:, :, None]
    water = np.array(body, np.float32) * (1 - strength) + reflection * strength
    water *= (1 + 0.06 * ripples)[:, :, None]
    if light.direction[2] > 0 and light.name in ("evening", "dusk", "day"):
        # A glittering path under the low sun.
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


def water_shore(kind: str, camera: Camera, road: Road | None, rng: np.random.Generator) -> tuple[list[Point], float]:
    """Outline of a body of water on the canvas, and the depth (m) of its far side.

    `kind` is "sea" (out to the horizon), "river" (a band across the view), "lake" (a pond in the land), or
    "coast" (everything beyond one side of a road that leads away).
    """
    horizon, height = camera.horizon, camera.height
    span = height - horizon
    if kind == "sea":
        near = horizon + span * rng.uniform(0.25, 0.6)
        tilt = rng.uniform(-0.1, 0.1) * span / camera.width
        line = [
            (x, near + tilt * (x - camera.width / 2) + 0.03 * span * rise) for x, rise in _ridge(camera, 8, 0.8, rng)
        ]
        return [(line[0][0], horizon), (line[-1][0], horizon), *reversed(line)], float("inf")
    if kind == "river":
        far, broad = rng.uniform(0.1, 0.25) * span, rng.uniform(0.15, 0.35) * span
        tilt = rng.uniform(-0.06, 0.06) * span / camera.width
        upper = [
            (x, horizon + far + tilt * (x - camera.width / 2) + 0.012 * span * r)
            for x, r in _ridge(camera, 8, 0.5, rng)
        ]
        lower = [
            (x, horizon + far + broad + tilt * (x - camera.width / 2) + 0.03 * span * r)
            for x, r in _ridge(camera, 8, 0.7, rng)
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
