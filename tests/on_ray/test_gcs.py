"""Input and output on Google Cloud Storage, as an emulator of it speaks, over a socket.

The list of a folder there has no folders in it, but for those that pyarrow made.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest
from reference import encode, picture

from ray_segformer.inputs import find_images
from ray_segformer.outputs import OutputFolder

IMAGES = ("a/1.png", "a/b/2.png", "a-b.png", "c/3.png")


@pytest.fixture(scope="module")
def place():
    """The URI of a path in a bucket, to be formatted. The server is a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        Path(sys.executable).parent / "gcp-storage-emulator",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with subprocess.Popen([*command, "--in-memory", "--default-bucket", "bucket"], stderr=subprocess.DEVNULL) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"gs://anonymous@bucket/{{}}?scheme=http&endpoint_override=127.0.0.1:{port}"
        server.kill()


@pytest.fixture(scope="module")
def names_in(place):
    """Lists the names of the objects below a path."""
    store, _ = pa.fs.FileSystem.from_uri(place.format(""))

    def names(path):
        infos = store.get_file_info(pa.fs.FileSelector(f"bucket/{path}", recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"bucket/{path}/") for info in infos if info.type == pa.fs.FileType.File)

    return names


@pytest.fixture(scope="module")
def scenes(place, tmp_path_factory):
    """The same images on the store and in a local folder, which is returned."""
    store, _ = pa.fs.FileSystem.from_uri(place.format(""))
    folder = tmp_path_factory.mktemp("scenes")
    for number, name in enumerate(IMAGES):
        content = encode(picture(40 + number, 50, number))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        with store.open_output_stream(f"bucket/in/{name}") as file:
            file.write(content)
    return folder


def test_files_in_folders_are_found_in_order(place, scenes):
    assert [row["name"] + ".png" for row in find_images(place.format("in")).take(9)] == sorted(IMAGES)


def test_an_output_is_that_of_a_local_run_and_can_be_replaced(
    place, scenes, names_in, small_dir, ray_session, tmp_path, run_command
):
    options = ["--model", small_dir, "--workers", "1", "--format", "png", "--overlay"]
    assert run_command("predict", scenes, tmp_path / "out", *options)[0] == 0
    assert run_command("predict", place.format("in"), place.format("out"), *options)[0] == 0
    store, _ = pa.fs.FileSystem.from_uri(place.format(""))
    files = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.*g")}
    assert len(files) == 8 and {name for name in names_in("out") if name[-3:] in ("png", "jpg")} == files.keys()
    for name, path in files.items():
        with store.open_input_file(f"bucket/out/{name}") as file:
            assert file.read() == path.read_bytes()
    again = ["predict", place.format("in"), place.format("out"), *options, "--overwrite", "--exclude", "a*"]
    assert run_command(*again)[0] == 0
    left = [name for name in names_in("out") if name.startswith(("masks/", "overlays/"))]
    assert left == ["masks/c/3.png", "overlays/c/3.jpg"]


def test_what_an_interrupted_job_wrote_stays(place, names_in):
    with pytest.raises(KeyboardInterrupt), OutputFolder(place.format("left"), options={"input": "in"}) as folder:
        folder.begin({0: "wall"})
        folder.write_file("masks/part.parquet", b"rows")
        raise KeyboardInterrupt
    assert names_in("left") == ["classes.json", "job.json", "masks/part.parquet"]
    with OutputFolder(place.format("left"), options={"input": "in"}, resume=True) as folder:
        assert folder.resumes and json.loads(folder.storage.read("job.json")) == {"input": "in"}
