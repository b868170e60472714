"""Formats of other programs at their limits: ids above 255, pixels without data, long runs, parts that are missing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin
from reference import decode

from ray_segformer.exports import Cityscapes, Coco, ExportError, ExportImage, GeoTiff, LabelStudio, SourcePart
from ray_segformer.jobs import export


def image_of(*ids, dtype=np.uint16, no_data=65535):
    """An image of one row, with two pixels of each id."""
    mask = np.repeat(np.array([ids], dtype), 2, axis=1)
    classes = [class_id for class_id in ids if class_id != no_data]
    return ExportImage("a.tif", "a.tif", "a", 0, mask, classes, [2] * len(classes))


def names(count):
    return {class_id: f"class {class_id}" for class_id in range(count)}


@pytest.mark.parametrize(
    ("classes", "image"),
    [
        (300, image_of(0, 127, 128, 254, 255, 256, 299, 65535)),
        (256, image_of(0, 255, 65535)),
        (255, image_of(0, 254, 255, dtype=np.uint8, no_data=255)),
    ],
)
def test_segments_of_many_classes_are_their_ids_and_0_is_no_data(classes, image):
    pytest.importorskip("pycocotools")
    (content,) = Coco(names(classes), panoptic=True).files(image).values()
    red, green, blue = np.moveaxis(np.asarray(decode(content)).astype(int), -1, 0)
    expected = [class_id + 1 if class_id in image.class_ids else 0 for class_id in image.mask[0].tolist()]
    assert (red + 256 * green + 256**2 * blue).tolist() == [expected]


def test_label_ids_of_pixels_without_data():
    (content,) = Cityscapes({0: "road", 1: "sky"}).files(image_of(0, 1, 65535)).values()
    assert np.asarray(decode(content)).tolist() == [[7, 7, 23, 23, 0, 0]]


@pytest.mark.parametrize("runs", [(2**14, 1), (3 * 2**14, 7, 2**14), (2, 2**14 + 1, 2**15)])
def test_runs_of_many_pixels(runs):
    """A run of Label Studio holds up to 65536 values, which are 16384 pixels."""
    decode_rle = pytest.importorskip("label_studio_converter.brush").decode_rle
    mask = np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs)[None]
    image = ExportImage("a.png", "a.png", "a", 0, mask, [0, 1], [1, 1])
    for stroke, class_id in zip(LabelStudio(names(2)).record(image)["predictions"][0]["result"], (0, 1), strict=True):
        pixels = decode_rle(stroke["value"]["rle"]).reshape(-1, 4)
        np.testing.assert_array_equal(pixels, np.repeat((mask[0] == class_id)[:, None] * 255, 4, axis=1))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("dtype", "no_data"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_part_of_a_scene_that_is_missing_has_no_data(tmp_path, missing, dtype, no_data):
    rasterio = pytest.importorskip("rasterio")
    size, place = {"count": 1, "height": 40, "width": 30, "dtype": "uint8"}, rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", transform=place, crs="EPSG:32632", **size) as scene:
        scene.write(np.ones((1, 40, 30), np.uint8))
    masks = [np.full((40, 17), 1, dtype), np.full((40, 13), 2, dtype)]
    parts = [SourcePart({"row": 0, "column": column}, mask) for column, mask in zip((0, 17), masks, strict=True)]
    GeoTiff(names(3)).write(str(tmp_path / "a.tif"), iter(parts[: 1 if missing else 2]), str(tmp_path / "mask.tif"))
    with rasterio.open(tmp_path / "mask.tif") as made:
        assert made.nodata == (no_data if missing else None)
        expected = np.concatenate([masks[0], masks[1] * 0 + no_data if missing else masks[1]], axis=1)
        np.testing.assert_array_equal(made.read(1), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_mask_of_a_turned_file_is_where_its_pixels_are_stored(tmp_path, orientation):
    """GDAL does not look at the orientation: a place on Earth is that of stored pixels."""
    rasterio = pytest.importorskip("rasterio")
    stored = np.random.default_rng(0).integers(0, 3, (5, 7), np.uint8)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    tags.tagtype[33550] = tags.tagtype[33922] = 12  # doubles
    tags[33550], tags[33922] = (10.0, 10.0, 0.0), (0.0, 0.0, 0.0, 5e5, 5e6, 0.0)  # the size of a pixel, and a corner
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo=tags)
    with open(tmp_path / "a.tif", "rb") as file:  # by its name, Pillow maps it to memory, and turns it wrong
        upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    GeoTiff(names(3)).write(str(tmp_path / "a.tif"), iter([SourcePart({}, upright)]), str(tmp_path / "mask.tif"))
    with rasterio.open(tmp_path / "a.tif") as scene, rasterio.open(tmp_path / "mask.tif") as made:
        assert scene.transform == made.transform == rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
        np.testing.assert_array_equal(scene.read(1), stored)
        np.testing.assert_array_equal(made.read(1), stored)


def test_formats_and_options_that_are_not_known_are_named():
    with pytest.raises(ExportError, match=r"file_format is one of png, coco, .*, not 'yolo'"):
        export("segmented", "exported", "yolo")
    with pytest.raises(ExportError, match="the format png has no option panoptic"):
        export("segmented", "exported", "png", panoptic=True)
