"""Annotations as people have them: colours, three equal channels, other ids; and files that cannot hold ids."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ray import cloudpickle
from reference import encode, objects, picture, save_small

from ray_segformer import ImageError, SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer.images import LabelFormat, parse_label_map, read_label_colors, to_class_ids

IDS = np.random.default_rng(7).integers(0, 4, (37, 53), dtype=np.uint8)
COLORS = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255], [224, 224, 192]], np.uint8)
COLORED = COLORS[IDS]
BY_COLOR = {tuple(color): class_id for class_id, color in zip((3, 9, 300, 255), COLORS.tolist(), strict=True)}
OF_COLORS = np.array([3, 9, 300, 255], np.uint16)[IDS]
ALPHA = np.arange(IDS.size, dtype=np.uint8).reshape(IDS.shape)
EQUAL = np.stack([IDS] * 3, axis=-1)


def with_palette(ids: np.ndarray, colors: np.ndarray = COLORS) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(colors.reshape(-1).tolist())
    return image


def png_by_hand(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "cell",
    [
        EQUAL,
        np.dstack([EQUAL, ALPHA]),
        EQUAL.astype(np.int64),
        Image.fromarray(EQUAL),
        encode(EQUAL),
        encode(EQUAL, "TIFF"),
        encode(EQUAL, "WEBP", lossless=True),
        encode(np.dstack([EQUAL, ALPHA])),
        encode(Image.fromarray(np.dstack([IDS, ALPHA]), "LA")),
        encode(Image.fromarray(IDS), "TIFF", compression="tiff_lzw"),
        encode(with_palette(IDS), "TIFF"),
    ],
    ids=["array", "rgba array", "int64", "pil", "png", "tiff", "lossless webp", "rgba", "la", "lzw", "palette tiff"],
)
def test_equal_channels_are_ids(cell):
    result = to_class_ids(cell)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, IDS)


def test_equal_channels_of_wide_ids():
    wide = EQUAL.astype(np.uint16) + 1000
    np.testing.assert_array_equal(to_class_ids(wide), wide[..., 0])


@pytest.mark.parametrize(("bits", "ids"), [(1, IDS > 1), (2, IDS), (4, IDS * 5)])
def test_grey_files_of_few_bits_give_the_ids_that_they_store(bits, ids):
    """Pillow stretches the values of such files to [0, 255], and cannot write them: written by hand."""
    height, width = ids.shape
    unpacked = np.unpackbits(ids.astype(np.uint8)[..., None], axis=-1)[..., -bits:].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked)

    np.testing.assert_array_equal(to_class_ids(png_by_hand(width, height, bits, 0, rows)), ids)


@pytest.mark.parametrize(("largest", "kind"), [(3, "P5"), (19, "P2"), (255, "P5"), (1000, "P5"), (65535, "P2")])
def test_grey_maps_give_the_ids_that_they_store(largest, kind):
    """Pillow stretches these to [0, 255] or [0, 65535], too."""
    header = f"{kind} {IDS.shape[1]} {IDS.shape[0]} {largest}\n".encode()
    values = IDS.astype(">u2" if largest > 255 else np.uint8)
    body = values.tobytes() if kind == "P5" else " ".join(map(str, IDS.ravel())).encode()
    np.testing.assert_array_equal(to_class_ids(header + body), IDS)


def test_grey_of_few_bits_is_a_colour_as_it_is_shown():
    rows = b"".join(b"\0" + bytes([value << 4 | value]) for value in (0, 15, 3))
    colors = {(0, 0, 0): 2, (255, 255, 255): 1, (51, 51, 51): 0}
    assert LabelFormat(colors=colors).class_ids(png_by_hand(2, 3, 4, 0, rows)).tolist() == [[2, 2], [1, 1], [0, 0]]
    for cell in (IDS > 1, encode(Image.fromarray(IDS > 1))):
        np.testing.assert_array_equal(LabelFormat(colors=colors).class_ids(cell), np.where(IDS > 1, 1, 2))


@pytest.mark.parametrize(
    "cell",
    [
        COLORED,
        np.dstack([COLORED, ALPHA]),
        COLORED.astype(np.int32),
        encode(COLORED),
        encode(np.dstack([COLORED, ALPHA])),
        encode(with_palette(IDS)),
        encode(with_palette(IDS), transparency=0),
        encode(with_palette(3 - IDS, COLORS[::-1])),
        with_palette(IDS),
        encode(COLORED, "BMP"),
    ],
    ids=["array", "rgba", "int32", "png", "rgba png", "palette", "transparent", "palette reversed", "pil", "bmp"],
)
def test_colors(cell):
    result = LabelFormat(colors=BY_COLOR).class_ids(cell)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, OF_COLORS)


@pytest.mark.parametrize("cell", [IDS, encode(IDS), encode(Image.fromarray(np.dstack([IDS, ALPHA]), "LA"))])
def test_grey_counts_as_a_colour_where_there_are_colours(cell):
    grey = {(value, value, value): 7 - value for value in range(4)}
    np.testing.assert_array_equal(LabelFormat(colors=grey).class_ids(cell), 7 - IDS)


def test_map_then_reduce():
    ids = np.array([[0, 1, 2], [255, 65535, 40]], np.uint16)
    label_format = LabelFormat({0: 1, 255: 2, 65535: 255, 2: 0}, reduce_labels=True)
    result = label_format.class_ids(encode(ids))
    assert result.tolist() == [[0, 0, 255], [1, 255, 39]] and result.dtype == np.uint8
    assert LabelFormat({1: 1000}).class_ids(ids).tolist() == [[0, 1000, 2], [255, 65535, 40]]
    assert LabelFormat({9: 4}, BY_COLOR).class_ids(COLORED)[IDS == 1].tolist() == [4] * int((IDS == 1).sum())


def test_colours_without_their_classes_name_the_option():
    colored = int(((COLORED[..., 0] != COLORED[..., 1]) | (COLORED[..., 0] != COLORED[..., 2])).sum())
    for cell in (COLORED, encode(COLORED), encode(np.dstack([COLORED, ALPHA]))):
        with pytest.raises(ImageError, match=rf"colours, not class ids .*; {colored} pixels.*--label-colors"):
            to_class_ids(cell)


def test_unknown_colours_are_named_with_their_pixels():
    few = {color: class_id for color, class_id in BY_COLOR.items() if class_id in (3, 9)}
    counts = [int((IDS == 2).sum()), int((IDS == 3).sum())]
    with pytest.raises(ImageError, match=r"colours .*\(2\) stand for no class.*--label-colors") as caught:
        LabelFormat(colors=few).class_ids(encode(COLORED))
    assert f"(51, 221, 255) of {counts[0]} pixels" in str(caught.value)
    assert f"(224, 224, 192) of {counts[1]} pixels" in str(caught.value)


def lossy_animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(picture(40, 40, seed)) for seed in range(2)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (encode(IDS, "JPEG"), "do not survive JPEG;"),
        (encode(EQUAL, "JPEG", quality=100, subsampling=0), "do not survive JPEG;"),
        (Image.open(io.BytesIO(encode(IDS, "JPEG"))), "do not survive JPEG;"),
        ({"bytes": encode(IDS, "JPEG"), "path": "a.png"}, "do not survive JPEG;"),
        (encode(EQUAL, "MPO"), "do not survive JPEG;"),
        (encode(EQUAL, "AVIF"), "do not survive AVIF;"),
        (encode(IDS, "JPEG2000"), "do not survive JPEG 2000;"),
        (encode(EQUAL, "WEBP"), "do not survive lossy WebP;"),
        (encode(EQUAL, "WEBP", exif=Image.Exif().tobytes()), "do not survive lossy WebP;"),
        (lossy_animation(), "do not survive lossy WebP;"),
        (encode(IDS, "TIFF", compression="jpeg"), "do not survive JPEG in TIFF;"),
        (png_by_hand(2, 1, 16, 2, bytes(13)), "16 bits for each channel of RGB"),
        (Image.new("CMYK", (3, 3)), "mode CMYK"),
        (encode(Image.fromarray(np.array([[-1, 3]], np.int32)), "TIFF"), r"in \[-1, 3\]; write 255 for pixels that"),
    ],
)
def test_files_that_cannot_hold_ids_are_refused(cell, message):
    for label_format in (LabelFormat(), LabelFormat(colors=BY_COLOR)):
        with pytest.raises(ImageError, match=message):
            label_format.class_ids(cell)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_map": {256: -1}}, "not -1"),
        ({"label_map": {"255": 1}}, "not '255'"),
        ({"label_map": {65536: 1}}, "not 65536"),
        ({"label_colors": {}}, "no colour"),
        ({"label_colors": {(0, 0, 256): 1}}, r"not \(0, 0, 256\)"),
        ({"label_colors": {"red": 1}}, "not 'red'"),
        ({"label_colors": {(0, 0, 0): 1.5}}, "not 1.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SegformerPreprocessor(annotation_column="mask", **options)


# -- as people write the options --------------------------------------------------------------------


def test_label_map_of_the_command_line():
    assert parse_label_map("255=1, 0=0,65535=255") == {255: 1, 0: 0, 65535: 255}


@pytest.mark.parametrize("text", ["", "255", "255:1", "255=1,", "-1=0", "1=2=3", "a=1", "1=70000", "1=2,1=3"])
def test_label_maps_that_are_refused(text):
    with pytest.raises(ValueError, match="label map"):
        parse_label_map(text)


CLASSES = {0: "sky", 1: "door, double", 2: "tree", 3: "tree", 4: "7", 5: "road: paved"}


def test_label_colors_of_a_file(tmp_path):
    path = tmp_path / "colors.csv"
    path.write_text(
        "\ufeff# made by hand\nname,r,g,b\n\nsky, 1,2 ,3\ndoor, double,4,5,6\n"
        '"door, double",0,0,9\n2,7,8,9\n  # rest\nignored,255,255,255\nsky,9,9,9\n'
        "7,8,8,8\nroad: paved,3,3,3\n255,1,1,1\n",
        "utf-8",
    )
    expected = {(1, 2, 3): 0, (4, 5, 6): 1, (0, 0, 9): 1, (7, 8, 9): 2, (255, 255, 255): 255, (9, 9, 9): 0}
    assert read_label_colors(path, CLASSES) == {**expected, (8, 8, 8): 4, (3, 3, 3): 5, (1, 1, 1): 255}
    assert read_label_colors(path.as_uri(), CLASSES, ignored=255)[(1, 2, 3)] == 0


def test_label_colors_of_cvat(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nignored:0,0,0::\nsky:250,50,83::\n2:51,221,255:a,b:\n")
    assert read_label_colors(path, CLASSES, ignored=77) == {(0, 0, 0): 77, (250, 50, 83): 0, (51, 221, 255): 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky,1,2,3\nsk,1,2,4\n", "line 2: 'sk' is no class of the model .*'sky'"),
        ("sky,1,2\n", "line 1: expected name,r,g,b"),
        ("sky,1,2,256\n", "line 1: expected name,r,g,b"),
        ("name,r,g,b\nname,r,g,b\n", "line 2: expected name,r,g,b"),
        ("sky,1,2,3\n\n2,1,2,3\n", r"line 3: \(1, 2, 3\) stands for class 0 already, and now for class 2"),
        ("tree,1,2,3\n", r"line 1: 2 classes of the model are called 'tree'; give one of their ids: \[2, 3\]"),
        ("6,1,2,3\n", "line 1: 6 is no class id of the model, which has 0 to 5"),
        ("# nothing\n", "there is no colour"),
        ("", "empty"),
    ],
)
def test_label_colors_that_are_refused(tmp_path, text, message):
    path = tmp_path / "colors.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_label_colors(path, CLASSES)
    assert str(caught.value).startswith(str(path))


# -- in the preprocessor and the predictor ----------------------------------------------------------


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize("batch_format", ["numpy", "pandas"])
def test_preprocessors_travel_with_their_options(pickler, batch_format):
    preprocessor = SegformerPreprocessor(
        64, annotation_column="mask", label_map={3: 0}, label_colors=BY_COLOR, batch_format=batch_format
    )
    copy = pickler.loads(pickler.dumps(preprocessor))
    batch = {"image": objects(picture(*IDS.shape)), "mask": objects(encode(COLORED))}
    result = copy.transform_batch(pd.DataFrame(batch) if batch_format == "pandas" else batch)
    mapped = np.where(OF_COLORS == 3, 0, OF_COLORS)
    expected = np.asarray(Image.fromarray(mapped).resize((64, 64), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(result["labels"][0], expected)


def test_losses_are_those_of_the_ids_that_are_meant(tmp_path):
    save_small(tmp_path)
    image = objects(picture(*IDS.shape))
    plain = SegformerPredictor(str(tmp_path), annotation_column="annotation", use_gpu=False)
    expected = plain.predict({"image": image, "annotation": objects(3 - IDS)})["loss"]
    assert np.isfinite(expected).all()
    colors = {tuple(color): 100 + class_id for class_id, color in enumerate(COLORS.tolist())}
    options = {"label_map": {100 + class_id: 3 - class_id for class_id in range(4)}, "label_colors": colors}
    predictor = SegformerPredictor(str(tmp_path), annotation_column="annotation", use_gpu=False, **options)
    batch = {"image": image, "annotation": objects(encode(COLORED))}
    np.testing.assert_array_equal(predictor.predict(batch)["loss"], expected)
    np.testing.assert_array_equal(predictor(batch)["loss"], expected)  # as map_batches calls it
    sent = SegformerPredictor.prepare_checkpoint(
        SegformerCheckpoint.from_pretrained(tmp_path), annotation_column="annotation", **options
    )
    labels = sent.get_preprocessor().transform_batch(batch)["labels"]  # BatchPredictor's stage on CPUs
    assert set(np.unique(labels)) <= {0, 1, 2, 3}


def test_classes_of_colours_are_the_models_and_are_not_reduced():
    options = {"annotation_column": "annotation", "label_colors": {(1, 2, 3): 1, (4, 5, 6): 0}}
    batch = {
        "image": objects(picture(2, 2)),
        "annotation": objects(np.array([[[1, 2, 3], [4, 5, 6]]] * 2, np.uint8)),
    }
    asked = {"do_reduce_labels": True, "do_resize": False}
    labels = SegformerPreprocessor.from_config(asked, **options).preprocess(batch)["labels"]
    assert labels.tolist() == [[[1, 0], [1, 0]]]
    labels = SegformerPreprocessor.from_config(asked, do_reduce_labels=True, **options).preprocess(batch)["labels"]
    assert labels.tolist() == [[[0, 255], [0, 255]]]


def test_palettes_of_greys_that_are_other_ids_are_refused_but_black_and_white():
    wide = Image.fromarray(np.array([[3, 5], [9, 3]], np.uint8))
    with pytest.raises(ImageError, match=r"a palette of greys, in which 0 is the grey 3, and either"):
        to_class_ids(encode(wide, "GIF"))
    optimised = wide.convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    with pytest.raises(ImageError, match=r"a palette of greys, in which 0 is the grey \d, .* --label-colors"):
        to_class_ids(encode(optimised))
    greys = LabelFormat(colors={(grey, grey, grey): grey for grey in (3, 5, 9)})
    np.testing.assert_array_equal(greys.class_ids(encode(optimised)), np.asarray(wide))
    mask = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    mask.putpalette([0, 0, 0, 255, 255, 255])
    np.testing.assert_array_equal(to_class_ids(encode(mask)), [[0, 1], [1, 0]])


def test_an_annotation_in_alpha_alone_is_refused():
    alpha = np.array([[0, 255], [255, 0]], np.uint8)
    for channels, mode in ((1, "LA"), (3, "RGBA")):
        pixels = np.dstack([np.zeros((2, 2, channels), np.uint8), alpha])
        with pytest.raises(ImageError, match="in the alpha channel alone; save it as one channel"):
            to_class_ids(encode(Image.fromarray(pixels, mode)))
