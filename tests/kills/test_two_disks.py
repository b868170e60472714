"""Two nodes without a common disk: what is said before the first image, and where results are written."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from drivers import findings_of
from PIL import Image
from two_disks import jobs

from ray_segformer.demo import write_scenes

IMAGES = 24


@pytest.fixture(scope="module")
def found(object_store, tmp_path_factory):
    """The folder that the second node does not see, and the findings of `jobs`."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("may not hide a folder from a process")
    file_system, options = object_store
    folder, packages = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("packages")
    (packages / "pillow-0.1.dist-info").mkdir()
    (packages / "pillow-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 0.1\n")
    write_scenes(folder, IMAGES, height=96, width=128)
    file_system.create_dir("two-disks/in")
    for path in (folder / "images").iterdir():
        with file_system.open_output_stream(f"two-disks/in/{path.name}") as file:
            file.write(path.read_bytes())
    store = f"s3://someone:secret@two-disks/{{}}{options}"
    stores = {name: store.format(place) for name, place in (("images", "in"), ("out", "out"))}
    stores["denied"] = f"s3://someone:secret@no-such-bucket/out{options}"
    return folder, findings_of(jobs, str(folder), str(folder / "images"), str(packages), stores)


def test_what_a_node_lacks_is_said_in_a_line_each(found):
    folder, findings = found
    other_package, no_input = findings["local"].splitlines()
    assert findings["code"] == 2
    node = rf"ray-segformer: error: node [\d.]+ \({findings['nodes'][0][:8]}\): "
    assert re.match(node, other_package)
    assert "pillow is 0.1 there, and " in other_package and "install the same version" in other_package
    first = min(path.name for path in (folder / "images").iterdir())
    assert f"{folder}/images/{first} cannot be read there: " in no_input and re.match(node, no_input)
    assert not (folder / "refused").exists()


def test_an_output_that_cannot_be_written_is_said(found):
    assert found[1]["denied"].startswith("s3://no-such-bucket/out/lease.json: cannot be written: ")


def test_a_local_output_is_written_on_the_drivers_node_alone(found):
    folder, findings = found
    assert (findings["here"]["images"], findings["here"]["failures"]) == (IMAGES, 0)
    masks = {path.name for path in (folder / "out" / "masks").iterdir()}
    assert masks == {f"{path.stem}.png" for path in (folder / "images").iterdir()}
    rows = pa.parquet.read_table(folder / "out" / "rows").sort_by("index").to_pylist()
    assert [row["mask"] for row in rows] == sorted(f"masks/{name}" for name in masks)


def test_a_local_output_is_exported_on_the_drivers_node(found):
    folder, findings = found
    assert findings["exported"]["images"] == IMAGES
    for path in (folder / "out" / "masks").iterdir():
        (exported,) = (folder / "exported").rglob(path.name)
        assert np.array_equal(np.asarray(Image.open(exported)), np.asarray(Image.open(path)))


def test_an_output_in_a_store_is_the_same(found, object_store):
    folder, findings = found
    assert findings["there"]["images"] == IMAGES
    for path in (folder / "out" / "masks").iterdir():
        with object_store[0].open_input_file(f"two-disks/out/masks/{path.name}") as file:
            assert file.read() == path.read_bytes()
