"""Scenes: bands and ranges as rasterio and NumPy have them, pixels without data, and how large scenes are divided."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import encode, picture

from ray_segformer.images import Area, Bands, ImageError, ScenePart, has_data, to_rgb
from ray_segformer.inputs import InputError, find_scenes
from ray_segformer.network import window_starts

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_scene(path, bands, **options):
    """Write bands `(bands, height, width)` as a GeoTIFF."""
    settings = {"driver": "GTiff", "crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with rasterio.open(path, "w", **settings, **size, **options) as scene:
        scene.write(bands)
    return str(path)


def cell(path, area, bands=None):
    return ScenePart(str(path), bands or Bands(), area, area).as_cell()


WHOLE = Area(0, 0, 70, 90)


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).integers(0, 5000, (5, 70, 90)).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32"])
def test_values_between_low_and_high_become_0_to_255(tmp_path, values, dtype):
    bands = (values % 200 if dtype == "uint8" else values).astype(dtype)
    path = write_scene(tmp_path / "a.tif", bands, tiled=True, blockxsize=32, blockysize=32, compress="lzw")
    area = Area(11, 23, 40, 50)
    pixels = to_rgb(cell(path, area, Bands(tuple(np.array([4, 1, 2])), np.float32(50), np.int64(4000))))
    inside = bands[[3, 0, 1], 11:51, 23:73].transpose(1, 2, 0).astype(np.float64)
    expected = ((inside - 50) / 3950 * 255).clip(0, 255)
    assert pixels.dtype == np.uint8 and np.abs(pixels - expected).max() <= 0.5 + 1e-3


def test_no_digit_of_32_bits_is_lost(tmp_path, values):
    bands = values[:1] % 256 + np.uint32(4e9)
    pixels = to_rgb(cell(write_scene(tmp_path / "a.tif", bands), WHOLE, Bands((1,), 4e9, 4e9 + 255)))
    np.testing.assert_array_equal(pixels[..., 0], values[0] % 256)
    path = write_scene(tmp_path / "b.tif", bands * 0 + 77)
    assert not to_rgb(cell(path, WHOLE, Bands((1,), 2, 98, percentile=True))).any()  # one value is black


def test_eight_bits_stay_and_one_band_is_grey(tmp_path, values):
    bands = (values % 256).astype(np.uint8)
    path = write_scene(tmp_path / "a.tif", bands, interleave="band")
    np.testing.assert_array_equal(to_rgb(cell(path, WHOLE, Bands((3, 2, 1)))), bands[[2, 1, 0]].transpose(1, 2, 0))
    grey = to_rgb(cell(path, WHOLE, Bands((5,))))
    np.testing.assert_array_equal(grey, np.repeat(bands[4, ..., None], 3, axis=-1))


def test_a_scene_in_which_0_is_white_is_no_negative(tmp_path, values):
    bands = (values[:1] % 256).astype(np.uint8)
    path = write_scene(tmp_path / "a.tif", bands, photometric="miniswhite", nodata=7)
    expected = np.where(bands[0] == 7, 0, np.asarray(Image.open(path)))  # without data
    for limits in ((), (0, 255)):
        pixels = to_rgb(cell(path, WHOLE, Bands((1,), *limits)))
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize("overviews", [True, False])
def test_percentiles_are_those_of_the_whole_scene(tmp_path, overviews):
    """Bright on the left, dark on the right: parts of it get one range, near that of all pixels."""
    ramp = np.linspace(6000, 1000, 4600)[None, None] + np.random.default_rng(1).normal(0, 100, (1, 300, 4600))
    ramp[:, :, :600] = -9999
    path = write_scene(tmp_path / "a.tif", ramp.astype(np.float32), tiled=True, nodata=-9999)
    if overviews:
        with rasterio.open(path, "r+") as scene:
            scene.build_overviews([2, 4, 8], rasterio.enums.Resampling.nearest)
    bands = Bands((1,), 2, 98, percentile=True)
    left, right = (to_rgb(cell(path, Area(0, column, 300, 2000), bands)) for column in (600, 2600))
    low, high = np.percentile(ramp[0, :, 600:], [2, 98])
    expected = ((ramp[..., 600:] - low) / (high - low) * 255).clip(0, 255).transpose(1, 2, 0)
    assert np.abs(np.concatenate([left, right], axis=1) - expected).mean() < 2


def test_percentiles_of_a_band_are_of_its_own_data(tmp_path, values):
    """Each band lacks other rows at the edges, and has infinite values, which are cut off."""
    bands = values[:3].astype(np.float32)
    for band, (first, last) in enumerate(((0, 24), (12, 58), (24, 70))):
        bands[band, :first] = bands[band, last:] = -9999
    bands[0, 5, :2] = np.inf, -np.inf
    path = write_scene(tmp_path / "a.tif", bands, nodata=-9999)
    part = ScenePart(path, Bands((1, 2, 3), 2, 98, percentile=True), WHOLE, WHOLE)
    low, high = np.array([np.percentile(band[(band != -9999) & np.isfinite(band)], [2, 98]) for band in bands]).T
    expected = ((bands.transpose(1, 2, 0).astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    assert np.abs(to_rgb(part.as_cell()) - expected).max() <= 0.5 + 1e-3
    assert has_data(part) is None


def test_pixels_without_data_are_black_and_found(tmp_path, values):
    bands = values[:3].astype(np.float32) + 1
    bands[:, 5:20, 30:50] = -1
    bands[1, 60, 60] = np.nan
    bands[0, 40, 40] = -1  # the other bands have data there
    path = write_scene(tmp_path / "a.tif", bands, nodata=-1)
    part = ScenePart(path, Bands(low=0, high=5000), Area(0, 0, 70, 80), Area(2, 10, 65, 60))
    expected = np.ones((70, 90), bool)
    expected[5:20, 30:50] = expected[60, 60] = False
    np.testing.assert_array_equal(has_data(part), expected[2:67, 10:70])
    pixels = to_rgb(part.as_cell())
    assert not pixels[~expected[:, :80]].any() and pixels[expected[:, :80]].mean() > 100
    assert has_data(ScenePart(path, part.bands, WHOLE, Area(0, 60, 20, 30))) is None


def test_alpha_and_masks_are_no_data(tmp_path, values):
    bands = (values[:4] % 255 + 1).astype(np.uint8)
    bands[3] = np.where(np.arange(90) < 20, 0, 255)
    path = write_scene(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(has_data(ScenePart(path, Bands(), WHOLE, WHOLE)), bands[3] > 0)


def test_files_that_are_no_scenes_are_refused(tmp_path, values):
    path = write_scene(tmp_path / "a.tif", values)
    with pytest.raises(ImageError, match="wrong pixels: a scene of 5 bands has no band 7"):
        to_rgb(cell(path, WHOLE, Bands((7, 1, 2), 0, 1)))
    with pytest.raises(ImageError, match="wrong pixels: a scene of 5 bands has no band 6"):
        to_rgb(cell(path, WHOLE, Bands((6, 5, 2), 0, 1)))
    with pytest.raises(ImageError, match=r"wrong pixels: bands of uint16; .* --range LOW HIGH"):
        to_rgb(cell(path, WHOLE))
    with pytest.raises(ImageError, match=r"too large: a scene of 90 x 70 pixels, .*--window 512"):
        to_rgb(cell(path, WHOLE, Bands(low=0, high=1)), max_pixels=70 * 90 - 1)
    assert to_rgb(cell(path, WHOLE, Bands(low=0, high=1)), max_pixels=70 * 90).shape == (70, 90, 3)
    with pytest.raises(ImageError, match="wrong pixels: bands of complex64"):
        to_rgb(cell(write_scene(tmp_path / "c.tif", values[:3].astype(np.complex64)), WHOLE))
    content = Path(path).read_bytes()
    (tmp_path / "short.tif").write_bytes(content[: len(content) // 3])
    with pytest.raises(ImageError, match="cannot decode: no TIFF file that GDAL reads, or a damaged one: "):
        to_rgb(cell(tmp_path / "short.tif", WHOLE, Bands(low=0, high=1)))
    with pytest.raises(ImageError, match=r"cannot read the file: .*none\.tif"):
        to_rgb(cell(tmp_path / "none.tif", WHOLE))


def test_a_scene_cannot_name_other_files(tmp_path, values):
    """GDAL's virtual files name others, and sidecar files hold masks and overviews: neither is looked at."""
    secret = write_scene(tmp_path / "secret.tif", (values[:3] % 256).astype(np.uint8))
    virtual = (
        '<VRTDataset rasterXSize="90" rasterYSize="70"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "a.tif").write_text(virtual)
    with pytest.raises(ImageError, match="no TIFF file"):
        to_rgb(cell(tmp_path / "a.tif", WHOLE, Bands((1,))))
    (tmp_path / "secret.tif.msk").write_bytes(Path(secret).read_bytes())
    (tmp_path / "secret.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>3</NoDataValue></PAMRasterBand></PAMDataset>"
    )
    assert has_data(ScenePart(secret, Bands((1,)), WHOLE, WHOLE)) is None


def test_a_huge_block_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.tif"
    size = {"count": 1, "height": 30000, "width": 30000, "dtype": "uint8"}
    with rasterio.open(
        path, "w", driver="GTiff", tiled=True, blockxsize=32768, blockysize=32768, SPARSE_OK=True, **size
    ):
        pass
    with pytest.raises(ImageError, match=r"too large: the blocks of this TIFF file have 32768 x 32768 pixels"):
        to_rgb(cell(path, Area(0, 0, 10, 10), Bands((1,))))


def test_a_head_that_claims_very_many_pixels_makes_one_row(tmp_path):
    """Else, the driver would make a row for each of the parts."""
    size = {"count": 1, "height": 16, "width": 2**20 + 16, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", tiled=True, SPARSE_OK=True, **size):
        pass
    (images,) = find_scenes(str(tmp_path), Bands((1,)), (512, 512))
    (row,) = images.take(images.rows)
    with pytest.raises(
        ImageError, match=r"too large: a scene of 1048592 x 16 pixels; expected at most 1048576 on a side"
    ):
        to_rgb(row["image"])


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((30000, 30000), 512, 512), ((9001, 5003), 512, 384), ((700, 12000), 1024, 768), ((5000, 2100), 3000, 1000)],
)
def test_parts_cover_a_scene_once_and_see_its_windows(tmp_path, size, window, stride):
    """Each pixel is in one core. In its area, all windows of the whole scene that cover the core stand alike."""
    height, width = size
    profile = {"count": 3, "height": height, "width": width, "dtype": "uint8", "tiled": True}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", SPARSE_OK=True, **profile):
        pass
    (images,) = find_scenes(str(tmp_path), Bands(), (window, stride))
    rows = images.take(images.rows)
    parts = [ScenePart.of(row["image"]) for row in rows]
    assert [row["index"] for row in rows] == [*range(len(rows))] and len({row["key"] for row in rows}) == len(rows)
    assert [(row["row"], row["column"]) for row in rows] == [(part.core.row, part.core.column) for part in parts]
    sides = {}
    for axis, (start, extent) in enumerate((("row", "height"), ("column", "width"))):
        sides[axis] = sorted({(getattr(part.core, start), getattr(part.core, extent)) for part in parts})
        assert [first for first, _ in sides[axis]] == [0, *np.cumsum([length for _, length in sides[axis]])[:-1]]
        assert sum(length for _, length in sides[axis]) == size[axis]
        for part in parts:
            area, core = ((getattr(each, start), getattr(each, extent)) for each in (part.area, part.core))
            inside = {area[0] + first for first in window_starts(area[1], window, stride)}
            whole = window_starts(size[axis], window, stride)
            assert inside <= {*whole} and area[0] + area[1] <= size[axis]
            over_core = {first for first in whole if first < core[0] + core[1] and first + window > core[0]}
            assert over_core <= inside
    assert len(parts) == len(sides[0]) * len(sides[1])
    seen = sum(part.area.height * part.area.width for part in parts)
    assert seen < 1.35 * height * width and max(part.area.height * part.area.width for part in parts) < 6000 * 6000


