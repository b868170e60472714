"""A sheet of the first images of a dataset."""

import numpy as np
import pytest
import ray
from reference import encode

from ray_segformer.viz import display_example_images

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_examples_of_a_dataset(ray_session):
    pictures = [np.full((40, 60, 3), colour, np.uint8) for colour in (RED, GREEN, BLUE)]
    dataset = ray.data.from_items([{"photo": encode(picture)} for picture in pictures])
    sheet = display_example_images(dataset, count=2, image_column="photo", tile_width=60)
    found = {colour: count for count, colour in sheet.getcolors(1 << 24)}
    assert found[RED] == found[GREEN] == 60 * 40 and BLUE not in found
    with pytest.raises(ValueError, match=r"'image'.*'photo'"):
        display_example_images(dataset)
