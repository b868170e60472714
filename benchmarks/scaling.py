"""Measure an image's cost by batch size, image size, number of images and model, in eager torch on both sides."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import ours, peers
from benchmarks.measure import Contestant, Table, compare
from benchmarks.process import Child, Children, Given
from benchmarks.settings import Settings
from benchmarks.variants import VARIANTS, config_of, pixels_of, random_model
from ray_segformer.network import gmac

_COLUMNS = {
    "theirs": "transformers, ms/image",
    "ms": "ours, ms/image",
    "ratio": "times the peer's speed",
    "ratio_by_round": "by round",
}

# The rows of a table: the label, the number of images, and the arguments of both functions.
Cases = list[tuple[str, int, tuple[Any, ...]]]


def run(settings: Settings) -> list[Table]:
    """Return a table for each of these."""
    most = 2 if settings.quick else None
    variants = list(VARIANTS)[:most]
    with Children(settings.threads) as children, tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        their_network = children.start(their_networks)
        our_network = children.start(our_networks)
        loop = children.start(peers.tutorial_loop, settings.model)
        predictor = children.start(ours.our_predictor, settings.model, "eager", ("float32",)).given("float32")
        networks = their_network, our_network, settings.rounds(3)
        predictors = loop, predictor, settings.rounds(2)
        pixels = functools.partial(pixels_of, settings.photos[0])
        b0 = settings.model

        batches: Cases = [(f"{size}", size, (pixels(512, 512, size), b0)) for size in (1, 2, 4, 8, 16)[:most]]
        inputs: Cases = [(f"{side} x {side}", 1, (pixels(side, side), b0)) for side in (256, 512, 768, 1024)[:most]]
        models: Cases = [(name, 1, (pixels(512, 512), random_model(name, folder))) for name in variants]
        numbers: Cases = [(f"{number}", number, (settings.mixed(number), 8)) for number in (1, 8, 32)[:most]]
        outputs: Cases = [
            (f"{side} x {side}", 1, ([_resized(settings.photos[0], folder, side)], 1))
            for side in (256, 512, 1024, 2048)[:most]
        ]
        children.wait()
        tables = [
            _table("Network, by batch size", "images at once", batches, *networks),
            _table("Network, by its input's size", "pixel values", inputs, *networks),
            _table("Network, by model; random weights", "SegFormer", models, *networks),
            _table("JPEG file to mask, by the image's size", "image", outputs, *predictors),
            _table("JPEG files to masks, by their number", "images", numbers, *predictors),
        ]
    for row, name in zip(tables[2].rows, variants, strict=True):
        row["gmac"] = gmac(config_of(name).to_dict(), 512, 512, folded=False)
        row["folded"] = gmac(config_of(name).to_dict(), 512, 512)
    tables[2].columns |= {"gmac": "GMAC", "folded": "GMAC, folded"}
    tables[4].notes.append("In batches of 8, in one process that has loaded its model.")
    return tables


def _table(title: str, heading: str, cases: Cases, theirs: Child | Given, mine: Child | Given, rounds: int) -> Table:
    contestants = []
    for label, images, arguments in cases:
        peer = f"{label}, transformers"
        contestants += [
            Contestant(peer, "peer", _per_image(theirs, images, arguments)),
            Contestant(label, "ours", _per_image(mine, images, arguments), peer),
        ]
    table = compare(contestants, rounds)
    rows = [
        {**own, "theirs": peer["ms"], "peer_samples": peer["samples"]}
        for peer, own in zip(table[::2], table[1::2], strict=True)
    ]
    return Table(f"{title}: eager, float32", {"name": heading, **_COLUMNS}, rows)


def _per_image(function: Child | Given, images: int, arguments: tuple[Any, ...]) -> Callable[[], float]:
    return lambda: function.seconds(*arguments) / images


def _resized(photo: str, folder: str, side: int) -> str:
    path = Path(folder, f"{side}.jpg")
    Image.open(photo).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(path, quality=92)
    return str(path)


def their_networks() -> Callable[[np.ndarray, str], np.ndarray]:
    """Return `logits(pixels, directory)` of transformers' models, each loaded when it is first used."""
    network = functools.cache(peers.transformers_network)
    return lambda pixels, directory: network(directory)(pixels)


def our_networks() -> Callable[[np.ndarray, str], np.ndarray]:
    """Return `logits(pixels, directory)` of our networks, each loaded when it is first used."""
    network = functools.cache(lambda directory: ours.our_network(directory, "eager", ("float32",)))
    return lambda pixels, directory: network(directory)(pixels, "float32")
