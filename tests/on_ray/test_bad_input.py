"""Bad input through the whole pipeline: each row comes out once, with its mask or with why it has none."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from reference import agreement, encode, objects, picture

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor, jobs
from ray_segformer.cli import main
from ray_segformer.images import CAUSES, MAX_PIXELS, ImageError, cause_of, to_class_ids, to_rgb
from ray_segformer.jobs import EncodeMasks

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]


def bomb(side: int = 50_000) -> bytes:
    """A PNG file of a black image, one bit a pixel, made in pieces."""
    compressor, piece = zlib.compressobj(9), bytes((1 + (side + 7) // 8) * 100)
    data = b"".join(compressor.compress(piece) for _ in range(side // 100)) + compressor.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def tiff_of_one_tile(side: int) -> bytes:
    """A TIFF file of 16 x 16 pixels, stored in one tile of `side` x `side`."""
    data = zlib.compress(bytes(1000))
    tags = ((256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 134))
    tags = (*tags, (325, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


# -- files and cells through BatchPredictor ---------------------------------------------------------


class Cell(NamedTuple):
    """What is in a row, and what has to come of it: the RGB image that transformers is given, or the cause."""

    cell: object
    expected: np.ndarray | str


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> dict[str, Cell]:
    """Good and bad cells in turn, as far as they go, by a name that each row has as its path."""
    folder = tmp_path_factory.mktemp("input")
    rgb, grey = picture(), picture()[..., 0]
    deep = (grey.astype(np.uint16) << 8) | np.uint16(0xFF)
    photo = picture(60, 90, 5)
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    palette = Image.fromarray(photo).quantize(16)
    jpeg = encode(photo, "JPEG", quality=95)

    def as_pillow_has_it(content: bytes) -> np.ndarray:
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))

    good = {
        "plain.png": encode(rgb),
        "plain.jpg": jpeg,
        "png_inside.jpg": encode(photo),  # a wrong extension, which nothing asks
        "animated.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        "cmyk.jpg": encode(Image.fromarray(photo).convert("CMYK"), "JPEG"),
        "palette.png": encode(palette),
        "alpha.png": encode(np.dstack([rgb, grey])),
        "turned.jpg": encode(photo, "JPEG", exif=exif(6)),
        "1x1.png": encode(picture(1, 1)),
        "1x20000.png": encode(picture(20000, 1)),
        "20000x1.png": encode(picture(1, 20000)),
    }
    bad = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "cannot decode"),
        "truncated.png": (encode(photo)[:3000], "cannot decode"),
        "empty.png": (b"", "empty"),
        "letter.jpg": (b"Dear Sir or Madam", "not an image"),
        "page.png": (b"<!doctype html><title>404</title>", "not an image"),
        "bomb.png": (bomb(), "too large"),
        "tile_bomb.tif": (tiff_of_one_tile(40_000), "too large"),
        "thread_bomb.png": (encode(Image.new("1", (1, MAX_PIXELS // 96 + 1))), "too large"),
        "float.tif": (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "wrong pixels"),
    }
    for name, content in [*good.items(), *((name, content) for name, (content, _) in bad.items())]:
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "was_here.jpg")
    (folder / "forbidden.png").write_bytes(encode(rgb))
    (folder / "forbidden.png").chmod(0)

    found = {name: Cell(str(folder / name), as_pillow_has_it(content)) for name, content in good.items()}
    found["16-bit.png"] = Cell(encode(deep), np.stack([grey] * 3, -1))  # the high byte
    found["array"] = Cell(rgb, rgb)
    found["grey array"] = Cell(grey, np.stack([grey] * 3, -1))
    found["struct"] = Cell({"bytes": encode(rgb), "path": None}, rgb)
    wrong = {name: Cell(str(folder / name), cause) for name, (_, cause) in bad.items()}
    for name in ("folder.jpg", "pipe.jpg", "dangling.jpg", "vanished (1): null.jpg", "\0.jpg"):
        wrong[name] = Cell(str(folder / name), "cannot read")
    if not os.access(folder / "forbidden.png", os.R_OK):  # which an administrator can
        wrong["forbidden.png"] = Cell(str(folder / "forbidden.png"), "cannot read")
    wrong |= {
        "null": Cell(None, "null"),
        "null struct": Cell({"bytes": None, "path": None}, "null"),
        "empty array": Cell(np.zeros((0, 5, 3), np.uint8), "empty"),
        "NaN": Cell(np.full((4, 4, 3), np.nan), "wrong pixels"),
        "float32": Cell(rgb / np.float32(255), "wrong pixels"),
        "too bright": Cell(np.full((4, 4), 300), "wrong pixels"),
        "two channels": Cell(np.zeros((4, 4, 2), np.uint8), "wrong shape"),
        "four dimensions": Cell(np.zeros((1, 4, 4, 3), np.uint8), "wrong shape"),
        "number": Cell(7, "wrong type"),
    }
    mixed = [item for pair in zip(found.items(), wrong.items(), strict=False) for item in pair]
    return dict([*mixed, *found.items(), *wrong.items()])


@pytest.fixture(scope="module")
def checkpoint(small_dir) -> SegformerCheckpoint:
    return SegformerCheckpoint.from_pretrained(small_dir)


def rows_of(checkpoint: SegformerCheckpoint, named: dict[str, object], **options) -> dict[str, dict]:
    """The rows that `BatchPredictor` makes of cells, by name; each must come out exactly once."""
    items = [{"image": cell, "path": name} for name, cell in named.items()]
    dataset = ray.data.from_items(items, override_num_blocks=1)
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, **options)
    rows = predictor.predict(dataset, batch_size=8, max_scoring_workers=1, keep_columns=["path"]).take_all()
    assert sorted(row["path"] for row in rows) == sorted(named)
    return {row["path"]: row for row in rows}


def test_each_row_comes_out_once_with_its_mask_or_its_error(cells, checkpoint, small, ray_session):
    rows = rows_of(checkpoint, {name: cell.cell for name, cell in cells.items()}, on_error="keep")
    good = [name for name, cell in cells.items() if not isinstance(cell.expected, str)]
    clean = SegformerPredictor(checkpoint).predict({"image": objects(*(cells[name].cell for name in good))})
    assert len(good) == 16
    for name, mask in zip(good, clean["segmentation"], strict=True):
        assert rows[name]["error"] is None, name
        assert rows[name]["segmentation"].dtype == mask.dtype == np.uint8
    assert agreement([rows[name]["segmentation"] for name in good], clean["segmentation"]) >= 0.9999
    expected = [small.mask(Image.fromarray(cells[name].expected)) for name in good]
    assert agreement([rows[name]["segmentation"] for name in good], expected) >= 0.9999
    for name in cells.keys() - good:
        cell, error = cells[name].cell, rows[name]["error"]
        assert rows[name]["segmentation"] is None
        assert f" ({cell if isinstance(cell, str) else name}): " in error
        assert cause_of(error) == cells[name].expected, error


def test_arrays_alone_of_which_some_hold_no_image(checkpoint, small, ray_session):
    """Ray stores a column of arrays in another way than a mixed one: here the good one comes as float64."""
    arrays = {"good": picture(), "NaN": np.full((20, 30, 3), np.nan), "other": picture(9, 7), "two": np.ones((4, 4, 2))}
    rows = rows_of(checkpoint, arrays, on_error="keep")
    assert (
        agreement(
            [rows["good"]["segmentation"], rows["other"]["segmentation"]],
            [small.mask(Image.fromarray(arrays[name])) for name in ("good", "other")],
        )
        >= 0.9999
    )
    assert {name: cause_of(rows[name]["error"]) for name in ("NaN", "two")} == {
        "NaN": "wrong pixels",
        "two": "wrong shape",
    }
    assert all(f"({name}): " in rows[name]["error"] and rows[name]["segmentation"] is None for name in ("NaN", "two"))


@pytest.mark.parametrize("name", ["vanished (1): null.jpg"])
def test_without_keep_the_first_error_names_its_row(cells, checkpoint, ray_session, name):
    chosen = {known: cells[known].cell for known in ("plain.png", "plain.jpg", name, "palette.png")}
    with pytest.raises(Exception, match="ImageError") as caught:
        rows_of(checkpoint, chosen)
    assert f"row 2 of the batch ({cells[name].cell}): cannot read the file: " in str(caught.value)


# -- limits -----------------------------------------------------------------------------------------


def test_a_bomb_is_refused_by_its_header():
    content = bomb()
    assert len(content) < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=rf"too large: 50000 x 50000 pixels, above the limit of {MAX_PIXELS}; .*--max"):
        to_rgb(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KB; its pixels take gigabytes
    with pytest.raises(ImageError, match="above the limit of 2499999999"):
        to_rgb(content, 2_499_999_999)


def test_the_limit_is_exact_and_holds_for_every_kind_of_cell(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(picture()))
    for cell in (picture(), encode(picture()), Image.fromarray(picture()), str(tmp_path / "a.png")):
        for make, options in ((SegformerPredictor, (checkpoint,)), (SegformerPredictor.from_checkpoint, (checkpoint,))):
            kept = make(*options, max_pixels=600, on_error="keep").predict({"image": objects(cell)})
            assert kept["error"][0] is None and kept["segmentation"][0].shape == (20, 30)
        refused = SegformerPredictor(checkpoint, max_pixels=599, on_error="keep").predict({"image": objects(cell)})
        assert "too large: 30 x 20 pixels, above the limit of 599; " in refused["error"][0]
    ids = picture()[..., 0]
    for annotation in (ids, encode(ids)):
        assert to_class_ids(annotation, 600).shape == (20, 30)
        with pytest.raises(ImageError, match="above the limit of 599"):
            to_class_ids(annotation, 599)


@pytest.mark.parametrize("max_pixels", [0, -1, 2.5, "many", True, None])
def test_a_wrong_limit(checkpoint, max_pixels):
    for make in (SegformerPreprocessor, lambda **options: SegformerPredictor(checkpoint, **options)):
        with pytest.raises(ValueError, match="max_pixels is a whole number of at least 1, not"):
            make(max_pixels=max_pixels)
        assert make(max_pixels=np.int64(9))


def test_a_wrong_format(tmp_path):
    with pytest.raises(ValueError, match=r"""^mask_format is "parquet" or "png", not 'tiff'$"""):
        jobs.predict(str(tmp_path), str(tmp_path / "out"), SegformerCheckpoint.demo(), mask_format="tiff")


@pytest.fixture
def pillow_with_a_low_limit():
    """Pillow as if our images were above its own limit, which it raises at twice the number."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 250
    yield
    Image.MAX_IMAGE_PIXELS = limit


