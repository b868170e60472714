"""The sentence that reports of scores have says what is done to images, also where the checkpoint is not square."""

from __future__ import annotations

import pytest
from PIL import Image
from reference import picture, resized, small_processor

from ray_segformer import SegformerPreprocessor
from ray_segformer.protocol import Protocol, short_side_size


@pytest.mark.parametrize(
    ("settings", "said", "shape"),
    [
        ({"size": {"height": 64, "width": 96}}, "resized to 64 x 96, whatever the aspect ratio", (64, 96)),
        ({"size": {"shortest_edge": 40}}, "aspect ratio kept, short side 40 (", (40, 80)),
        (
            {"size": {"shortest_edge": 40, "longest_edge": 60}},
            "aspect ratio kept, short side 40, long side at most 60 (",
            (30, 60),
        ),
        (
            {"size": {"max_height": 50, "max_width": 80}},
            "aspect ratio kept, as large as fits into 50 x 80 (",
            (40, 80),
        ),
        ({"do_resize": False}, "at the image's own size (", (100, 200)),
    ],
    ids=["square", "short side", "long side", "box", "not resized"],
)
def test_the_sentence_says_what_is_done(settings, said, shape):
    processor = small_processor(**settings)
    pixels = resized(processor, Image.fromarray(picture(100, 200)))
    assert pixels.shape[1:] == shape  # so it is what transformers does
    sentence = Protocol().describe(SegformerPreprocessor.from_config(processor.to_dict()))
    assert sentence.startswith(said) and sentence.endswith("(the checkpoint's own, as in transformers)")


def test_windows_and_short_sides_are_our_own():
    own = SegformerPreprocessor({"shortest_edge": 40})
    assert Protocol(window=64, stride=32).describe(own) == "windows of 64 pixels every 32, at the image's own size"
    assert Protocol("short-side", flip=True).describe(own) == (
        "aspect ratio kept, short side 512, long side at most 2048, multiples of 32 (mmsegmentation's), logits "
        "averaged with the mirror image's"
    )


def test_a_line_of_pixels_has_two_sides():
    assert short_side_size(1, 5000) == (32, 2048)
