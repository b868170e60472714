"""Sliding windows, flips and scales, compared with mmsegmentation's way, which keeps all logits at the image's size."""

from __future__ import annotations

import gc
import json

import numpy as np
import pytest
import torch
from PIL import Image
from reference import agreement, objects, picture, slide, small_model, small_processor
from torch.nn import functional

from ray_segformer import ImageError, SegformerCheckpoint, SegformerPredictor
from ray_segformer.images import cause_of
from ray_segformer.network import View, argmax_between, segment_views
from ray_segformer.network._interpolation import Axis, Columns, add_by_torch, add_upsampled, scale_of
from ray_segformer.protocol import Protocol

CLASSES = 7


def logits_of(pixel_values):
    """Return logits that depend on a pixel's colour and on its place in the window, as those of a real network do."""
    pixels = torch.from_numpy(np.ascontiguousarray(pixel_values)).float()[None] / 255
    height, width = (-(-side // 4) for side in pixels.shape[-2:])
    small = functional.interpolate(pixels, (height, width), mode="area")
    rows = torch.linspace(-1, 1, height)[None, None, :, None].expand_as(small[:, :1])
    columns = torch.linspace(-1, 1, width)[None, None, None].expand_as(small[:, :1])
    features = torch.cat([small - 0.5, rows * 0.2, columns * 0.2], dim=1)
    weights = torch.randn((CLASSES, features.shape[1]), generator=torch.Generator().manual_seed(0))
    return torch.einsum("bchw,kc->bhwk", features, weights)[0].contiguous()


def segmented(views, size, result_of=lambda *logits: argmax_between(*logits, confidence=True), **options):
    """The class ids and the confidence of an image, whose pixel values go through `logits_of`."""
    results = np.empty(size, np.uint8), np.empty(size, np.float32)
    segmentation = segment_views(views, result_of, results, **options)
    crops = next(segmentation)
    while True:
        try:
            crops = segmentation.send(torch.stack([logits_of(crop) for crop in crops]))
        except StopIteration:
            return results


def upsampled(logits, size):
    return functional.interpolate(logits.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)[0]


def by_definition(pixels, window, stride):
    """The logits (classes, height, width) of an image (3, height, width), which is as large as its windows' sum."""
    return slide(
        lambda crop: upsampled(logits_of(crop.numpy()), crop.shape[-2:]), torch.from_numpy(pixels), window, stride
    )


def noise(height, width, seed=3):
    blocks = np.random.default_rng(seed).integers(0, 256, (3, height // 8 + 1, width // 8 + 1), np.uint8)
    return np.kron(blocks, np.ones((1, 8, 8), np.uint8))[:, :height, :width]


def check(found, expected):
    ids, confidence = found
    assert ids.shape == expected.shape[1:] and ids.dtype == np.uint8
    assert (ids == expected.argmax(0).numpy()).mean() >= 0.9999  # others are ties up to rounding
    np.testing.assert_allclose(confidence, expected.softmax(0).amax(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("window, stride", [(64, 64), (64, 32), (64, 41), (33, 11), (128, 127), (256, 100)])
@pytest.mark.parametrize("size", [(64, 64), (65, 129), (130, 97), (201, 64), (33, 250), (5, 7)])
def test_windows_are_those_of_mmsegmentation(size, window, stride):
    pixels = noise(*size)
    found = segmented([View(pixels, window=window, stride=stride)], size)
    expected = by_definition(pixels, window, stride)
    assert len(expected.argmax(0).unique()) > 1 or min(size) < 8
    check(found, expected)


@pytest.mark.slow
def test_views_of_other_sizes_and_mirrored_ones_are_averaged_at_the_images_size():
    size, views, expected = (97, 131), [], torch.zeros(CLASSES, 97, 131)
    for height, width in ((97, 131), (73, 98), (121, 164)):
        pixels = noise(height, width)
        for mirrored in (False, True):
            views.append(View(pixels, mirrored, window=64, stride=48))
            shown = pixels[..., ::-1].copy() if mirrored else pixels
            logits = by_definition(shown, 64, 48)
            logits = logits.flip(2) if mirrored else logits
            expected += functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0] / 6
    check(segmented(views, size), expected)


def test_without_windows_a_view_is_resized_to_the_image_at_once():
    size = (97, 131)
    pixels = [noise(64, 96), noise(80, 120)]
    expected = sum(upsampled(logits_of(each), size) for each in pixels) / 2
    check(segmented([View(each) for each in pixels], size), expected)


def test_parts_of_an_image_fit_together(monkeypatch):
    """As those of large images do, each of which is many parts."""
    monkeypatch.setattr("ray_segformer.network._tiles._TILE_BYTES", 16 * 4 * CLASSES * 5)
    pixels = noise(201, 250)
    views = [View(pixels, mirrored, window=64, stride=48) for mirrored in (False, True)]
    expected = (by_definition(pixels, 64, 48) + by_definition(pixels[..., ::-1].copy(), 64, 48).flip(2)) / 2
    check(segmented(views, (201, 250)), expected)


def test_the_way_of_other_devices_adds_the_same():
    """It has not been run on a GPU yet."""
    torch.manual_seed(0)
    logits = torch.randn(3, 13, 16, CLASSES)
    rows, columns = (np.unique(np.random.default_rng(0).integers(0, 560, 90)) / 4 for _ in range(2))
    down, row_shares = Axis.at(rows, scale_of(13, 140), 13), np.linspace(0.2, 1, len(rows), dtype=np.float32)
    places = Columns.of(columns, np.linspace(1, 0.1, len(columns), dtype=np.float32), [0, 41, 89], 51, 16)
    sums = [torch.ones(len(rows), len(columns), CLASSES) for _ in range(2)]
    for add, own in zip((add_upsampled, add_by_torch), sums, strict=True):
        add(logits, down, row_shares, places, own)
    assert (sums[0] - 1).abs().max() > 1
    torch.testing.assert_close(*sums)


@pytest.mark.parametrize("size, window, stride", [((70, 97), 64, 40), ((129, 64), 65, 65)])
def test_results_of_every_pixel_get_the_logits_themselves(size, window, stride):
    """Also where the last row of a window is the first of those that are filled at once, which are 64."""

    def highest(logits, down, across):
        assert logits.shape[:2] == (len(down.before), len(across.before))
        values, ids = logits.max(-1)
        return ids.numpy(), values.numpy()

    pixels = noise(*size)
    ids, values = segmented([View(pixels, window=window, stride=stride)], size, highest, every_pixel=True)
    expected = by_definition(pixels, window, stride)
    assert (ids == expected.argmax(0).numpy()).mean() >= 0.9999
    np.testing.assert_allclose(values, expected.amax(0).numpy(), atol=1e-5)


@pytest.fixture
def few_objects():
    """Hides all objects so far from the garbage collector: looking through those of torch takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(few_objects, one_thread):
    def most_in_tensors(height):
        held = []

        def watch(*logits):
            held.append(sum(tensor.nbytes for tensor in gc.get_objects() if isinstance(tensor, torch.Tensor)))
            return argmax_between(*logits, confidence=True)

        segmented([View(noise(height, 64), window=64, stride=32)], (height, 64), watch)
        assert max(held) > 0  # the windows' own are found
        return max(held)

    all_logits = 1024 * 64 * CLASSES * 4
    assert most_in_tensors(1024) - most_in_tensors(256) < all_logits / 100


# The trained network


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, options",
    [
        ((601, 650), {"window": 512, "stride": 384}),
        ((513, 300), {"window": 512, "stride": 512, "flip": True}),
        ((403, 331), {"window": 256, "stride": 200, "flip": True, "scales": (0.75, 1)}),
        ((200, 305), {"scales": (0.5, 1.25), "flip": True}),
    ],
    ids=["windows", "larger by one", "all", "scales alone"],
)
def test_a_photo_by_every_protocol(shared, real_images, trained, size, options, one_thread):
    photo = Image.open(real_images[0]).convert("RGB").resize(size[::-1])
    predictor = SegformerPredictor(str(shared / "models/segformer-b0-camvid"), confidence=True, **options)
    found = predictor.predict({"image": objects(np.asarray(photo))})
    expected = trained.averaged_logits(photo, **options)
    mask, confidence = found["segmentation"][0], found["confidence"][0]
    assert (mask == expected.argmax(0).numpy()).mean() >= 0.9999
    np.testing.assert_allclose(confidence, expected.softmax(0).amax(0).numpy(), atol=1e-3)


def test_images_of_different_sizes_share_batches_and_each_has_its_own_mask(small_dir, small):
    """Nine images of a few windows each: the network gets four windows at once, of several images."""
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    predictor = SegformerPredictor(checkpoint, window=64, stride=48)
    pictures = [picture(*size, seed) for seed, size in enumerate([(64, 64), (70, 130), (64, 65)] * 3)]
    runtime = predictor._segmenter._runtime
    sizes = []

    class FourAtOnce:
        rows = 4

        def __call__(self, pixel_values):
            sizes.append(tuple(pixel_values.shape))
            return torch.cat([runtime(row[None]).clone() for row in pixel_values])

    alone = [predictor.predict({"image": objects(each)})["segmentation"][0] for each in pictures]
    predictor._segmenter._runtime = FourAtOnce()
    predictor._segmenter._groups = type(predictor._segmenter._groups)(predictor._segmenter._runtime)
    together = predictor.predict({"image": objects(*pictures)})["segmentation"]
    assert agreement(together, alone) == 1
    assert {shape[1:] for shape in sizes} == {(3, 64, 64)}
    windows = 3 * (1 + 2 * 3 + 2)
    assert sum(shape[0] for shape in sizes) == windows and len(sizes) <= windows / 4 + 3
    expected = [
        small.averaged_logits(Image.fromarray(each), window=64, stride=48).argmax(0).numpy() for each in pictures
    ]
    assert agreement(together, expected) >= 0.9999


@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.8, 1.12)}], ids=["flip", "scales"])
def test_whole_images_are_averaged_and_sides_rounded(small_dir, small, options):
    image = picture(50, 70)
    found = SegformerPredictor(small_dir, confidence=True, **options).predict({"image": objects(image)})
    expected = small.averaged_logits(Image.fromarray(image), **options)
    assert (found["segmentation"][0] == expected.argmax(0).numpy()).mean() >= 0.999
    np.testing.assert_allclose(found["confidence"][0], expected.softmax(0).amax(0).numpy(), atol=1e-4)


@pytest.mark.parametrize(("num_labels", "dtype"), [(255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_the_dtype_follows_the_number_of_classes(num_labels, dtype):
    model = small_model(num_labels)
    with torch.no_grad():
        model.decode_head.classifier.bias[-1] += 100
    checkpoint = SegformerCheckpoint.from_model(model, small_processor())
    (mask,) = SegformerPredictor(checkpoint, window=64).predict(objects(picture(64, 80)))["segmentation"]
    assert mask.dtype == dtype and (mask == num_labels - 1).all()


@pytest.mark.parametrize(
    "options", [{"resize": "none"}, {"window": 64, "stride": 32}, {"resize": "none", "scales": (1, 2)}]
)
def test_an_image_that_is_too_small_is_an_error_of_its_row(small_dir, small, options):
    """Where transformers' model fails, and no earlier."""
    sizes = [(29, 29), (28, 40), (60, 90), (1, 1), (200, 28)]
    too_small = []
    for height, width in sizes:
        try:
            small.model(pixel_values=torch.zeros(1, 3, height, width))
            too_small.append(False)
        except RuntimeError:
            too_small.append(True)
    assert too_small == [False, True, False, True, True]
    images = objects(*(picture(*size, seed) for seed, size in enumerate(sizes)))
    found = SegformerPredictor(small_dir, on_error="keep", **options).predict({"image": images})
    causes = [error and cause_of(error) for error in found["error"]]
    assert causes == ["too small" if fails else None for fails in too_small]
    masks = [None if mask is None else mask.shape for mask in found["segmentation"]]
    assert masks == [None if fails else size for fails, size in zip(too_small, sizes, strict=True)]
    with pytest.raises(
        ImageError, match=r"row 1 of the batch: too small: .* at least 29 pixels on each side, and gets 28;"
    ):
        SegformerPredictor(small_dir, **options).predict({"image": images})


def test_options_may_be_numbers_of_numpy():
    """Summaries and settings of jobs are JSON, which does not hold them."""
    options = {"flip": True, "window": 64, "stride": 48, "scales": (0.5, 1.0)}
    of_numpy = {"flip": np.True_, "window": np.int64(64), "stride": np.uint8(48), "scales": np.float32([0.5, 1])}
    assert json.dumps(Protocol(**of_numpy).options()) == json.dumps(Protocol(**options).options())
    with pytest.raises(ValueError, match=r"window \(--window\) is a number of pixels"):
        Protocol(window=np.float64(64))


def test_a_scale_that_is_too_small(small_dir):
    with pytest.raises(ImageError, match=r"^row 0 .*too small: .* 29 pixels on each side, and gets 16;"):  # of 64 x 96
        SegformerPredictor(small_dir, scales=(0.25, 1)).predict({"image": picture(60, 90)[None]})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 0}, r"window \(--window\) is a number of pixels of at least 1, not 0"),
        ({"window": 28}, r"window \(--window\) is at least 29 pixels for this model, not 28"),
        ({"window": 64, "stride": 0}, r"stride \(--stride\) is a number of pixels of at least 1, not 0"),
        ({"flip": "no"}, r"flip \(--flip\) is True or False, not 'no'"),
        ({"window": 32, "stride": 64}, "leaves gaps"),
        ({"stride": 64}, "needs sliding windows"),
        ({"resize": "long-side"}, r"resize \(--resize\) is one of"),
        ({"scales": ()}, r"scales \(--scales\) are"),
        ({"scales": (0,)}, r"scales \(--scales\) are"),
        ({"scales": 1.5}, r"scales \(--scales\) are one or more numbers .*, not 1.5"),
        ({"scales": "1"}, r"scales \(--scales\) are"),
        ({"window": 64, "annotation_column": "annotation"}, "asks for the loss"),
    ],
)
def test_impossible_protocols(small_dir, options, message):
    with pytest.raises(ValueError, match=message):
        SegformerPredictor(str(small_dir), **options)
