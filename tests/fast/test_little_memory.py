"""Batches that need more memory than there is: they are predicted in groups, or in pieces."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from reference import agreement, picture

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.network import pieces
from ray_segformer.pretrained import SegformerContent


class LittleMemory:
    """A runtime that holds so many pixels at once; CUDA's error says so. The network is the real one."""

    def __init__(self, runtime, pixels):
        self._runtime, self._pixels = runtime, pixels
        self.rows, self.calls = 8, []

    def __call__(self, pixel_values):
        rows, _, height, width = pixel_values.shape
        self.calls.append((rows, height))
        assert rows <= self.rows
        if rows * height * width > self._pixels:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.cat([self._runtime(pixel_values[row : row + 1]).clone() for row in range(rows)])


class LittleMemoryCheckpoint(SegformerCheckpoint):
    """A checkpoint whose runtimes have little memory."""

    pixels = 0
    runtimes = ()

    @property
    def content(self):
        """The content, whose runtime is noted in `runtimes`."""
        content, checkpoint = super().content, self

        class Content(SegformerContent):
            def make_runtime(self, **options):
                checkpoint.runtimes = [LittleMemory(content.make_runtime(**options), checkpoint.pixels)]
                return checkpoint.runtimes[0]

        return Content(**{field.name: getattr(content, field.name) for field in dataclasses.fields(content)})


def little_memory(directory, pixels, **options):
    checkpoint = LittleMemoryCheckpoint.from_pretrained(directory)
    checkpoint.pixels = pixels
    predictor = SegformerPredictor(checkpoint, use_gpu=False, **options)
    return predictor, checkpoint.runtimes[0]


def test_out_of_memory_on_a_gpu_halves_the_group_and_goes_on(small, small_dir):
    pictures = [picture(40, 60, seed) for seed in range(13)]
    predictor, runtime = little_memory(small_dir, 3 * 64 * 96)
    masks = predictor.predict({"image": np.stack(pictures)})["segmentation"]
    # 8 and 4 are too many for this memory; then 2 at a time is not tried again with more.
    assert runtime.calls == [(8, 64), (4, 64), *[(2, 64)] * 6, (1, 64)]
    assert agreement(masks, [small.mask(Image.fromarray(image)) for image in pictures]) >= 0.9999
    runtime.calls.clear()
    predictor.predict({"image": np.stack(pictures[:4])})
    assert runtime.calls == [(2, 64)] * 2


def test_large_images_do_not_make_small_ones_come_in_small_groups(small_dir):
    predictor, runtime = little_memory(small_dir, 2 * 128 * 128)
    large, little = np.zeros((4, 3, 128, 128), np.uint8), np.zeros((8, 3, 64, 64), np.uint8)
    predictor.predict({"pixel_values": large})
    predictor.predict({"pixel_values": little})
    assert runtime.calls == [(4, 128), (2, 128), (2, 128), (8, 64)]


def test_one_image_that_a_gpu_does_not_hold_is_named_with_its_size(small_dir):
    predictor, runtime = little_memory(small_dir, 64 * 64)
    mixed = np.empty(3, object)
    mixed[:] = [np.zeros((3, 64, 64), np.uint8), *[np.zeros((3, 128, 160), np.uint8)] * 2]
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"row 1 of the batch, 160 x 128 pixels: .*Tried to allocate"):
        predictor.predict({"pixel_values": mixed})
    assert runtime.calls == [(1, 64), (2, 128), (1, 128)]


def test_a_batch_of_huge_images_comes_in_pieces():
    rows = [(6000, 4000)] * 3 + [(20_000, 20_000), (0, 0)] + [(100, 100)] * 5
    batch = {"original_size": np.array(rows, np.int32), "number": np.arange(10)}
    found = [piece["number"].tolist() for piece in pieces(batch, 1)]
    assert found == [[0, 1], [2], [3], [4, 5, 6, 7, 8, 9]]
    assert [len(piece["number"]) for piece in pieces(batch, 5)] == [1, 1, 1, 1, 6]
    batch = {"original_size": np.full((6, 2), 4096, np.int32), "number": np.arange(6)}  # of 16 MiB each
    assert [len(piece["number"]) for piece in pieces(batch, 1)] == [4, 2]
