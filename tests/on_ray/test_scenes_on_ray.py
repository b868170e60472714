"""Scenes by the command: divided among workers, and put together again, they are what one process makes of them."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from reference import decode, picture

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.inputs import _scenes as scenes
from ray_segformer.viz import class_palette

rasterio = pytest.importorskip("rasterio")
pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]

WINDOWS = {"window": 64, "stride": 48}
OPTIONS = ("--bands", "3,2,1", "--range", "100", "5200", "--window", "64", "--stride", "48", "--workers", "2")
NO_DATA = (slice(40, 90), slice(100, 180))
# The parameters of a camera, by which images of satellites without a map projection have their place.
POLYNOMIALS = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
OFFSETS = [f"{name}_{kind}" for name in ("height", "lat", "line", "long", "samp") for kind in ("off", "scale")]


@pytest.fixture(scope="module")
def pixels():
    """RGB by the names of scenes: a large one, and one that is smaller than a part."""
    return {"large.tif": picture(380, 300, 1), "small.tif": picture(50, 70, 2)}


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory):
    """Scenes of four bands of 16 bits, of which the second is green; and a file that is none."""
    folder = tmp_path_factory.mktemp("scenes")
    for name, rgb in pixels.items():
        bands = rgb.transpose(2, 0, 1)[[2, 1, 0, 0]].astype(np.uint16) * 20 + 100
        bands[(slice(None), *NO_DATA)] = 0
        place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), "nodata": 0}
        size = {"count": 4, "height": rgb.shape[0], "width": rgb.shape[1], "dtype": "uint16"}
        with rasterio.open(
            folder / name, "w", driver="GTiff", tiled=True, blockxsize=64, blockysize=64, **place, **size
        ) as scene:
            scene.write(bands)
    (folder / "broken.tif").write_bytes(b"II*\0broken")
    return folder


@pytest.fixture(scope="module")
def expected(pixels, small_dir):
    """Class ids and confidence of each scene, by windows over the whole of it in one process."""
    predictor = SegformerPredictor.from_checkpoint(
        SegformerCheckpoint.from_pretrained(small_dir), confidence=True, **WINDOWS
    )
    found = {}
    for name, rgb in pixels.items():
        rgb = rgb.copy()
        rgb[NO_DATA] = 0
        result = predictor.predict({"image": rgb[None]})
        mask, confidence = result["segmentation"][0].copy(), result["confidence"][0].copy()
        mask[NO_DATA], confidence[NO_DATA] = 255, 0
        found[name] = mask, np.rint(confidence * 255)
    return found


def put_together(output, rows, column, shape):
    """Return the masks of the parts of a scene as one."""
    whole, covered = np.zeros(shape, np.uint8), np.zeros(shape, int)
    for row in rows:
        place = np.s_[row["row"] : row["row"] + row["height"], row["column"] : row["column"] + row["width"]]
        file = row[column]
        whole[place] = np.asarray(decode(file) if isinstance(file, bytes) else Image.open(output / file))
        covered[place] += 1
    assert (covered == 1).all()
    return whole


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of about 128 pixels instead of 2048."""
    monkeypatch.setattr(scenes, "_SIDE", 128)


