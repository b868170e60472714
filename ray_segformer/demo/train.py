"""Train the demonstration checkpoint: a small SegFormer that has seen nothing but generated scenes.

    python -m ray_segformer.demo.train --output DIR

The directory then holds config.json, model.safetensors and preprocessor_config.json, as any SegFormer from
the Hugging Face Hub does, and training.json with the accuracy on scenes that
training never saw ("held_out_seeds" names the first and the last).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from ray_segformer import SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer.demo.scenes import CLASSES, make_scene
from ray_segformer.metrics import confusion_matrix, mean_iou, per_class_iou
from ray_segformer.preprocessor import IMAGENET_MEAN, IMAGENET_STD

INPUT_SIZE = 256
INFERENCE_SIZE = 320  # small things gain more by being seen larger than large ones lose

# Held-out scenes are numbered from 0, scenes for training from here on.
FIRST_TRAINING_SEED = 1_000_000
MOST_TRAINING_SCENES = 4000
LEARNING_RATE = 2e-3


def build_model() -> SegformerForSemanticSegmentation:
    """An untrained SegFormer for `CLASSES` with about 0.9 million float32 parameters."""
    return SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=[16, 32, 80, 128],
            depths=[2, 2, 2, 2],
            num_attention_heads=[1, 2, 5, 8],
            decoder_hidden_size=64,
            drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
            id2label=dict(enumerate(CLASSES)),
            label2id={name: number for number, name in enumerate(CLASSES)},
        )
    )


def training_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene of a size and shape of its own, squeezed into the model's input as inference will do it.

    Returns the picture, uint8 (256, 256, 3), and its mask, uint8 (256, 256).
    """
    rng = np.random.default_rng([seed, 2])
    height = int(rng.integers(224, 481))
    picture, mask = make_scene(seed, height, int(height * rng.uniform(0.9, 1.6)))
    size = (INPUT_SIZE, INPUT_SIZE)
    squeezed = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(squeezed), np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def training_scenes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` scenes drawn by all processors: uint8 (count, 3, 256, 256) and uint8 (count, 256, 256)."""
    pictures = torch.empty((count, 3, INPUT_SIZE, INPUT_SIZE), dtype=torch.uint8)
    masks = torch.empty((count, INPUT_SIZE, INPUT_SIZE), dtype=torch.uint8)
    seeds = range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + count)
    # Starting processes takes longer than drawing a few scenes. "spawn" is safe whatever threads run here.
    pool = multiprocessing.get_context("spawn").Pool(os.cpu_count()) if count > 200 else None
    drawn = pool.imap(training_scene, seeds, chunksize=16) if pool else map(training_scene, seeds)
    try:
        for number, (picture, mask) in enumerate(drawn):
            pictures[number] = torch.from_numpy(picture.copy()).permute(2, 0, 1)
            masks[number] = torch.from_numpy(mask.copy())
    finally:
        if pool:
            pool.terminate()
            pool.join()
    return pictures, masks


def augment(
    pictures: torch.Tensor, masks: torch.Tensor, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut, flip and recolour a batch at random.

    Takes uint8 (N, 3, 256, 256) and (N, 256, 256); returns normalized float32 (N, 3, size, size) and
    int64 (N, size, size).
    """
    inputs, labels = [], []
    for picture, mask in zip(pictures, masks, strict=True):
        # Small inputs get cuts of 1 to 1/2 of the scene, full ones of the whole or nearly so.
        side = int(INPUT_SIZE * rng.uniform(0.5 if size < INPUT_SIZE else 0.8, 1.0))
        if size == INPUT_SIZE and rng.random() < 0.5:
            side = INPUT_SIZE
        top, left = (int(n) for n in rng.integers(0, INPUT_SIZE - side + 1, 2))
        cut = picture[:, top : top + side, left : left + side].float()[None]
        label = mask[top : top + side, left : left + side].float()[None, None]
        if side != size:
            cut = functional.interpolate(cut, (size, size), mode="bilinear", antialias=True)
            label = functional.interpolate(label, (size, size), mode="nearest")
        if rng.random() < 0.5:
            cut, label = cut.flip(3), label.flip(3)
        tint = torch.tensor(rng.uniform(0.93, 1.07, 3) * rng.uniform(0.8, 1.2), dtype=torch.float32)
        cut = cut * tint[None, :, None, None]
        cut = cut.mean() + (cut - cut.mean()) * rng.uniform(0.85, 1.15)
        grey = cut.mean(dim=1, keepdim=True)
        cut = grey + (cut - grey) * rng.uniform(0.75, 1.2)
        inputs.append(cut.clamp(0, 255))
        labels.append(label[0].long())
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    batch = (torch.cat(inputs) / 255 - mean[None, :, None, None]) / std[None, :, None, None]
    return batch, torch.cat(labels)


def train(model: SegformerForSemanticSegmentation, steps: int, batch_size: int, seed: int) -> None:
    """Train `model` in place, printing the loss now and then."""
    rng = np.random.default_rng([seed, 3])
    started = time.perf_counter()
    pictures, masks = training_scenes(min(steps * batch_size, MOST_TRAINING_SCENES))
    print(f"drew {len(pictures)} scenes in {time.perf_counter() - started:.0f} s", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=min(0.08, 1 / steps * 200)
    )
    model.train()
    order = np.empty(0, dtype=np.int64)
    for step in range(steps):
        # The first part runs at a quarter of the cost, on small inputs; the rest on the real ones.
        size = INPUT_SIZE // 2 if step < 0.6 * steps else INPUT_SIZE
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(len(pictures))])
        chosen, order = torch.from_numpy(order[:batch_size]), order[batch_size:]
        inputs, labels = augment(pictures[chosen], masks[chosen], size, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=inputs).logits
        logits = functional.interpolate(logits.float(), (size, size), mode="bilinear", align_corners=False)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            seconds = time.perf_counter() - started
            print(f"step {step + 1}/{steps}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)


def evaluate(checkpoint: SegformerCheckpoint, count: int) -> dict[str, Any]:
    """Accuracy on the held-out scenes 0 to `count` - 1 at 480x640, from one confusion matrix for all."""
    predictor = SegformerPredictor(checkpoint)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for seed in range(count):
        picture, mask = make_scene(seed)
        (predicted,) = predictor.predict({"image": picture[None]})["segmentation"]
        confusion += confusion_matrix(predicted, mask, len(CLASSES))
    iou = {name: round(float(value), 4) for name, value in zip(CLASSES, per_class_iou(confusion), strict=True)}
    return {
        "miou": round(mean_iou(confusion), 4),
        "iou": {name: None if np.isnan(value) else value for name, value in iou.items()},
        "accuracy": round(float(np.trace(confusion) / confusion.sum()), 4),
        "held_out_seeds": [0, count - 1],
    }


def main() -> None:
    """Train, evaluate and save: the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_segformer.demo.train", description="Train a small SegFormer on generated scenes."
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the checkpoint; a new one")
    parser.add_argument("--steps", type=_positive, default=2000, help="training steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=_positive, default=16, help="default: %(default)s")
    parser.add_argument("--seed", type=_seed, default=0, help="of weights and augmentation (default: 0)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: what PyTorch chooses)")
    parser.add_argument(
        "--evaluate", type=_positive, default=200, metavar="N", help="held-out scenes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.output.is_dir() and any(arguments.output.iterdir()):
        parser.error(f"{arguments.output} exists and is not empty; name a new directory")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    started = time.perf_counter()
    model = build_model()
    train(model, arguments.steps, arguments.batch_size, arguments.seed)
    seconds = time.perf_counter() - started
    preprocessor = SegformerPreprocessor(INFERENCE_SIZE)
    metrics = evaluate(SegformerCheckpoint.from_model(model, preprocessor), arguments.evaluate)
    metrics.update(seconds=round(seconds, 1), steps=arguments.steps)
    SegformerCheckpoint.from_model(model, preprocessor, arguments.output, training=metrics)
    for name, value in metrics["iou"].items():
        print(f"{name:<10}" + ("   none" if value is None else f"{value:7.4f}"))
    print(f"{'mIoU':<10}{metrics['miou']:7.4f}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {number}")
    return number


if __name__ == "__main__":
    main()
