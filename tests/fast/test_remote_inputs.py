"""Inputs in a store of objects, whose address and password are in the URI. A server answers; no Ray is started."""

from __future__ import annotations

import io

import boto3
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest
from PIL import Image

from ray_segformer.images import ImageError, describe, encoded_bytes, retried, to_rgb
from ray_segformer.inputs import InputError, find_images, find_parquet, find_rounds

SECRET = "top%2Fsecret"

# Object names whose letters have a meaning in URIs or in globs.
ODD_NAMES = (
    "a b.png",
    "c%20d.png",
    "e?f=1&g.png",
    "h#2.png",
    "i+j.png",
    "[k].png",
    "ä/ö.png",
    "l@2x.png",
    "m:n;o=p.png",
)


@pytest.fixture
def bucket(object_store, request):
    """The name of a new bucket."""
    name = "bucket-" + "".join(filter(str.isalnum, request.node.name.lower()))[-40:]
    object_store[0].create_dir(name)
    return name


def put(object_store, path, width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, 4)).save(buffer, "PNG")
    write(object_store, path, buffer.getvalue())


def write(object_store, path, content):
    with object_store[0].open_output_stream(path) as file:
        file.write(content)


def widths(rows, column="image"):
    return [to_rgb(row[column]).shape[1] for row in rows]


