"""Measure the arithmetic floor: how fast this machine multiplies matrices, without any other work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.measure import Contestant, timed
from benchmarks.process import Given

# (rows, inputs, outputs): the network's larger products, and still larger ones, whose rate is at least as high.
_SHAPES = ((16384, 256, 256), (16384, 512, 512), (4096, 1024, 1024), (2048, 2048, 2048))
_TRIES = 3


def fastest_product() -> Callable[[str], dict[str, Any]]:
    """Return a function that runs torch's fastest matrix product of a dtype on this machine, once.

    The first call for a dtype tries `torch.mm` (MKL on x86) and `conv2d` with 1 x 1 kernels on channels-last images
    (oneDNN), each in several shapes. The function returns `rates`, the GMAC/s of each product that was tried, and
    `gmac`, the size of the fastest one.
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
    """Return matrix products by name, each with its GMAC."""
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


def contestants(products: dict[str, Given], gmac: float, peer: str) -> list[Contestant]:
    """Return the rows of the floor of a network with so many GMAC, from `fastest_product` given each dtype."""

    def row(dtype: str, product: Given) -> Contestant:
        factor = gmac / product()["gmac"]
        return Contestant(f"arithmetic floor, {dtype}", "floor", lambda: product.seconds() * factor, peer)

    return [row(dtype, product) for dtype, product in products.items()]
