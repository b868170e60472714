"""Procedural outdoor scenes with a pixel-exact class mask for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .buildings import ROOFS, WALLS, Building
from .cars import OUTLINES, PAINTS, Car
from .classes import CLASSES, GROUND, PALETTE, ROAD, SKY, WATER
from .people import Person, random_person
from .plants import Tree, leaf_colour
from .stage import SUPERSAMPLE, Camera, Stage, choose_light, noise_tile
from .surroundings import (
    Road,
    draw_hills,
    draw_road,
    draw_treeline,
    empty_stage,
    fill_water,
    reflect_in_water,
    water_shore,
)

__all__ = ["CLASSES", "PALETTE", "make_scene", "write_scenes"]

SMALLEST = 16
# Nobody stands farther away than this share of the focal length (in picture heights) allows, so that
# people are at least about an eighth of the picture tall and cars about a twelfth.
FARTHEST_PERSON = 12.5
FARTHEST_CAR = 17.0

Thing = Tree | Building | Car | Person


@dataclass(frozen=True)
class Layout:
    """What a scene consists of; counts are upper limits, since things need free ground to stand on."""

    ground: str
    season: str
    road: Road | None
    water: str
    hills: float
    treeline: float
    buildings: str
    trees: int
    cars: int
    people: int


def make_scene(seed: int, height: int = 480, width: int = 640) -> tuple[np.ndarray, np.ndarray]:
    """Draw one outdoor scene.

    Args:
        seed: Number of the scene, 0 or more. The same (seed, height, width) always gives the same scene, to
            the pixel under the same versions of NumPy and Pillow.
        height: Height in pixels, at least 16.
        width: Width in pixels, at least 16.

    Returns:
        The picture, uint8 (height, width, 3) in RGB, and its mask, uint8 (height, width), whose values
        are positions in `CLASSES`. A class need not occur in every scene.

    Raises:
        ValueError: If `seed` is not an integer of 0 or more, or a side is not an integer of 16 or more.
    """
    _require_integer("seed", seed, 0)
    _require_integer("height", height, SMALLEST)
    _require_integer("width", width, SMALLEST)
    rng = np.random.default_rng(seed)
    light = choose_light(rng)
    layout = _choose_layout(rng)
    canvas_height = height * SUPERSAMPLE
    camera = Camera(
        width=width * SUPERSAMPLE,
        height=canvas_height,
        horizon=canvas_height * rng.uniform(0.36, 0.52),
        focal=canvas_height * rng.uniform(0.85, 1.1),
        eye=rng.uniform(1.6, 3.0),
    )
    stage = empty_stage(camera, light, layout.ground, rng)
    if layout.hills:
        draw_hills(stage, layout.ground, layout.hills, rng)
    if layout.treeline:
        draw_treeline(stage, layout.treeline, rng)
    if layout.road is not None and layout.water != "lake":
        draw_road(stage, layout.road, rng)
    water_end, body = float("inf"), (0.0, 0.0, 0.0)
    if layout.water:
        shore, water_end = water_shore(layout.water, camera, layout.road, rng)
        body = fill_water(stage, shore, layout.ground, rng)
    if layout.road is not None and layout.water == "lake":
        # A road passes over a pond's shore rather than drowning in it.
        draw_road(stage, layout.road, rng)
    things = sorted(_place_things(stage, layout, rng), key=lambda thing: -thing.z)
    _cast_shadows(stage, things)
    for thing in things:
        if thing.z > water_end:
            thing.draw(stage)
    if layout.water:
        reflect_in_water(stage, body, rng)
    for thing in things:
        if thing.z <= water_end:
            thing.draw(stage)
    return _develop(stage, rng)


def write_scenes(
    directory: str | Path,
    count: int,
    *,
    seed: int = 0,
    height: int = 480,
    width: int = 640,
    vary_size: bool = False,
) -> None:
    """Write scenes as a segmentation data set.

    Creates `directory/images/scene_00000.jpg` (JPEG, quality 92) and
    `directory/annotations/scene_00000.png` (8-bit mask, mode "L", class ids), numbered from 0, for the
    seeds `seed` to `seed + count - 1`. Missing directories are created; files of the same names are
    overwritten.

    Args:
        directory: Where to write.
        count: Number of scenes, 0 or more.
        seed: Seed of the first scene, 0 or more.
        height: Height in pixels, at least 16.
        width: Width in pixels, at least 16.
        vary_size: Give each scene a size of its own, each side between 0.75 and 1.25 times the one asked
            for (but at least 16 pixels). The size follows from the scene's seed.

    Raises:
        ValueError: If a number is not an integer or is smaller than allowed.
    """
    _require_integer("count", count, 0)
    _require_integer("seed", seed, 0)
    _require_integer("height", height, SMALLEST)
    _require_integer("width", width, SMALLEST)
    images, annotations = Path(directory) / "images", Path(directory) / "annotations"
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        size = (height, width)
        if vary_size:
            factors = np.random.default_rng([seed + number, 1]).uniform(0.75, 1.25, 2)
            size = (max(SMALLEST, round(height * factors[0])), max(SMALLEST, round(width * factors[1])))
        picture, mask = make_scene(seed + number, *size)
        Image.fromarray(picture).save(images / f"scene_{number:05d}.jpg", quality=92)
        Image.fromarray(mask).save(annotations / f"scene_{number:05d}.png")


def _require_integer(name: str, value: object, smallest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
        raise ValueError(f"{name} must be an integer of at least {smallest}, got {value!r}")


def _choose_layout(rng: np.random.Generator) -> Layout:
    """A street, a country road, a road across the view, or a waterside."""
    kind = str(rng.choice(["street", "country", "across", "waterside"], p=[0.28, 0.26, 0.22, 0.24]))
    season = str(rng.choice(["summer", "autumn", "spring", "winter"], p=[0.45, 0.2, 0.2, 0.15]))
    ground = "snow" if season == "winter" else str(rng.choice(["grass", "meadow", "earth"], p=[0.6, 0.25, 0.15]))
    hills = float(rng.uniform(0.08, 0.26)) if rng.random() < 0.7 else 0.0
    treeline = float(rng.uniform(0.02, 0.05)) if rng.random() < 0.5 else 0.0
    if kind == "street":
        road = Road("along", rng.uniform(2.8, 3.8), offset=rng.uniform(-2, 2), slope=rng.uniform(-0.08, 0.08))
        paved = "paving" if rng.random() < 0.65 else ground
        return Layout(paved, season, road, "", hills, 0.04, "rows", 14, 6, 8)
    if kind == "country":
        offset, bend = rng.uniform(-2.5, 2.5), rng.uniform(-0.5, 0.5)
        road = Road("along", rng.uniform(2.6, 3.4), offset=offset, slope=rng.uniform(-0.12, 0.12), bend=bend)
        water = str(rng.choice(["", "coast", "lake"], p=[0.55, 0.3, 0.15]))
        return Layout(ground, season, road, water, hills, treeline, "few", 16, 4, 4)
    if kind == "across":
        near = rng.uniform(6.5, 9.5)
        road = Road("across", rng.uniform(2.6, 3.4), near=near, far=near + rng.uniform(5.2, 6.8))
        paved = "paving" if rng.random() < 0.35 else ground
        water = "sea" if rng.random() < 0.15 else ""
        return Layout(paved, season, road, water, hills, treeline, "few" if water else "line", 14, 5, 6)
    water = str(rng.choice(["sea", "river", "lake"], p=[0.4, 0.35, 0.25]))
    if water == "sea" and season != "winter":
        ground = str(rng.choice(["sand", ground], p=[0.7, 0.3]))
    shown = hills if water != "sea" or rng.random() < 0.5 else 0.0
    return Layout(ground, season, None, water, shown, 0.0 if water == "sea" else treeline, "few", 14, 0, 7)


def _place_things(stage: Stage, layout: Layout, rng: np.random.Generator) -> list[Thing]:
    """Positions for all things: on a surface that suits them and clear of each other."""
    camera, road = stage.camera, layout.road
    surface = np.asarray(stage.mask).copy()
    taken: list[tuple[float, float, float]] = []
    zoom = camera.focal / camera.height
    start = camera.nearest_ground

    def stands_on(x: float, z: float, radius: float, allowed: int) -> bool:
        for shift_x, shift_z in ((0.0, 0.0), (-radius, 0.0), (radius, 0.0), (0.0, -radius), (0.0, radius)):
            column, row = camera.project(x + shift_x, 0, z + shift_z)
            column = min(camera.width - 1, max(0, int(column)))
            row = min(camera.height - 1, max(0, int(row)))
            if surface[row, column] != allowed:
                return False
        return True

    def claim(x: float, z: float, radius: float, allowed: int) -> bool:
        if any((x - a) ** 2 + (z - b) ** 2 < (radius + r) ** 2 for a, b, r in taken):
            return False
        if not stands_on(x, z, radius, allowed):
            return False
        taken.append((x, z, radius))
        return True

    things: list[Thing] = []
    if layout.buildings == "rows" and road is not None:
        things += _street_fronts(road, taken, rng)
    else:
        count = int(rng.integers(0, 4)) if layout.buildings == "few" else 6
        shelf = (road.far if road is not None else start) + rng.uniform(3, 12)
        for number in range(count):
            for _ in range(8):
                wide, deep = rng.uniform(7, 15), rng.uniform(6, 11)
                z = shelf + rng.uniform(0, 3) if layout.buildings == "line" else rng.uniform(16, 45)
                x = rng.uniform(-1, 1) * camera.half_width(z)
                # A road can slip between the few points that a claim looks at, so the whole plot is tested.
                plot = [(x + wide * i / 8, z + deep * j / 2) for i in range(-4, 5) for j in range(3)]
                if not all(stands_on(a, b, 0.2, GROUND) for a, b in plot):
                    continue
                if claim(x, z + deep / 2, max(wide, deep) * 0.56, GROUND):
                    things.append(_building(x - wide / 2, x + wide / 2, z, z + deep, rng, small=number % 3 != 2))
                    break
    if road is not None:
        for _ in range(int(rng.integers(1, layout.cars + 1))):
            car = _car(camera, road, FARTHEST_CAR * zoom, rng)
            if claim(car.x, car.z, 2.3 if road.direction == "across" else 1.9, ROAD):
                things.append(car)
    for _ in range(int(rng.integers(1, layout.people + 1))):
        z = rng.uniform(max(3.6, start * 0.95), max(5.0, FARTHEST_PERSON * zoom))
        x = rng.uniform(-0.95, 0.95) * camera.half_width(z)
        surfaces = (GROUND, GROUND, GROUND, ROAD)
        if claim(x, z, 0.45, surfaces[int(rng.integers(4))]):
            things.append(random_person(x, z, rng))
    for _ in range(int(rng.integers(4, layout.trees + 1))):
        tree = _tree(camera, layout, start, rng)
        radius = 0.7 if tree.species == "bush" else 1.0
        if claim(tree.x, tree.z, radius, GROUND):
            things.append(tree)
    return things


def _street_fronts(road: Road, taken: list[tuple[float, float, float]], rng: np.random.Generator) -> list[Thing]:
    """Houses on both sides of a street, with pavements and a few gaps."""
    houses: list[Thing] = []
    for side in (-1, 1):
        pavement = rng.uniform(2.6, 5.0)
        z = rng.uniform(6, 11)
        while z < 75:
            deep = rng.uniform(7, 13)
            edges = [
                road.centre(z) + side * (road.half_width + pavement),
                road.centre(z + deep) + side * (road.half_width + pavement),
            ]
            inner = max(edges) if side > 0 else min(edges)
            wide = rng.uniform(7, 12)
            # A house that would stand in front of the camera would fill the picture.
            if rng.random() < 0.86 and inner * side > 1.5:
                left, right = (inner, inner + wide) if side > 0 else (inner - wide, inner)
                houses.append(_building(left, right, z, z + deep, rng, small=rng.random() < 0.4))
                for step in (0.2, 0.5, 0.8):
                    taken.append((inner + side * wide / 2, z + deep * step, wide / 2))
            z += deep + (rng.uniform(2, 9) if rng.random() < 0.45 else 0.0)
    return houses


def _building(x0: float, x1: float, z0: float, z1: float, rng: np.random.Generator, small: bool) -> Building:
    wall = WALLS[int(rng.integers(len(WALLS)))]
    roof = str(rng.choice(["gable", "front"])) if small else "flat"
    return Building(
        x0=x0,
        x1=x1,
        z0=z0,
        z1=z1,
        height=float(rng.uniform(3.2, 6.8) if small else rng.uniform(8, 19)),
        wall=wall,
        roof_colour=ROOFS[int(rng.integers(len(ROOFS)))],
        roof=roof,
        seed=int(rng.integers(2**31)),
    )


def _car(camera: Camera, road: Road, farthest: float, rng: np.random.Generator) -> Car:
    model = str(rng.choice(list(OUTLINES)))
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    side = float(rng.choice([-1.0, 1.0]))
    lane = side * road.half_width * rng.uniform(0.46, 0.54)
    if road.direction == "along":
        z = rng.uniform(max(6.5, camera.nearest_ground + 2.5), max(9.0, farthest))
        slope = road.slope + road.bend * z / 50
        heading = math.atan(slope) + (0.0 if side > 0 else math.pi)
        return Car(road.centre(z) + lane, z, heading, model, paint)
    z = (road.near + road.far) / 2 + lane
    x = rng.uniform(-1, 1) * camera.half_width(z)
    return Car(x, z, side * -math.pi / 2, model, paint)


def _tree(camera: Camera, layout: Layout, start: float, rng: np.random.Generator) -> Tree:
    species = str(rng.choice(["round", "tall", "conifer", "bush"], p=[0.42, 0.14, 0.26, 0.18]))
    low, high = {"round": (4.5, 9.5), "tall": (6, 11), "conifer": (5, 12), "bush": (0.8, 1.7)}[species]
    z = float(math.exp(rng.uniform(math.log(max(6.0, start * 1.3)), math.log(45))))
    if species == "bush":
        z = min(z, 20.0)
    return Tree(
        x=float(rng.uniform(-1.05, 1.05) * camera.half_width(z)),
        z=z,
        height=float(rng.uniform(low, high)),
        species=species,
        colour=leaf_colour(species, layout.season, rng),
        seed=int(rng.integers(2**31)),
    )


def _cast_shadows(stage: Stage, things: list[Thing]) -> None:
    """Darken the ground, roads and water where things keep the sun off."""
    layer = Image.new("L", (stage.camera.width // 2, stage.camera.height // 2))
    draw = ImageDraw.Draw(layer)
    strength = int(255 * stage.light.shadow)
    for thing in things:
        for outline in thing.shadows(stage):
            draw.polygon([(x / 2, y / 2) for x, y in outline], fill=strength)
    softness = 0.012 if stage.light.shadow < 0.3 else 0.002
    layer = layer.filter(ImageFilter.BoxBlur(softness * stage.camera.height))
    layer = layer.resize(stage.picture.size, Image.Resampling.NEAREST)
    # Shadows lie on the ground: whatever rises above the horizon keeps its light.
    layer.paste(0, (0, 0, stage.camera.width, max(0, int(stage.camera.horizon))))
    stage.picture.paste((24, 28, 48), (0, 0), layer)


def _develop(stage: Stage, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The finished picture and mask: reduced to size, with the marks of a real camera."""
    # Classes must never blend, so the mask takes one of the pixels that the picture averages.
    mask = np.ascontiguousarray(np.asarray(stage.mask)[::SUPERSAMPLE, ::SUPERSAMPLE])
    small = stage.picture.reduce(SUPERSAMPLE)
    blur = rng.uniform(0.2, 0.6)
    if blur > 0.35:
        small = small.filter(ImageFilter.BoxBlur(blur))
    picture = np.asarray(small).astype(np.float32)
    height, width = mask.shape
    tile = noise_tile(0.7)
    shift = rng.integers(0, 512, 2)
    rows, columns = (np.arange(height) + shift[0]) % 512, (np.arange(width) + shift[1]) % 512
    roughness = np.full(len(CLASSES), 0.035, dtype=np.float32)
    roughness[[SKY, WATER]] = 0.0
    roughness[ROAD] = 0.05
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    gain = 1 + roughness[mask] * tile[rows[:, None], columns[None, :]]
    gain *= rng.uniform(0.95, 1.08) * (1 - rng.uniform(0.05, 0.2) * (x * x + y * y) / 2)
    picture *= gain[:, :, None]
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(1.0, 4.0)
    picture += grain
    return np.clip(picture, 0, 255).astype(np.uint8), mask
