"""Generated outdoor scenes, each with a pixel-exact class mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ray_segformer.demo._classes import CLASSES, ROAD, SKY, WATER
from ray_segformer.demo._layout import Thing, choose_layout, place_things
from ray_segformer.demo._roads import draw_road
from ray_segformer.demo._stage import SUPERSAMPLE, Camera, Stage, choose_light, noise_tile
from ray_segformer.demo._surroundings import draw_hills, draw_treeline, empty_stage
from ray_segformer.demo._water import fill_water, reflect_in_water, water_shore

SMALLEST = 16  # pixels: the smallest side of a scene


def make_scene(seed: int, height: int = 480, width: int = 640) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one outdoor scene.

    The same (seed, height, width) always gives the same scene, to the pixel, as long as the versions of NumPy and
    Pillow are the same.

    Args:
        seed: the number of the scene, at least 0.
        height: pixels, at least 16.
        width: pixels, at least 16.

    Returns:
        The picture, uint8 `(height, width, 3)`, RGB, and its mask, uint8 `(height, width)`, whose values are positions
        in `CLASSES`. Not every scene contains every class.

    Raises:
        ValueError: `seed`, `height` or `width` is not an integer, or is too small.
    """
    _require_integer("seed", seed, 0)
    _require_integer("height", height, SMALLEST)
    _require_integer("width", width, SMALLEST)
    rng = np.random.default_rng(seed)
    light = choose_light(rng)
    layout = choose_layout(rng)
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
        # A lake may cover the road. The road is drawn after it, so that it stays visible.
        draw_road(stage, layout.road, rng)
    things = sorted(place_things(stage, layout, rng), key=lambda thing: -thing.z)
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
    """Write scenes to a directory, as a segmentation dataset.

    Writes `directory/images/scene_00000.jpg` (JPEG, quality 92) and `directory/annotations/scene_00000.png` (8-bit
    mask, mode "L", class ids), and so on, for the seeds `seed` to `seed + count - 1`. Missing directories are created.
    Existing files of these names are overwritten.

    Args:
        directory: where to write.
        count: the number of scenes, at least 0.
        seed: the seed of the first scene, at least 0.
        height: pixels, at least 16.
        width: pixels, at least 16.
        vary_size: give each scene a size of its own: each side is 0.75 to 1.25 times the given one, but at least 16
            pixels. The factors depend only on the scene's seed.

    Raises:
        ValueError: a number is not an integer, or is too small.
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


def _cast_shadows(stage: Stage, things: list[Thing]) -> None:
    """Darken the ground, roads and water where things block the sun."""
    layer = Image.new("L", (stage.camera.width // 2, stage.camera.height // 2))
    draw = ImageDraw.Draw(layer)
    strength = int(255 * stage.light.shadow)
    for thing in things:
        for outline in thing.shadows(stage):
            draw.polygon([(x / 2, y / 2) for x, y in outline], fill=strength)
    softness = 0.012 if stage.light.shadow < 0.3 else 0.002
    layer = layer.filter(ImageFilter.BoxBlur(softness * stage.camera.height))
    layer = layer.resize(stage.picture.size, Image.Resampling.NEAREST)
    # Shadows fall on the ground only, not on anything above the horizon.
    layer.paste(0, (0, 0, stage.camera.width, max(0, int(stage.camera.horizon))))
    stage.picture.paste((24, 28, 48), (0, 0), layer)


def _develop(stage: Stage, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the picture and the mask at their final size, the picture with a camera's blur, vignette and grain."""
    # The picture averages pixels. Class ids cannot be averaged, so the mask takes one of the pixels.
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
