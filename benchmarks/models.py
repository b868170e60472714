"""Measure the network of larger models, and of a larger input, in each of its modes."""

from __future__ import annotations

import tempfile
from functools import partial

from benchmarks import floor, ours, peers
from benchmarks.measure import TIME_COLUMNS, Contestant, Table, compare
from benchmarks.process import Children
from benchmarks.settings import Settings
from benchmarks.variants import config_of, pixels_of, random_model
from ray_segformer.network import gmac

_EAGER = "transformers, eager"
_CASES = [("B0", 1024, 2048), ("B2", 512, 512), ("B5", 512, 512)]  # images of Cityscapes have 1024 x 2048 pixels


def run(settings: Settings) -> list[Table]:
    """Return a table for each case."""
    with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        cases = [("B0", 256, 512)] if settings.quick else _CASES
        return [_of(settings, name, random_model(name, folder), height, width) for name, height, width in cases]


def _of(settings: Settings, name: str, directory: str, height: int, width: int) -> Table:
    arithmetic = gmac(config_of(name).to_dict(), height, width)
    with Children(settings.threads) as children:
        their_network = children.start(peers.transformers_network, directory)
        mine = {}
        for runtime in settings.runtimes:
            network = children.start(ours.our_network, directory, runtime, keep_memory=runtime != "openvino")
            mine |= {f"{runtime}, {dtype}": network.given(dtype) for dtype in ours.DTYPES}
        product = children.start(floor.fastest_product, keep_memory=True)
        children.wait()
        pixels = pixels_of(settings.photos[0], height, width)
        contestants = [
            Contestant(row, "ours" if row in mine else "peer", partial(network.seconds, pixels), _EAGER)
            for row, network in ({_EAGER: their_network} | mine).items()
        ]
        products = {dtype: product.given(dtype) for dtype in ours.DTYPES}
        contestants += floor.contestants(products, arithmetic, _EAGER)
        return Table(
            f"Network: logits of one image of {height} x {width}, {name}",
            TIME_COLUMNS,
            compare(contestants, settings.rounds(5)),
            [f"Random weights; {arithmetic:.1f} GMAC with a folded decoder. Ours with the memory settings of actors."],
        )