def test_pillows_own_limit_is_not_in_the_way(pillow_with_a_low_limit):
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(encode(picture())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for side in (20, 12):  # where it would raise, and where it would warn
            for file_format in ("PNG", "JPEG", "GIF", "BMP", "PPM"):
                assert to_rgb(encode(picture(side, 30), file_format)).shape == (side, 30, 3)
    for file_format in ("WEBP", "TIFF"):  # which ask for it themselves
        with pytest.raises(ImageError, match=r"too large for Pillow .* limit of 500 pixels"):
            to_rgb(encode(picture(), file_format))


def test_a_file_that_is_too_large_for_its_limit_is_not_read(tmp_path):
    path = tmp_path / "video.jpg"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)  # which takes no disk
    for cell in (str(path), path.as_uri()):
        with pytest.raises(ImageError, match="not an image"):
            to_rgb(cell)
        with pytest.raises(ImageError, match=r"too large: a file of 209715200 bytes, .*--max-pixels"):
            to_rgb(cell, 10_000_000)


# -- any cell at all --------------------------------------------------------------------------------

MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)
SIDES = st.integers(1, 12)


@st.composite
def good_images(draw) -> tuple[object, tuple[int, int]]:
    """An image cell of any kind, and its height and width."""
    height, width, seed = draw(SIDES), draw(SIDES), draw(st.integers(0, 9))
    array = picture(height, width, seed)
    cell = draw(
        st.sampled_from(
            (
                *(array, array[..., 0], array.astype(np.int64), array > 60, array.astype(">u2") << 8),
                *(Image.fromarray(array), encode(array), encode(array, "JPEG"), {"bytes": encode(array), "path": None}),
            )
        )
    )
    return cell, (height, width)


