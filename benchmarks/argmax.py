"""Measure the step from logits to class ids at the image's size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers.modeling_outputs import SemanticSegmenterOutput

from benchmarks import peers
from benchmarks.measure import TIME_COLUMNS, Contestant, Table, compare, progress, timed
from benchmarks.settings import Settings
from ray_segformer.network import SegformerNetwork, upsampled_argmax

_SIZES = ((512, 683), (1024, 1366))
_PHOTOS = 5  # each round takes the next photo, because the number of doubtful pixels differs between photos


def run(settings: Settings) -> list[Table]:
    """Return a table of times, and one of differing pixels."""
    _, processor = peers.load(settings.model)
    network = SegformerNetwork.from_pretrained(settings.model)
    photos = [*settings.photos[:_PHOTOS], *settings.streets[:_PHOTOS]][:: 5 if settings.quick else 1]
    with torch.inference_mode():
        logits = [
            network(processor(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"])[0].contiguous()
            for path in photos
        ]
    rows = []
    sizes = _SIZES[:1] if settings.quick else _SIZES
    for size in sizes:
        contestants = _contestants(settings, processor, logits, size)
        rows += compare(contestants, settings.rounds(7))
    torch.set_num_threads(settings.threads)
    times = Table(
        "Upsampling and argmax of one image's logits (128 x 128, 150 classes)",
        TIME_COLUMNS,
        rows,
        [f"Logits of {len(photos)} real photos; each round takes the next. Confidence: the winner's softmax."],
    )
    return [times, _differences(processor, logits, sizes)]


def _contestants(settings: Settings, processor: Any, logits: list[torch.Tensor], size: tuple[int, int]) -> list:
    where = f"{size[0]} x {size[1]}"
    threads = settings.threads
    peer, confident = f"{where}, transformers", f"{where}, softmax of interpolated logits"

    def in_turn(function: Callable[[torch.Tensor], Any], threads: int, tensors: list[torch.Tensor]) -> Any:
        photos = itertools.cycle(tensors)

        def run() -> float:
            torch.set_num_threads(threads)
            return timed(function, next(photos))()

        return run

    # The layout of transformers' network: (classes, h, w).
    theirs = [photo.permute(2, 0, 1).contiguous() for photo in logits]
    contestants = [
        Contestant(peer, "peer", in_turn(lambda x: _theirs(processor, x, size), threads, theirs), peer),
        Contestant(confident, "peer", in_turn(lambda x: _softmax(x, size), threads, theirs), confident),
    ]
    for number in sorted({1, threads}):
        name = f"{where}, ours, {number} thread{'s' * (number > 1)}"
        plain = in_turn(lambda x: upsampled_argmax(x, size), number, logits)
        both = in_turn(lambda x: upsampled_argmax(x, size, confidence=True), number, logits)
        contestants.append(Contestant(name, "ours", plain, peer))
        contestants.append(Contestant(f"{name}, with confidence", "ours", both, confident))
    return contestants


def _theirs(processor: Any, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    outputs = SemanticSegmenterOutput(logits=logits[None])
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]


def _softmax(logits: torch.Tensor, size: tuple[int, int]) -> Any:
    resized = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)
    return resized[0].softmax(dim=0).max(dim=0)


def _differences(processor: Any, logits: list[torch.Tensor], sizes: Sequence[tuple[int, int]]) -> Table:
    rows = []
    for size in sizes:
        differing = 0
        for number, photo in enumerate(logits, start=1):
            progress(f"differing pixels: photo {number} of {len(logits)}")
            expected = _theirs(processor, photo.permute(2, 0, 1).contiguous(), size).numpy()
            differing += int((upsampled_argmax(photo, size) != expected).sum())
        equal = 1 - differing / (size[0] * size[1] * len(logits))
        name = f"{size[0]} x {size[1]}"
        rows.append({"name": name, "photos": len(logits), "differing": differing, "equal": equal})
    progress("")
    columns = {"name": "size", "photos": "photos", "differing": "differing pixels", "equal": "equal"}
    return Table("Upsampling and argmax: agreement with transformers on the same logits", columns, rows)
