"""Measure the network alone: the logits of one real photo at 512 x 512, and the arithmetic floor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor

from benchmarks import floor, ours, peers
from benchmarks.measure import TIME_COLUMNS, Contestant, Table, compare, progress
from benchmarks.process import KEPT, Child, Children, Given
from benchmarks.settings import Settings
from ray_segformer.network import gmac, upsampled_argmax

_EAGER = "transformers, eager"

# Contestants by the names of their rows.
Networks = dict[str, Child | Given]


def run(settings: Settings) -> list[Table]:
    """Return three tables: times, agreement with transformers, matrix products."""
    processor = AutoImageProcessor.from_pretrained(settings.model)
    photos = settings.photos + settings.ade20k + settings.streets[:20]
    images = [Image.open(path).convert("RGB") for path in (photos[:4] if settings.quick else photos)]
    pixels = [processor(image, return_tensors="np")["pixel_values"] for image in images]
    with Children(settings.threads) as children:
        theirs, mine = _networks(settings, children)
        product = children.start(floor.fastest_product, keep_memory=True)
        products = {dtype: product.given(dtype) for dtype in ours.DTYPES}
        children.wait()
        times = _times(settings, pixels, theirs, mine, products)
        return [times, _agreement(images, pixels, theirs, mine), _products(products)]


def _networks(settings: Settings, children: Children) -> tuple[Networks, Networks]:
    """Start the peers and our networks."""
    model = settings.model
    theirs: Networks = {
        _EAGER: children.start(peers.transformers_network, model),
        f"{_EAGER}, {KEPT}": children.start(peers.transformers_network, model, keep_memory=True),
    }
    if "compile" in settings.runtimes:
        theirs["transformers, torch.compile"] = children.start(peers.transformers_network, model, True)
    openvino = children.start(peers.openvino_network, model, settings.threads)
    theirs |= {f"transformers in OpenVINO, {dtype}": openvino.given(dtype) for dtype in ours.DTYPES}
    mine: Networks = {}
    for runtime in settings.runtimes:
        network = children.start(ours.our_network, model, runtime)
        mine |= {f"{runtime}, {dtype}": network.given(dtype) for dtype in ours.DTYPES}
        if runtime != "openvino":  # OpenVINO keeps its memory by itself
            network = children.start(ours.our_network, model, runtime, keep_memory=True)
            mine |= {f"{runtime}, {dtype}, {KEPT}": network.given(dtype) for dtype in ours.DTYPES}
    return theirs, mine


def _times(
    settings: Settings, pixels: list[np.ndarray], theirs: Networks, mine: Networks, products: dict[str, Given]
) -> Table:
    one, four = pixels[0], np.concatenate(pixels[:4])

    def single(network: Child | Given) -> Callable[[], float]:
        return lambda: network.seconds(one)

    def in_fours(network: Child | Given) -> Callable[[], float]:
        return lambda: network.seconds(four) / len(four)

    contestants = []
    for name, network in theirs.items():
        contestants.append(Contestant(name, "peer", single(network), _EAGER))
        if name.startswith(_EAGER):
            contestants.append(Contestant(f"{name}, four at a time", "peer", in_fours(network), _EAGER))
    contestants += [Contestant(name, "ours", single(network), _EAGER) for name, network in mine.items()]

    with open(os.path.join(settings.model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    arithmetic = gmac(config, 512, 512)
    contestants += floor.contestants(products, arithmetic, _EAGER)
    return Table(
        "Network: logits of one 512 x 512 photo, B0",
        TIME_COLUMNS,
        compare(contestants, settings.rounds(15)),
        [
            f"The floor: {arithmetic:.2f} GMAC (folded decoder; {gmac(config, 512, 512, folded=False):.2f} as in the "
            "paper) at the rate of this machine's fastest matrix product, which is measured in the same rounds.",
            f"'{KEPT}': glibc does not return freed memory to the kernel. In Ray's actors, this package sets that.",
        ],
    )


def _agreement(images: list[Image.Image], pixels: list[np.ndarray], theirs: Networks, mine: Networks) -> Table:
    """Compare the logits and masks of every mode with transformers' (eager, float32), over all photos."""
    modes = {name: network for name, network in (theirs | mine).items() if _EAGER not in name and KEPT not in name}
    difference = dict.fromkeys(modes, 0.0)
    differing = dict.fromkeys(modes, 0)
    unsure = dict.fromkeys(modes, 0.0)
    total = 0
    for number, (image, values) in enumerate(zip(images, pixels, strict=True), start=1):
        progress(f"agreement with transformers: photo {number} of {len(images)}")
        size = (image.height, image.width)
        expected = theirs[_EAGER](values)
        expected_mask, expected_confidence = _mask(expected, size)
        total += expected_mask.size
        for name, network in modes.items():
            logits = network(values)
            if name in mine:
                mask, confidence = upsampled_argmax(torch.from_numpy(logits[0]), size, confidence=True)
            else:
                mask, confidence = _mask(logits, size)
            difference[name] = max(difference[name], float(np.abs(logits - expected).max() / np.abs(expected).max()))
            differing[name] += int((mask != expected_mask).sum())
            unsure[name] += float(np.abs(confidence - expected_confidence).sum(dtype=np.float64))
    progress("")
    rows = [
        {
            "name": name,
            "side": "ours" if name in mine else "peer",
            "logits": difference[name],
            "equal": 1 - differing[name] / total,
            "differing": differing[name],
            "confidence": unsure[name] / total,
        }
        for name in modes
    ]
    return Table(
        f"Network: agreement with transformers, eager, float32, over {len(images)} photos",
        {
            "name": "",
            "logits": "logits",
            "equal": "equal pixels",
            "differing": "differing pixels",
            "confidence": "confidence off by",
        },
        rows,
        [
            "Logits: the largest difference divided by the largest logit, of the worst photo.",
            f"Pixels: of the masks at the photos' own sizes, {total:,} in all. Ours are made by our upsampled argmax, "
            "the peers' by interpolation and argmax.",
            "Confidence: the probability of the winning class, by how much it differs on average over the pixels.",
        ],
    )


def _mask(logits: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids (height, width) of logits (1, h, w, classes), as transformers does, and their probabilities."""
    tensor = torch.from_numpy(logits).permute(0, 3, 1, 2).contiguous()
    resized = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
    return resized[0].argmax(dim=0).numpy(), resized[0].softmax(dim=0).amax(dim=0).numpy()


def _products(products: dict[str, Given]) -> Table:
    rates = {dtype: product()["rates"] for dtype, product in products.items()}
    rows = [{"name": name, **{dtype: rates[dtype][name] for dtype in rates}} for name in rates["float32"]]
    columns = {"name": "GMAC/s", **{dtype: dtype for dtype in rates}}
    return Table("Matrix products of this machine, the best of three tries", columns, rows)