@pytest.mark.parametrize("mask_format", ["parquet", "png"])
def test_parts_put_together_are_the_whole_scene(
    folder, pixels, expected, small_dir, small_parts, run_command, tmp_path, mask_format
):
    output = tmp_path / "out"
    options = (*OPTIONS, "--confidence", "--format", mask_format, "--on-error", "keep", "--overlay", "--report")
    code, printed, _ = run_command("predict", folder, output, "--model", small_dir, *options)
    assert code == 1 and "1 failed: 1 cannot decode" in printed
    table = pa.parquet.read_table(output / ("masks" if mask_format == "parquet" else "rows"))
    assert table.column_names[:6] == ["path", "index", "row", "column", "height", "width"]
    rows = table.to_pylist()
    assert [row["index"] for row in rows] == [*range(len(rows))] and rows[0]["error"]
    column = "segmentation" if mask_format == "parquet" else "mask"
    for name, (mask, confidence) in expected.items():
        own = [row for row in rows if row["path"].endswith(name)]
        assert len(own) == {"large.tif": 6, "small.tif": 1}[name]
        np.testing.assert_array_equal(put_together(output, own, column, mask.shape), mask)
        grey = put_together(output, own, "confidence", mask.shape)
        assert np.abs(grey - confidence).max() <= 1
        ids, counts = np.unique(mask[mask < 255], return_counts=True)
        areas = dict.fromkeys(ids.tolist(), 0)
        for row in own:
            for class_id, count in zip(row["class_ids"], row["class_pixels"], strict=True):
                areas[class_id] += count
        assert areas == dict(zip(ids.tolist(), counts.tolist(), strict=True))
    overlays = sorted(path.relative_to(output / "overlays").as_posix() for path in output.glob("overlays/**/*.jpg"))
    assert len(overlays) == 7 and overlays[0] == "large/000000-000000.jpg" and overlays[-1] == "small.jpg"
    assert json.loads((output / "summary.json").read_text())["options"]["bands"]["numbers"] == [3, 2, 1]

    page = (output / "report.html").read_text()  # with the pictures of parts
    assert "large.tif, row 144, column 144" in page and "could not be read again" not in page
    mask, confidence = expected["large.tif"]
    said = re.search(r"large\.tif, row 0, column 0</p>\s*<p[^>]*>mean confidence ([\d.]+)%", page)
    part = np.s_[:144, :144]
    assert (mask[part] == 255).any()  # its pixels without data do not count
    assert float(said[1]) == pytest.approx(confidence[part][mask[part] < 255].mean() / 2.55, abs=0.2)
    assert "<dt>bands</dt><dd>3,2,1</dd>" in page and "<dt>range</dt><dd>100 5200</dd>" in page
    assert f"<dt>model</dt><dd>{small_dir}</dd>" in page

    code, printed, _ = run_command("export", output, tmp_path / "maps", "--format", "geotiff")
    assert code == 0 and "1 image has no mask" in printed and "\n2 files of 7 images: " in printed
    for name, (mask, _) in expected.items():
        with rasterio.open(tmp_path / "maps" / name) as made, rasterio.open(folder / name) as source:
            assert (made.crs, made.transform, made.shape) == (source.crs, source.transform, source.shape)
            assert made.profile["tiled"] and made.compression.name == "lzw" and made.nodata == 255
            np.testing.assert_array_equal(made.read(1), mask)
            id2label = json.loads((output / "classes.json").read_text())
            assert {key: made.tags(1)[f"CLASS_{key}"] for key in id2label} == id2label
            palette = class_palette({int(key): label for key, label in id2label.items()})
            assert made.colormap(1)[3] == (*palette[3].tolist(), 255)
        with Image.open(tmp_path / "maps" / name) as opened:  # by a program that knows no GIS
            colours = np.asarray(opened.convert("RGB"))
        np.testing.assert_array_equal(colours[mask < 255], palette[mask[mask < 255]])


def test_pixels_without_data_are_in_no_segment(folder, expected, small_dir, run_command, tmp_path):
    """COCO's panoptic images are read as its authors' tools do: red + 256 * green + 65536 * blue."""
    assert run_command("predict", folder / "large.tif", tmp_path / "out", "--model", small_dir, *OPTIONS)[0] == 0
    code, _, error = run_command("export", tmp_path / "out", tmp_path / "coco", "--format", "coco", "--panoptic")
    assert code == 0, error
    mask, _ = expected["large.tif"]
    (annotation,) = json.loads((tmp_path / "coco/panoptic.json").read_text())["annotations"]
    colours = np.asarray(Image.open(tmp_path / "coco/panoptic" / annotation["file_name"]).convert("RGB")).astype(int)
    segments = colours @ [1, 256, 65536]
    np.testing.assert_array_equal(segments == 0, mask == 255)
    areas = {each["id"]: each["area"] for each in annotation["segments_info"]}
    assert areas == {int(number): int((segments == number).sum()) for number in np.unique(segments[segments > 0])}


