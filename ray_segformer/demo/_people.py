"""People, standing or walking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_segformer.demo._classes import PERSON
from ray_segformer.demo._stage import Colour, Point, Stage, mix


@dataclass(frozen=True)
class Person:
    """A person who stands or walks at (x, z).

    `height` is metres. `stride` is -1 to 1, 0 for standing. `turn` is -1 (facing left), 0 (facing the camera) or 1
    (facing right). `outfit` is "trousers", "shorts", "skirt" or "backpack".
    """

    x: float
    z: float
    height: float
    stride: float
    turn: int
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    outfit: str

    def shadows(self, stage: Stage) -> list[list[Point]]:
        """Return the shadow on the ground, as polygons on the canvas."""
        outline = []
        for side, y in ((-0.14, 0), (0.14, 0), (0.24, 1.2), (0.1, 1.75), (-0.1, 1.75), (-0.24, 1.2)):
            shade = stage.light.shadow_of(self.x + side, y * self.height / 1.75, self.z)
            outline.append(stage.camera.project(*shade))
        return [outline]

    def draw(self, stage: Stage) -> None:
        """Draw the legs, the far arm, the body, the near arm and the head."""
        figure = _Figure(self, stage)
        for side in (-1, 1):
            figure.leg(side)
        figure.arm(-1)
        figure.body()
        figure.arm(1)
        figure.head()


class _Figure:
    """A person on the stage. Positions are in body heights: to the right of the feet, and up."""

    def __init__(self, person: Person, stage: Stage) -> None:
        self.person = person
        self.stage = stage
        self.feet = stage.camera.project(person.x, 0, person.z)
        self.size = stage.camera.focal * person.height / person.z
        # Arms and legs swing if seen from the side, and hang straight if seen from the front.
        self.swings = 0.0 if person.turn == 0 else 1.0
        self.broad = 0.125 if person.turn == 0 else 0.095

    def at(self, right: float, up: float) -> Point:
        """Return the canvas position of a point of the body."""
        return (self.feet[0] + right * self.size, self.feet[1] - up * self.size)

    def tone(self, colour: Colour, darkness: float = 0.0) -> Colour:
        """Return a colour in the scene's light, with a share of darkness mixed in."""
        return self.stage.light.shade(mix(colour, (16, 16, 24), darkness), (0.0, 0.35, -0.94), self.person.z)

    def limb(self, points: list[Point], width: float, colour: Colour) -> None:
        """Draw a thick line through `points`; `width` is in body heights."""
        self.stage.limb(points, self.size * width, colour, PERSON)

    def leg(self, side: int) -> None:
        """Draw a leg: -1 is the far or left one, 1 the near or right one."""
        person, darkness = self.person, 0.22 if side < 0 else 0.0
        apart = side * (0.058 if person.turn == 0 else 0.012)
        step = side * person.stride * 0.13 * self.swings
        lift = max(0.0, side * person.stride) * 0.03
        hip, foot = self.at(apart, 0.5), self.at(apart * 1.25 + step, 0.03 + lift)
        knee = self.at(apart * 1.1 + step * 0.45 + 0.02 * person.turn * abs(person.stride), 0.27 + lift)
        bare = person.outfit == "shorts"
        self.limb([hip, knee, foot], 0.1, self.tone(person.skin if bare else person.bottom, darkness))
        toe = (foot[0] + person.turn * self.size * 0.045, foot[1] + self.size * 0.004)
        self.limb([foot, toe], 0.062, self.tone((52, 46, 44)))
        if bare:
            hem = ((hip[0] + knee[0]) / 2, (hip[1] + knee[1]) / 2)
            self.limb([hip, hem], 0.12, self.tone(person.bottom, darkness))

    def arm(self, side: int) -> None:
        """Draw an arm: -1 is the far or left one, 1 the near or right one."""
        person = self.person
        swing = -side * person.stride * 0.11 * self.swings
        start = side * (self.broad + 0.005) if person.turn == 0 else side * 0.02
        shoulder, elbow = self.at(start, 0.785), self.at(start * 1.15 + swing * 0.5, 0.63)
        hand = self.at(start * 1.15 + swing + 0.02 * person.turn, 0.48)
        self.limb([shoulder, elbow, hand], 0.066, self.tone(person.top, 0.3 if side < 0 else 0.12))
        palm = self.size * 0.034
        self.stage.ellipse(hand, (palm, palm), self.tone(person.skin), PERSON)

    def body(self) -> None:
        """Draw the trunk and the neck, with skirt or backpack."""
        person, at, broad = self.person, self.at, self.broad
        if person.outfit == "skirt":
            skirt = [at(-0.085, 0.56), at(0.085, 0.56), at(0.15, 0.27), at(-0.15, 0.27)]
            self.stage.polygon(skirt, self.tone(person.bottom), PERSON)
        if person.outfit == "backpack" and person.turn != 0:
            behind = -person.turn * 0.12
            self.limb([at(behind, 0.76), at(behind, 0.6)], 0.12, self.tone((60, 92, 120)))
        self.limb([at(0, 0.85), at(0, 0.88)], 0.06, self.tone(person.skin, 0.15))
        right = [(0.8, 0.49), (1.0, 0.78), (0.7, 0.835)]
        left = [(-share, up) for share, up in reversed(right)]
        chest = [at(broad * share, up) for share, up in right + left]
        self.stage.polygon(chest, self.tone(person.top), PERSON)
        dark = -broad if self.stage.light.direction[0] > 0 else broad
        half = [at(dark * share, up) for share, up in ((0.15, 0.49), (0.8, 0.49), (1.0, 0.78), (0.25, 0.8))]
        self.stage.polygon(half, self.tone(person.top, 0.25), None)

    def head(self) -> None:
        """Draw the hair and the face."""
        person, size = self.person, self.size
        middle = self.at(0.015 * person.turn, 0.925)
        self.stage.ellipse(middle, (size * 0.062, size * 0.076), self.tone(person.hair), PERSON)
        face = (middle[0] + person.turn * size * 0.02, middle[1] + size * 0.018)
        self.stage.ellipse(face, (size * 0.046, size * 0.054), self.tone(person.skin), None)


def random_person(x: float, z: float, rng: np.random.Generator) -> Person:
    """Return a person at (x, z) with random clothes and pose."""
    skins = ((236, 190, 160), (206, 150, 116), (150, 100, 72), (98, 66, 50))
    hairs = ((46, 34, 28), (98, 66, 38), (206, 170, 104), (150, 150, 150), (132, 58, 32))
    clothes = (
        (200, 52, 52),
        (52, 96, 170),
        (240, 238, 232),
        (232, 178, 46),
        (64, 136, 98),
        (48, 50, 58),
        (214, 120, 158),
        (236, 112, 44),
    )
    trousers = ((52, 66, 104), (44, 44, 50), (140, 120, 92), (92, 96, 104), (110, 64, 58))
    return Person(
        x=x,
        z=z,
        height=float(rng.uniform(1.55, 1.9)),
        stride=float(rng.uniform(-1, 1)),
        turn=int(rng.integers(-1, 2)),
        skin=skins[int(rng.integers(len(skins)))],
        hair=hairs[int(rng.integers(len(hairs)))],
        top=clothes[int(rng.integers(len(clothes)))],
        bottom=trousers[int(rng.integers(len(trousers)))],
        outfit=str(rng.choice(["trousers", "shorts", "skirt", "backpack"], p=[0.5, 0.15, 0.2, 0.15])),
    )