DTYPES = ("?", "i1", "u1", ">i2", "<u2", "i4", "u8", "f2", "f4", "f8", "c8", "O", "U3", "S2", "M8[s]", "m8[s]")


@st.composite
def arrays(draw) -> tuple[object, None]:
    shape = draw(st.lists(st.integers(0, 6), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    array = np.zeros(shape, dtype)
    if array.size and array.dtype.kind in "fc":
        array[...] = draw(st.sampled_from((np.nan, np.inf, 0.5, -1)))
    elif array.size and array.dtype.kind in "iu":
        array[...] = draw(st.sampled_from((0, 1, 127, np.iinfo(array.dtype).max, np.iinfo(array.dtype).min)))
    return array, None


@st.composite
def pillow_images(draw) -> tuple[object, None]:
    image = Image.new(draw(st.sampled_from(MODES)), (draw(st.integers(0, 12)), draw(SIDES)))
    if draw(st.booleans()):
        image.close()
    return image, None


PATHS = st.text(max_size=8) | st.sampled_from(
    ("nowhere.png", "/", "nosuch://a/b", "file:///no where.png", "s3://", ":")
)
CONTENTS = st.binary(max_size=60) | st.integers(0, 800).map(lambda end: encode(picture(), "JPEG")[:end])
PARTS = st.none() | CONTENTS | PATHS | st.integers() | arrays().map(lambda pair: pair[0])
NULLS = st.sampled_from((None, np.nan, np.float32("nan"), pd.NA, {}, {"bytes": None, "path": None}))
UNKNOWN = (
    st.one_of(
        *(CONTENTS, PATHS, st.integers(), st.floats(), st.just(pd.NaT), st.lists(st.integers(), max_size=3)),
        st.fixed_dictionaries({}, optional={"bytes": PARTS, "path": PARTS}),
    ).map(lambda cell: (cell, None))
    | arrays()
    | pillow_images()
)
# Cells with what is known of them: the size of a good one, "null", or nothing.
CELLS = good_images() | NULLS.map(lambda cell: (cell, "null")) | UNKNOWN


@pytest.fixture(scope="module")
def keeping(checkpoint) -> SegformerPredictor:
    return SegformerPredictor(checkpoint, on_error="keep")


@pytest.fixture(scope="module")
def keeping_with_annotations(checkpoint) -> SegformerPredictor:
    return SegformerPredictor(checkpoint, on_error="keep", annotation_column="annotation")


property_test = settings(
    max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@property_test
@given(batch=st.lists(CELLS, max_size=6))
def test_any_cells_come_out_in_order_with_a_mask_or_an_error(keeping, batch):
    result = keeping.predict({"image": objects(*(cell for cell, _ in batch))})
    assert len(result["segmentation"]) == len(result["error"]) == len(batch)
    for row, ((cell, known), mask, error) in enumerate(
        zip(batch, result["segmentation"], result["error"], strict=True)
    ):
        assert (mask is None) != (error is None)
        if isinstance(known, tuple):
            assert error is None
            assert mask.shape == known
            alone = keeping.predict({"image": objects(cell)})["segmentation"][0]
            assert mask.shape == alone.shape and (mask != alone).sum() <= 1  # two classes may be level to rounding
        elif error is None:
            assert known is None
            assert mask.shape == to_rgb(cell).shape[:2]
        else:
            assert error.startswith(f"row {row} of the batch")
            assert cause_of(error) in CAUSES
            assert known in (None, cause_of(error))


@property_test
@given(batch=st.lists(st.tuples(good_images(), CELLS), min_size=1, max_size=4))
def test_any_annotations_give_a_loss_or_an_error(keeping_with_annotations, batch):
    images, annotations = ([cell for cell, _ in pairs] for pairs in zip(*batch, strict=True))
    result = keeping_with_annotations.predict({"image": objects(*images), "annotation": objects(*annotations)})
    for ((_, size), (annotation, known)), mask, error in zip(
        batch, result["segmentation"], result["error"], strict=True
    ):
        if known == "null" and not isinstance(annotation, dict):  # a row without an annotation is a good one
            assert error is None
        if error is None:
            assert mask.shape == size
        else:
            assert mask is None and cause_of(error) == "wrong annotation"


def test_class_ids_that_the_model_does_not_have(keeping_with_annotations, checkpoint):
    ids = np.full((20, 30), 6, np.uint8)
    ids[:5] = 255
    wrong = ids.copy()
    wrong[10] = 34
    batch = {"image": objects(*[picture()] * 3), "annotation": objects(ids, wrong, None), "path": objects(*"abc")}
    result = keeping_with_annotations.predict(batch)
    message = r"row 1 of the batch (b): wrong annotation: it has the class ids [34]; expected 0 to 6, or 255"
    assert [mask is None for mask in result["segmentation"]] == [False, True, False]
    assert list(result["error"])[::2] == [None, None] and result["error"][1].startswith(message)
    assert result["loss"][0] > 0 and np.isnan(result["loss"][1:]).all()
    with pytest.raises(ImageError) as caught:
        SegformerPredictor(checkpoint, annotation_column="annotation").predict(batch)
    assert str(caught.value).startswith(message) and 'Pass on_error="keep"' in str(caught.value)


# -- the command ------------------------------------------------------------------------------------


@pytest.fixture
def predict(ray_session, capsys, tmp_path):
    """Runs `ray-segformer predict` on a folder; returns exit code, output, summary and rows by file name."""

    def run(folder, *arguments):
        output = tmp_path / "out"
        code = main(["predict", str(folder), str(output), "--workers", "1", *map(str, arguments)])
        printed = capsys.readouterr()
        assert output.exists(), printed.err
        rows = pa.parquet.read_table(output / "masks").to_pylist()
        summary = json.loads((output / "summary.json").read_text())
        return code, printed.out.splitlines(), summary, {Path(row["path"]).name: row for row in rows}

    return run


def test_the_command_counts_failures_by_cause_and_takes_the_limit(predict, cells, small_dir, small, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    bad = ("truncated.jpg", "truncated.png", "bomb.png", "letter.jpg")
    for name in ("plain.png", "plain.jpg", *bad):  # of 600 and of 5400 pixels
        os.link(cells[name].cell, folder / name)
    options = ("--model", small_dir, "--on-error", "keep", "--overlay")
    code, lines, summary, rows = predict(folder, *options, "--max-pixels", 1000)
    assert code == 1
    assert summary["failures"] == 5
    # Sizes are looked at first: what is too large is not found to be broken too.
    assert summary["failures_by_cause"] == {"too large": 4, "not an image": 1}
    assert lines[-2].startswith("5 failed: 4 too large, 1 not an image. ")
    assert lines[-1].startswith("6 images, 5 failed, ")
    mask = np.asarray(Image.open(io.BytesIO(rows["plain.png"]["segmentation"])))
    assert agreement([mask], [small.mask(Image.fromarray(cells["plain.png"].expected))]) >= 0.998
    assert all(rows[name]["segmentation"] is None and name in rows[name]["error"] for name in bad)
    assert (
        "(" + str(folder / "plain.jpg") + "): too large: 90 x 60 pixels, above the limit of 1000; "
        in (rows["plain.jpg"]["error"])
    )

    code, lines, summary, rows = predict(folder, *options, "--overwrite")
    assert summary["failures_by_cause"] == {"cannot decode": 2, "too large": 1, "not an image": 1}
    assert lines[-2].startswith("4 failed: 2 cannot decode, 1 too large, 1 not an image. ")
    assert rows["plain.jpg"]["error"] is None and rows["plain.png"]["error"] is None


def test_a_file_that_vanished_before_its_overlay_was_drawn(tmp_path):
    (tmp_path / "here.png").write_bytes(encode(picture()))
    paths = objects(str(tmp_path / "here.png"), str(tmp_path / "gone.png"))
    batch = {
        "path": paths,
        "index": np.arange(2),
        "source": paths,
        "name": objects("here", "gone"),
        "key": paths,
        "segmentation": np.zeros((2, 20, 30), "u1"),
    }
    encode_masks = EncodeMasks(np.zeros((7, 3), np.uint8))
    here, gone = encode_masks({**batch, "error": objects(None, None)}).to_pylist()
    assert here["error"] is None and Image.open(io.BytesIO(here["overlay"])).size == (30, 20)
    assert gone["segmentation"] is None and gone["overlay"] is None
    assert cause_of(gone["error"]) == "cannot read" and f"({paths[1]}): " in gone["error"]
    with pytest.raises(ImageError, match=r"row 1 of the batch \(.*gone\.png\): cannot read"):
        encode_masks(batch)


# -- damaged files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzz():
    """The benchmark that damages files."""
    sys.path.append(str(ROOT))
    try:
        from benchmarks import fuzz

        yield fuzz
    finally:
        sys.path.remove(str(ROOT))


def test_damaged_files(fuzz, shared):
    results = fuzz.fuzz(fuzz.real_files(shared), 300)
    assert [result["number"] for result in results] == list(range(300))
    outcomes = {result["outcome"] for result in results}
    assert outcomes <= {"decoded", *CAUSES}, [result for result in results if result["outcome"] not in CAUSES]
    assert {"decoded", "cannot decode", "not an image"} <= outcomes
    memory = [result["memory"] for result in results if "memory" in result]
    assert memory[-1] - memory[1] < 100  # MB


def test_the_fuzz_run_notices_what_must_not_happen(fuzz):
    preprocessor = SegformerPreprocessor(on_error="keep")
    content = encode(picture())
    assert fuzz.examine(content, preprocessor) == {"outcome": "decoded"}
    assert fuzz.examine(b"text", preprocessor) == {"outcome": "not an image"}

    def unforeseen(_):
        raise KeyError("tag")

    def of_no_cause(_):
        raise ImageError("something")

    assert fuzz.examine(content, preprocessor, unforeseen) == {"outcome": fuzz.FOREIGN, "error": "KeyError: 'tag'"}
    assert fuzz.examine(content, preprocessor, of_no_cause)["outcome"] == fuzz.FOREIGN
    assert [outcome for _, _, outcome in fuzz.watch(os._exit, range(2))] == [fuzz.CRASHED] * 2
    assert [outcome for _, _, outcome in fuzz.watch(time.sleep, range(1))] == [None]
    asleep = list(fuzz.watch(time.sleep, range(100_000, 300_000, 100_000), patience=0.2))  # for days
    assert [(number, outcome) for number, _, outcome in asleep] == [(100_000, fuzz.HUNG), (200_000, fuzz.HUNG)]