@pytest.mark.parametrize(
    ("limits", "share"), [((0, 1), "100%"), ((0, 10**7), "100%"), ((6000, 9000), "100%"), ((0, 200), "96%")]
)
def test_a_range_that_leaves_black_and_white_is_said(tmp_path, values, limits, share):
    values = np.maximum(values, 1)
    write_scene(tmp_path / "a.tif", values, tiled=True, blockxsize=32, blockysize=32)
    (found,) = find_scenes(str(tmp_path), Bands((3, 2, 1), *limits), None)
    (guess,) = found.guesses
    assert guess.code == "range-does-not-fit" and f"makes {share} of the values black or white" in guess.message
    assert f"from {values[:3].min()} to {values[:3].max()}" in guess.message


@pytest.mark.parametrize("limits", [(0, 5000), (0, 400), (2, 98, True)])
def test_a_range_that_fits_is_not(tmp_path, values, limits):
    write_scene(tmp_path / "a.tif", values)
    (found,) = find_scenes(str(tmp_path), Bands((3, 2, 1), *limits), None)
    assert not found.guesses


def test_inputs_that_are_no_scenes_are_refused(tmp_path, values):
    write_scene(tmp_path / "a.tif", values)
    (tmp_path / "b.png").write_bytes(encode(picture()))
    with pytest.raises(InputError, match=r"b\.png: bands .* are read of TIFF files .*--exclude"):
        next(find_scenes(str(tmp_path), Bands(), None))
    (images,) = find_scenes(str(tmp_path), Bands(), None, on_error="keep", exclude=["*.png"])
    (row,) = images.take(9)
    assert row["key"] == str(tmp_path / "a.tif") and ScenePart.of(row["image"]).core == WHOLE


