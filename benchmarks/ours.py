"""Our side: this package behind the same functions that `peers` has for the peers."""

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
    """Load our network with one of its runtimes. Return `logits(pixels, dtype)`."""
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    weights = load_file(os.path.join(directory, "model.safetensors"))
    networks = {dtype: network_of(config, weights, runtime, dtype) for dtype in dtypes}
    return lambda pixels, dtype: networks[dtype](pixels)


def network_of(config: dict[str, Any], weights: dict[str, torch.Tensor], runtime: str, dtype: str) -> Logits:
    """Return `logits` of our network, which takes at most `Runtime.rows` images at once."""
    network = make_runtime(config, weights, runtime=runtime, dtype=dtype)

    def logits(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels)
        if len(images) <= network.rows:
            return network(images).numpy()
        # Copied, because a runtime's logits are valid only until its next call.
        return np.concatenate([network(some).numpy().copy() for some in images.split(network.rows)])

    return logits


def our_predictor(
    directory: str, runtime: str, dtypes: Sequence[str] = DTYPES
) -> Callable[[Sequence[str], int, str], list[np.ndarray]]:
    """Load `SegformerPredictor`, without a running Ray. Return `masks(paths, batch_size, dtype)`."""
    from ray_segformer import SegformerPredictor

    predictors = {dtype: SegformerPredictor(directory, runtime=runtime, dtype=dtype) for dtype in dtypes}

    def masks(paths: Sequence[str], batch_size: int, dtype: str) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        for start in range(0, len(paths), batch_size):
            batch = np.array(paths[start : start + batch_size], object)
            results += list(predictors[dtype].predict({"image": batch})["segmentation"])
        return results

    return masks
