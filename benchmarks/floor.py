"""What the network's arithmetic alone would take: its multiplications, and how fast the machine multiplies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.measure import timed

# (rows, inputs, outputs): as the network's larger products, and larger ones, which no machine is slower at.
_SHAPES = ((16384, 256, 256), (16384, 512, 512), (4096, 1024, 1024), (2048, 2048, 2048))
_TRIES = 3


def fastest_product() -> Callable[[str], dict[str, Any]]:
    """A function that runs the fastest matrix product of a dtype that torch has here, once.

    Of `torch.mm` (MKL, on x86) and `conv2d` with 1 x 1 kernels on channels-last images (oneDNN), and of several shapes;
    they are tried in the first call. It returns `rates`, GMAC/s of each that was tried, and the fastest one's `gmac`.
    """

    @functools.cache
    def tried(dtype: str) -> tuple[dict[str, float], str, dict[str, tuple[float, Callable]]]:
        products = _products(getattr(torch, dtype))
        rates = {}
        for name, (size, product) in products.items():
            product()
            rates[name] = size / min(timed(product)() for _ in range(_TRIES))
        return rates, max(rates, key=rates.__getitem__), products

    def run(dtype: str) -> dict[str, Any]:
        with torch.inference_mode():
            rates, fastest, products = tried(dtype)
            size, product = products[fastest]
            product()
        return {"rates": rates, "gmac": size}

    return run


def _products(dtype: torch.dtype) -> dict[str, tuple[float, Callable[[], Any]]]:
    """Matrix products by name, and their GMAC."""
    products = {}
    for rows, inputs, outputs in _SHAPES:
        matrix = torch.randn(rows, inputs, dtype=dtype)
        weight = torch.randn(outputs, inputs, dtype=dtype)
        image = matrix.reshape(1, rows // 64, 64, inputs).permute(0, 3, 1, 2)
        shape = f"{rows} x {inputs} x {outputs}"
        size = rows * inputs * outputs / 1e9
        products[f"torch.mm, {shape}"] = size, functools.partial(torch.mm, matrix, weight.T)
        products[f"conv2d, {shape}"] = size, functools.partial(F.conv2d, image, weight[:, :, None, None])
    return products
