"""What a scene consists of, chosen at random, and where each thing stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ray_segformer.demo._buildings import ROOFS, WALLS, Building
from ray_segformer.demo._cars import OUTLINES, PAINTS, Car
from ray_segformer.demo._classes import GROUND, ROAD
from ray_segformer.demo._people import Person, random_person
from ray_segformer.demo._plants import Tree, leaf_colour
from ray_segformer.demo._roads import Road
from ray_segformer.demo._stage import Camera, Stage

# Metres, for a focal length of one picture height. They keep people at least about an eighth of the picture tall, and
# cars at least about a twelfth.
FARTHEST_PERSON = 12.5
FARTHEST_CAR = 17.0

Thing = Tree | Building | Car | Person


@dataclass(frozen=True)
class Layout:
    """What a scene consists of.

    Attributes:
        ground: the kind of ground, a key of `GROUND_COLOURS` in `_surroundings.py`.
        season: "summer", "autumn", "spring" or "winter".
        road: the road, if there is one.
        water: "sea", "river", "lake", "coast", or "" for none.
        hills: the height of the hills, as a share of the picture's height; 0 for none.
        treeline: the height of the distant wood, as a share of the picture's height; 0 for none.
        buildings: "rows" (on both sides of a street), "line" (behind a road) or "few".
        trees, cars, people: upper limits. Things that find no free place are left out.
    """

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


def choose_layout(rng: np.random.Generator) -> Layout:
    """Choose a random layout: a street, a country road, a road across the view, or a waterside."""
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


def place_things(stage: Stage, layout: Layout, rng: np.random.Generator) -> list[Thing]:
    """Return the things of a scene, each on a surface that suits it and apart from the others.

    Args:
        stage: the surroundings, already drawn. The mask says which surface is where.
        layout: what to place.
        rng: the random numbers.
    """
    camera, road = stage.camera, layout.road
    surface = np.asarray(stage.mask).copy()
    taken: list[tuple[float, float, float]] = []
    zoom = camera.focal / camera.height
    start = camera.nearest_ground

    def stands_on(x: float, z: float, radius: float, allowed: int) -> bool:
        """Return whether (x, z) and the points `radius` metres around it are on the class `allowed`."""
        for shift_x, shift_z in ((0.0, 0.0), (-radius, 0.0), (radius, 0.0), (0.0, -radius), (0.0, radius)):
            column, row = camera.project(x + shift_x, 0, z + shift_z)
            column = min(camera.width - 1, max(0, int(column)))
            row = min(camera.height - 1, max(0, int(row)))
            if surface[row, column] != allowed:
                return False
        return True

    def claim(x: float, z: float, radius: float, allowed: int) -> bool:
        """Take the place if it is free and on the class `allowed`; return whether it was taken."""
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
                # `claim` tests few points, and a road may pass between them. So the whole plot is tested first.
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
    """Return houses on both sides of a street, with pavements and a few gaps; add their places to `taken`."""
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
            # A house right in front of the camera would fill the picture.
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
