"""Measure an image's cost by batch size, image size, number of images and model, in eager torch on both sides."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import ours, peers
from benchmarks.measure import Contestant, Table, compare
from benchmarks.process import Child, Children, Given
from benchmarks.settings import Settings
from ray_segformer.network import gmac

# Hidden sizes, depths, decoder's hidden size: table 6 of the paper.
_VARIANTS = {
    "B0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "B1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "B2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "B3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "B4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "B5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}
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
    variants = list(_VARIANTS)[:most]
    with Children(settings.threads) as children, tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        their_network = children.start(their_networks)
        our_network = children.start(our_networks)
        loop = children.start(peers.tutorial_loop, settings.model)
        predictor = children.start(ours.our_predictor, settings.model, "eager", ("float32",)).given("float32")
        networks = their_network, our_network, settings.rounds(3)
        predictors = loop, predictor, settings.rounds(2)
        pixels = functools.partial(_pixels, settings.photos[0])
        b0 = settings.model

        batches: Cases = [(f"{size}", size, (pixels(512, size), b0)) for size in (1, 2, 4, 8, 16)[:most]]
        inputs: Cases = [(f"{side} x {side}", 1, (pixels(side), b0)) for side in (256, 512, 768, 1024)[:most]]
        models: Cases = [(name, 1, (pixels(512), _random_model(name, folder))) for name in variants]
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
        row["gmac"] = gmac(_config(name).to_dict(), 512, 512, folded=False)
        row["folded"] = gmac(_config(name).to_dict(), 512, 512)
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


def _pixels(photo: str, side: int, batch: int = 1) -> np.ndarray:
    """Return normalised pixel values (batch, 3, side, side) of a photo."""
    image = np.asarray(Image.open(photo).convert("RGB").resize((side, side)), np.float32)
    one = ((image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)
    return np.repeat(one[None].astype(np.float32), batch, axis=0)


def _resized(photo: str, folder: str, side: int) -> str:
    path = Path(folder, f"{side}.jpg")
    Image.open(photo).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(path, quality=92)
    return str(path)


def _config(name: str) -> Any:
    from transformers import SegformerConfig

    sizes, depths, decoder = _VARIANTS[name]
    labels = {class_id: str(class_id) for class_id in range(150)}
    return SegformerConfig(hidden_sizes=list(sizes), depths=list(depths), decoder_hidden_size=decoder, id2label=labels)


def _random_model(name: str, folder: str) -> str:
    """Write a model with random weights to a directory in `folder`, and return the directory."""
    from transformers import SegformerForSemanticSegmentation

    torch.manual_seed(0)
    directory = str(Path(folder, name))
    SegformerForSemanticSegmentation(_config(name)).save_pretrained(directory)
    return directory


def their_networks() -> Callable[[np.ndarray, str], np.ndarray]:
    """Return `logits(pixels, directory)` of transformers' models, each loaded when it is first used."""
    from transformers import SegformerForSemanticSegmentation

    @functools.cache
    def network(directory: str) -> peers.Logits:
        return peers.network_of(SegformerForSemanticSegmentation.from_pretrained(directory).eval())

    return lambda pixels, directory: network(directory)(pixels)


def our_networks() -> Callable[[np.ndarray, str], np.ndarray]:
    """Return `logits(pixels, directory)` of our networks, each loaded when it is first used."""
    network = functools.cache(lambda directory: ours.our_network(directory, "eager", ("float32",)))
    return lambda pixels, directory: network(directory)(pixels, "float32")
