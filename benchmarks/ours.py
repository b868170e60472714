"""This package, with the functions that the peers have in `peers`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.peers import Logits
from ray_segformer.network import make_runtime

DTYPES = ("float32", "bfloat16")


def our_network(
    directory: str, runtime: str, dtypes: Sequence[str] = DTYPES
) -> Callable[[np.ndarray, str], np.ndarray]:
    """Our network behind one of its runtimes: `logits(pixels, dtype)`."""
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    weights = load_file(os.path.join(directory, "model.safetensors"))
    networks = {dtype: network_of(config, weights, runtime, dtype) for dtype in dtypes}
    return lambda pixels, dtype: networks[dtype](pixels)


def network_of(config: dict[str, Any], weights: dict[str, torch.Tensor], runtime: str, dtype: str) -> Logits:
    """`logits` of a configuration and weights, of as many images at once as the runtime likes."""
    network = make_runtime(config, weights, runtime=runtime, dtype=dtype)

    def logits(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels)
        if len(images) <= network.rows:
            return network(images).numpy()
        # What it returns is valid until its next call.
        return np.concatenate([network(some).numpy().copy() for some in images.split(network.rows)])

    return logits


def our_predictor(
    directory: str, runtime: str, dtypes: Sequence[str] = DTYPES
) -> Callable[[Sequence[str], int, str], list[np.ndarray]]:
    """`SegformerPredictor`, without Ray running: `masks(paths, batch_size, dtype)`."""
    from ray_segformer import SegformerPredictor

    predictors = {dtype: SegformerPredictor(directory, runtime=runtime, dtype=dtype) for dtype in dtypes}

    def masks(paths: Sequence[str], batch_size: int, dtype: str) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for start in range(0, len(paths), batch_size):
            batch = np.array(paths[start : start + batch_size], object)
            results += list(predictors[dtype].predict({"image": batch})["segmentation"])
        return results

    return masks