def test_without_the_extra_a_sentence_names_it(tmp_path, values, monkeypatch):
    path = write_scene(tmp_path / "a.tif", values)
    with pytest.raises(ImageError, match=r"a TIFF of 5 bands of uint16 .*ray_segformer\[geo\].* --bands"):
        to_rgb(path)
    monkeypatch.setitem(sys.modules, "rasterio", None)  # as where it is not installed
    with pytest.raises(InputError, match=r'need rasterio: pip install "ray_segformer\[geo\]"'):
        next(find_scenes(path, Bands(), None))
    with pytest.raises(ImageError, match=r'cannot read the file: .*pip install "ray_segformer\[geo\]"'):
        to_rgb(cell(path, WHOLE))


@pytest.mark.parametrize(
    ("numbers", "limits", "message"),
    [
        ((1, 2), (), r"bands \(--bands\) are three numbers from 1, or one"),
        ((0, 1, 2), (), r"bands \(--bands\) are .*, not 0,1,2"),
        ((1,), (5,), r"range \(--range\) is two values, low and high"),
        ((1,), (5, 5), r"range \(--range\) is two values, the lower one first"),
        ((1,), (-1, 98, True), r"range \(--range\) is two percentiles in \[0, 100\]"),
    ],
)
def test_bands_that_have_no_meaning_are_refused(numbers, limits, message):
    with pytest.raises(ValueError, match=message):
        Bands(numbers, *limits)


def test_percentiles_are_those_of_the_file_that_is_there(tmp_path, values):
    path, bands = tmp_path / "a.tif", Bands((1, 2, 3), 0, 100, percentile=True)
    for scene in (values % 1000, values):
        write_scene(path, scene)
        os.utime(path, ns=(0, int(scene.max())))
        pixels = to_rgb(cell(path, WHOLE, bands))
        low, high = scene[:3].min((1, 2)), scene[:3].max((1, 2))
        expected = (scene[:3].transpose(1, 2, 0) - low.astype(float)) / (high - low) * 255
        assert np.abs(pixels - expected).max() <= 0.5 + 1e-3


def test_parts_of_a_scene_do_not_have_the_name_of_another_file(tmp_path):
    large = np.zeros((3, 4400, 600), np.uint8)
    write_scene(tmp_path / "big.tif", large)
    (tmp_path / "big").mkdir()
    write_scene(tmp_path / "big/000000-000000.tif", large[:, :60])
    (found,) = find_scenes(str(tmp_path), Bands((1, 2, 3)), (512, 512), distinct_names=True)
    names = [row["name"] for row in found.take(9)]
    assert len(names) == len({*names}) == 3 and "big/000000-000000" in names
