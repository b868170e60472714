"""The eight classes of the demonstration scenes and a colour for each."""

from __future__ import annotations

import numpy as np

CLASSES: tuple[str, ...] = ("sky", "ground", "road", "building", "tree", "car", "person", "water")
"""The class names. The position of a name is its class id in a mask."""

SKY, GROUND, ROAD, BUILDING, TREE, CAR, PERSON, WATER = range(len(CLASSES))

PALETTE = np.array(
    [
        (135, 196, 240),  # sky
        (196, 178, 122),  # ground
        (104, 104, 124),  # road
        (226, 124, 84),  # building
        (58, 142, 78),  # tree
        (246, 200, 60),  # car
        (222, 62, 112),  # person
        (44, 92, 190),  # water
    ],
    dtype=np.uint8,
)
"""An RGB colour for each class, in the order of `CLASSES`: uint8 `(8, 3)`. For overlays."""
