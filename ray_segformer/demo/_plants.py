"""Trees and bushes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ray_segformer.demo._classes import TREE
from ray_segformer.demo._stage import Colour, Point, Stage, noise_tile

LARGEST_SPRITE = 300  # pixels: a crown that is larger is drawn at this size and enlarged


@dataclass(frozen=True)
class Tree:
    """A tree or bush at (x, z); `species` is "round", "tall", "conifer" or "bush", `height` is metres."""

    x: float
    z: float
    height: float
    species: str
    colour: Colour
    seed: int

    @property
    def crown(self) -> tuple[float, float, float]:
        """Half the width, the bottom and the top of the crown in metres."""
        half, bottom = {
            "round": (0.4, 0.26),
            "tall": (0.17, 0.1),
            "conifer": (0.25, 0.08),
            "bush": (0.65, -0.04),
        }[self.species]
        return half * self.height, bottom * self.height, self.height

    def shadows(self, stage: Stage) -> list[list[Point]]:
        """Return the shadow on the ground, as polygons on the canvas."""
        camera, light = stage.camera, stage.light
        half, bottom, top = self.crown
        outline = []
        for angle in np.linspace(0, 2 * math.pi, 14, endpoint=False):
            rise = (bottom + top) / 2 + math.sin(angle) * (top - bottom) / 2
            spread = half * math.cos(angle)
            if self.species == "conifer":
                spread *= 0.2 + 0.8 * (top - rise) / (top - bottom)
            x, y, z = light.shadow_of(self.x + spread, max(0.0, rise), self.z + 0.4 * spread)
            outline.append(camera.project(x, y, z))
        tip_x, _, tip_z = light.shadow_of(self.x, bottom + 0.3, self.z)
        girth = self.height * 0.025
        trunk = [
            camera.project(self.x - girth, 0, self.z),
            camera.project(self.x + girth, 0, self.z),
            camera.project(tip_x + girth, 0, tip_z),
            camera.project(tip_x - girth, 0, tip_z),
        ]
        return [outline, trunk]

    def draw(self, stage: Stage) -> None:
        """Draw the trunk, then the crown."""
        camera, light = stage.camera, stage.light
        half, bottom, top = self.crown
        left, high = camera.project(self.x - half, top, self.z)
        right, low = camera.project(self.x + half, bottom, self.z)
        foot_x, foot_y = camera.project(self.x, 0, self.z)
        if self.species != "bush":
            girth = max(1.0, (foot_y - high) * 0.024)
            trunk_top = low - (low - high) * 0.3
            bark = light.shade((98, 78, 60), (0.0, 0.3, -0.9), self.z)
            shape = [
                (foot_x - girth * 1.3, foot_y),
                (foot_x + girth * 1.3, foot_y),
                (foot_x + girth * 0.6, trunk_top),
            ]
            stage.polygon([*shape, (foot_x - girth * 0.6, trunk_top)], bark, TREE)
            sunny = 1 if light.direction[0] > 0 else -1
            bright = light.shade((138, 112, 86), (0.0, 0.5, -0.9), self.z)
            strip = [(foot_x + sunny * girth * 1.2, foot_y), (foot_x + sunny * girth * 0.4, foot_y)]
            stage.polygon([*strip, (foot_x + sunny * girth * 0.5, trunk_top)], bright, None)
        width, height = max(2, round(right - left)), max(2, round(low - high))
        reduction = min(1.0, LARGEST_SPRITE / max(width, height))
        size = (max(2, round(width * reduction)), max(2, round(height * reduction)))
        pixels, shape_mask = self._foliage(stage, *size)
        if reduction < 1.0:
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            soft = Image.fromarray(shape_mask.astype(np.uint8) * 255)
            shape_mask = np.asarray(soft.resize((width, height), Image.Resampling.BILINEAR)) > 127
        stage.paste(pixels, shape_mask, (round(left), round(high)), TREE)

    def _foliage(self, stage: Stage, width: int, height: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the pixels of the crown, uint8 `(height, width, 3)`, and its shape, bool `(height, width)`."""
        rng = np.random.default_rng(self.seed)
        light = stage.light
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        row, column = (int(n) for n in rng.integers(0, 512 - LARGEST_SPRITE, 2))
        leaves = noise_tile(0.7)[row : row + height, column : column + width]
        clumps = noise_tile(1.2)[row : row + height, column : column + width]
        side, up = light.direction[0], light.direction[1]
        if self.species == "conifer":
            tiers = int(rng.integers(4, 8))
            # The ends of the branches hang down, so each tier is lower at the sides.
            phase = np.mod((y + 1) / 2 * tiers - 0.5 * np.abs(x) + 0.14 * clumps + 0.05 * leaves, 1)
            reach = (y + 1) / 2 * 0.72 + 0.3 * phase * ((y + 1) / 2 + 0.15)
            field = reach - np.abs(x) + 0.06 * leaves + 0.05 * clumps
            facing = 0.55 * side * x / np.maximum(reach, 0.1) + up * (0.55 - 0.85 * phase) + 0.1
        else:
            count = {"round": 9, "tall": 7, "bush": 6}[self.species]
            field = np.full((height, width), -9.0, dtype=np.float32)
            facing = np.zeros((height, width), dtype=np.float32)
            for number in range(count):
                angle = number * 2.4 + rng.uniform(-0.4, 0.4)
                distance = 0.62 * math.sqrt((number + 0.3) / count)
                radius = rng.uniform(0.34, 0.5)
                across, down = x - distance * math.cos(angle), y - distance * math.sin(angle)
                blob = 1 - (across * across + down * down) / radius**2
                nearer = blob > field
                np.copyto(field, blob, where=nearer)
                np.copyto(facing, (side * across - up * down) / radius * 0.8, where=nearer)
            field += 0.16 * leaves + 0.22 * clumps
            facing += 0.35 * (side * x - up * y)
        brightness = np.clip(0.5 + 0.42 * facing + 0.1 * leaves + 0.08 * clumps, 0.1, 1.15)[:, :, None]
        shaded = np.array(light.shade(self.colour, (0.0, -1.0, 0.0), 0.0), np.float32) * 0.5
        sunlit = np.array(light.shade(self.colour, light.direction, 0.0), np.float32) * 1.12
        haze = light.haze(self.z)
        pixels = (shaded + (sunlit - shaded) * brightness) * (1 - haze)
        pixels += np.array(light.sky_low, np.float32) * haze
        return np.clip(pixels, 0, 255).astype(np.uint8), field > 0


def leaf_colour(species: str, season: str, rng: np.random.Generator) -> Colour:
    """Choose a random colour of leaves for a season: "summer", "autumn", "spring" or "winter"."""
    choices: list[Colour] = [(84, 128, 58), (104, 142, 62), (68, 116, 66), (122, 148, 70)]
    if species == "conifer":
        choices = [(52, 92, 62), (62, 102, 60), (46, 82, 66)]
        if season == "winter":
            choices = [(150, 168, 170), (70, 100, 82)]
    elif season == "autumn":
        choices = [(196, 122, 44), (206, 158, 58), (168, 78, 46), (130, 134, 60)]
    elif season == "spring" and rng.random() < 0.4:
        choices = [(226, 168, 188), (228, 214, 214)]
    red, green, blue = choices[int(rng.integers(len(choices)))]
    vary = rng.uniform(0.85, 1.12, 3)
    return (red * vary[0], green * vary[1], blue * vary[2])