def test_masks_of_whole_files_get_their_place_on_earth(small_dir, run_command, tmp_path):
    """Three bands of 8 bits are read as any image, too; pixels without data become nodata in the export."""
    rgb = picture(60, 80, 3).transpose(2, 0, 1) // 2 + 1
    rgb[:, 10:20] = 0
    (tmp_path / "in/a").mkdir(parents=True)
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.1, 0, 7, 0, -0.1, 50)}
    size = {"count": 3, "height": 60, "width": 80, "dtype": "uint8", "nodata": 0}
    points = [rasterio.control.GroundControlPoint(*point) for point in ((0, 0, 7, 50), (0, 80, 15, 51), (60, 0, 6, 44))]
    polynomials = {name: np.linspace(number, 1, 20).tolist() for number, name in enumerate(POLYNOMIALS)}
    rpcs = rasterio.rpc.RPC(**polynomials, **{name: number for number, name in enumerate(OFFSETS, 1)})
    places = {"a/1.tif": place, "2.tif": {}, "3.tif": {"gcps": points, "crs": "EPSG:4326"}, "4.tif": {"rpcs": rpcs}}
    for name, each in places.items():
        with rasterio.open(tmp_path / "in" / name, "w", driver="GTiff", **each, **size) as scene:
            scene.write(rgb)
            if name == "a/1.tif":
                scene.update_tags(AREA_OR_POINT="Point")
    assert run_command("predict", tmp_path / "in", tmp_path / "out", "--model", small_dir)[0] == 0
    code, _, error = run_command("export", tmp_path / "out", tmp_path / "maps", "--format", "geotiff")
    assert code == 0, error
    masks = {row["path"]: row["segmentation"] for row in pa.parquet.read_table(tmp_path / "out/masks").to_pylist()}
    for name in places:
        with rasterio.open(tmp_path / "maps" / name) as made, rasterio.open(tmp_path / "in" / name) as source:
            assert (made.crs, made.transform) == (source.crs, source.transform)
            assert made.tags().get("AREA_OR_POINT", "Area") == ("Point" if name == "a/1.tif" else "Area")
            found, (expected, crs) = made.gcps[0], source.gcps
            assert made.gcps[1] == crs and len(expected) == (3 if name == "3.tif" else 0)
            assert [(each.row, each.col, each.x, each.y) for each in found] == [
                (each.row, each.col, each.x, each.y) for each in expected
            ]
            assert (made.rpcs and made.rpcs.to_dict()) == (source.rpcs and source.rpcs.to_dict())
            assert (made.rpcs is not None) == (name == "4.tif")
            expected = np.asarray(decode(masks[str(tmp_path / "in" / name)])).copy()
            expected[10:20] = 255
            np.testing.assert_array_equal(made.read(1), expected)
    (tmp_path / "in/2.tif").write_bytes(b"another file")
    code, _, error = run_command("export", tmp_path / "out", tmp_path / "again", "--format", "geotiff")
    assert code == 1 and "2.tif: its place on Earth is not found: cannot decode" in error
    assert (tmp_path / "again/a/1.tif").exists() and not (tmp_path / "again/export.json").exists()


def test_scenes_on_object_storage_and_other_options(
    folder, expected, small_dir, small_parts, object_store, run_command, tmp_path, capsys
):
    """A run that is not divided has one row. What would cut the scene otherwise is refused."""
    storage, options = object_store
    storage.create_dir("scenes")
    with storage.open_output_stream("scenes/in/large.tif") as file:
        file.write((folder / "large.tif").read_bytes())
    source = f"s3://scenes/in{options}"
    code, _, error = run_command("predict", source, tmp_path / "out", "--model", small_dir, *OPTIONS)
    assert code == 0, error
    rows = pa.parquet.read_table(tmp_path / "out/masks").to_pylist()
    mask, _ = expected["large.tif"]
    assert rows[0]["path"] == "s3://scenes/in/large.tif"
    np.testing.assert_array_equal(put_together(tmp_path, rows, "segmentation", mask.shape), mask)

    code, _, error = run_command(
        "predict",
        folder / "large.tif",
        tmp_path / "out2",
        "--model",
        small_dir,
        *OPTIONS,
        "--flip",
        "--max-pixels",
        9999,
    )
    assert code == 1 and "too large: a scene of 300 x 380 pixels" in error and "without --resize, --flip" in error
    earlier = (tmp_path / "out/summary.json").read_bytes()
    for wrong, message in (
        (("--bands", "7"), "a scene of 4 bands has no band 7"),
        (("--bands", "1"), "bands of uint16; .*--range LOW HIGH"),
    ):
        code, _, error = run_command(
            "predict", folder / "large.tif", tmp_path / "out", "--model", small_dir, *wrong, "--overwrite"
        )
        assert code == 1 and re.search(rf"large\.tif: wrong pixels: {message}.* \(--on-error keep continues", error), (
            error
        )
        assert (tmp_path / "out/summary.json").read_bytes() == earlier  # nothing was deleted for a run that cannot be
    with pytest.raises(SystemExit):
        run_command("predict", folder, tmp_path / "out2", "--bands", "r,g,b")
    assert "commas between them, such as 3,2,1, or one number; got r,g,b" in capsys.readouterr().err
    code, _, error = run_command("predict", folder, tmp_path / "out2", "--range", "percentile", "2")
    assert code == 2 and "--range is LOW HIGH, or percentile LOW HIGH, not percentile 2" in error