def public(rows):
    """All columns that are written into outputs."""
    return "".join(str(row[name]) for row in rows for name in ("path", "name", "key"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["{0}", "{0}/", "{0}/in", "{0}/in/*.png", "{0}/in/3.png", "{0}/list.txt"])
@pytest.mark.parametrize("user", ["", f"someone:{SECRET}@"])
def test_every_row_is_read_with_the_options_of_its_source(object_store, bucket, source, user):
    put(object_store, f"{bucket}/in/3.png", 3)
    put(object_store, f"{bucket}/in/4.png", 4)
    write(
        object_store, f"{bucket}/list.txt", f"in/3.png\n# no image\ns3://{bucket}/in/4.png\nlists/../in/4.png".encode()
    )
    found = find_images(f"s3://{user}{source.format(bucket)}{object_store[1]}")
    rows = found.take(9)
    assert widths(rows) == {"{0}/in/3.png": [3], "{0}/list.txt": [3, 4, 4]}.get(source, [3, 4])
    assert rows[0]["path"] == rows[0]["key"] == f"s3://{bucket}/in/3.png"
    assert rows[0]["image"] == f"s3://{user}{bucket}/in/3.png{object_store[1]}"
    assert rows[0]["name"] == ("in/3" if source in ("{0}", "{0}/") else "3")
    assert describe(rows[0]["image"]) == f"s3://{bucket}/in/3.png"


@pytest.mark.slow
def test_names_with_letters_of_uris_are_read(object_store, bucket):
    for number, name in enumerate(ODD_NAMES, 3):
        put(object_store, f"{bucket}/in/{name}", number)
    rows = find_images(f"s3://{bucket}/in{object_store[1]}").take(99)
    assert {row["name"] + ".png": width for row, width in zip(rows, widths(rows), strict=True)} == {
        name: number for number, name in enumerate(ODD_NAMES, 3)
    }
    assert {row["path"] for row in rows} >= {f"s3://{bucket}/in/a%20b.png", f"s3://{bucket}/in/c%2520d.png"}
    again = [encoded_bytes(row["path"] + object_store[1]) for row in rows]  # a path is a URI
    assert again == [encoded_bytes(row["image"]) for row in rows]
    # As people write them in URIs, who do not encode what means nothing there.
    (row,) = find_images(f"s3://{bucket}/in/ä/ö.png{object_store[1]}").take(9)
    assert (widths([row]), row["name"]) == ([9], "ö")
    write(
        object_store, f"{bucket}/list.txt", f"s3://{bucket}/in/a b.png\nin/c%20d.png\ns3://{bucket}/in/h#2.png".encode()
    )
    rows = find_images(f"s3://{bucket}/list.txt{object_store[1]}").take(9)
    assert widths(rows) == [3, 4, 6] and [row["name"] for row in rows] == ["a b", "c%20d", "h#2"]


def test_a_list_may_mix_places(object_store, bucket, tmp_path):
    put(object_store, f"{bucket}/3.png", 3)
    Image.new("RGB", (5, 4)).save(tmp_path / "5.png")
    uri = f"s3://someone:{SECRET}@{bucket}/3.png{object_store[1]}"
    (tmp_path / "list.txt").write_text(f"{uri}\n5.png\n")  # a local list
    rows = find_images(str(tmp_path / "list.txt")).take(9)
    assert widths(rows) == [3, 5] and rows[0]["path"] == f"s3://{bucket}/3.png" and rows[1]["path"][0] == "/"
    assert SECRET not in public(rows) and "endpoint" not in public(rows)
    write(object_store, f"{bucket}/list.txt", f"{tmp_path}/5.png\n{(tmp_path / '5.png').as_uri()}\n{uri}".encode())
    rows = find_images(f"s3://{bucket}/list.txt{object_store[1]}").take(9)
    assert widths(rows) == [5, 5, 3]
    write(object_store, f"{bucket}/list.txt", b"../other/3.png")
    with pytest.raises(InputError, match="outside of it; name such a file by its URI"):
        find_images(f"s3://{bucket}/list.txt{object_store[1]}")


def test_parquet_names_files_beside_it(object_store, bucket, tmp_path):
    put(object_store, f"{bucket}/t/3.png", 3)
    put(object_store, f"{bucket}/other/a b.png", 4)
    Image.new("RGB", (5, 4)).save(tmp_path / "5.png")
    texts = ["3.png", "../other/a b.png", f"s3://{bucket}/t/3.png", str(tmp_path / "5.png")]
    table = pa.table({"image": texts, "annotation": [{"bytes": None, "path": text} for text in texts]})
    pa.parquet.write_table(table, f"{bucket}/t/in.parquet", filesystem=object_store[0])
    for source in (f"s3://someone:{SECRET}@{bucket}/t/in.parquet", f"s3://someone:{SECRET}@{bucket}/t"):
        rows = find_parquet(source + object_store[1]).take(9)
        assert widths(rows) == widths(rows, "annotation") == [3, 4, 3, 5]
        assert [row["path"] for row in rows] == [
            *(f"s3://{bucket}/t/3.png", f"s3://{bucket}/other/a%20b.png", f"s3://{bucket}/t/3.png"),
            str(tmp_path / "5.png"),
        ]
        assert [row["name"] for row in rows[:2]] == ["3", "other/a b"]
        assert SECRET not in public(rows) and "endpoint" not in public(rows)


@pytest.mark.slow
def test_hidden_and_other_files_are_left_out_as_on_a_disk(object_store, bucket):
    names = ("a.png", "x/b.png", ".c.png", "x/.d/e.png", "__MACOSX/a.png", "x/Thumbs.db", "x/y/f.png", "x/a.psd")
    for name in names:
        put(object_store, f"{bucket}/in/{name}", 3)
    found = find_images(f"s3://{bucket}/in{object_store[1]}")
    assert [row["name"] for row in found.take(9)] == ["a", "x/b", "x/y/f"]
    assert {guess.code: guess.rows for guess in found.guesses} == {"hidden-files": 4, "other-files": 1}
    assert "endpoint" not in "".join(guess.message for guess in found.guesses)

    def matched(pattern):
        return [
            row["path"].split("/in/")[1] for row in find_images(f"s3://{bucket}/in/{pattern}{object_store[1]}").take(9)
        ]

    assert matched("**/*.png") == ["a.png", "x/b.png", "x/y/f.png"]
    assert matched("*.png") == ["a.png"] and matched("x/*/*.png") == ["x/y/f.png"]
    assert matched(".*.png") == [".c.png"] and matched("x/.d/*") == ["x/.d/e.png"]
    assert [row["name"] for row in find_images(f"s3://{bucket}/in{object_store[1]}", exclude=["x/*"]).take(9)] == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        f"s3://someone:{SECRET}@nowhere/x{{0}}",
        f"s3://someone:{SECRET}@nowhere/x*.png{{0}}",
        f"s3://someone:{SECRET}@nowhere:port/x{{0}}",
        "s3://someone:top/secret@nowhere/x{0}",  # a slash that somebody forgot to encode
        f"s3://someone:{SECRET}@nowhere/x?no_such_option=top",
        f"nosuch://someone:{SECRET}@nowhere/x{{0}}",
    ],
)
def test_errors_do_not_tell_secrets(object_store, source):
    source = source.format(object_store[1])
    for reader, error in ((find_images, InputError), (to_rgb, ImageError)):
        with pytest.raises(error) as raised:
            reader(source)
        text = str(raised.value)
        assert "secret" not in text and "someone" not in text and "endpoint" not in text
    with pytest.raises(InputError, match="nowhere"):
        find_images(source)


@pytest.mark.slow
def test_a_large_bucket_is_listed_in_order(object_store, bucket, monkeypatch):
    """More than one page of S3, and names beside those of folders; with boto3, and by pyarrow alone."""
    names = [f"in/{number:04}.jpg" for number in range(1001)]
    names += ["in/0500/a.jpg", "in/0500-b.jpg", "in/ä ö+%20.jpg", "in/.hidden.jpg", "in/table.csv", "other/x.jpg"]
    client = boto3.client("s3", endpoint_url=f"http://{object_store[1].partition('=')[2].partition('&')[0]}")
    for name in names:  # a request each; pyarrow makes several
        client.put_object(Bucket=bucket, Key=name)
    object_store[0].create_dir(f"{bucket}/in/empty")
    location = f"s3://nobody:{SECRET}@{bucket}/in"
    expected = sorted(name for name in names if name.startswith("in/") and ".hidden" not in name and ".csv" not in name)
    for has_pages in (True, False):
        monkeypatch.setattr("ray_segformer.inputs._listing.has_pages", lambda _, has=has_pages: has)
        rounds = [*find_rounds(location + object_store[1], first=600)]
        assert [images.rows for images in rounds] == [600, 404]
        rows = [row for images in rounds for row in images.take(9999)]
        assert [row["name"] + ".jpg" for row in rows] == [name.removeprefix("in/") for name in expected]
        assert "secret" not in public(rows)
        assert {guess.code: guess.rows for guess in rounds[-1].guesses} == {"hidden-files": 1, "other-files": 1}


def test_the_output_of_the_job_is_no_input(object_store, bucket):
    for path in ("in/a.jpg", "in/out/masks/a.png"):
        put(object_store, f"{bucket}/{path}", 4)
    source = f"s3://{bucket}/in{object_store[1]}"
    elsewhere = "?endpoint_override=localhost:9&scheme=http"
    for options, rows in ((object_store[1], 1), (elsewhere, 2)):
        (found,) = find_rounds(source, output=f"s3://nobody:{SECRET}@{bucket}/in/out{options}")
        assert found.rows == rows


def test_a_bucket_that_ends_or_is_not_there(object_store, bucket):
    write(object_store, f"{bucket}/a.jpg", b"")
    assert find_images(f"s3://{bucket}{object_store[1]}").rows == 1
    with pytest.raises(InputError, match="no such file or folder") as caught:
        find_images(f"s3://nobody:{SECRET}@{bucket}/nothing{object_store[1]}")
    assert "secret" not in str(caught.value)


def test_an_error_of_a_store_that_wants_more_than_a_message_tells_no_signature():
    class HttpError(OSError):  # as that of huggingface_hub
        def __init__(self, message, *, response):
            super().__init__(message)

    def call():
        raise HttpError("https://host/a.png?sig=SECRET: 403", response=None)

    with pytest.raises(OSError, match="403") as error:
        retried(call)
    assert "SECRET" not in str(error.value)
