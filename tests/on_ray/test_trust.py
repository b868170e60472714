"""What SECURITY.md promises, with files that somebody hostile might have made: real names, real links, real runs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from reference import agreement, assert_same_model, encode, objects, picture, run_python
from safetensors.torch import load_file

from ray_segformer import CheckpointError, SegformerCheckpoint, SegformerPredictor
from ray_segformer.air import Checkpoint, CheckpointFiles
from ray_segformer.cli import main
from ray_segformer.images import ImageError, to_rgb
from ray_segformer.inputs import InputError, find_images
from ray_segformer.outputs import OutputError, OutputFolder, WriteShards
from ray_segformer.predict import predict

ROOT = Path(__file__).parents[2]
LONG = "l" * 251  # with a suffix, as long as a file's name may be
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="has names, links and devices as Linux has them")
E_ACUTE = "\N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.fixture(scope="module")
def checkpoint(small_dir):
    return SegformerCheckpoint.from_pretrained(small_dir)


def calls_of(function) -> int:
    """The number of calls of Python functions that a function makes: its work, however fast the machine is."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def image_of(number: int) -> bytes:
    """An image that is told from the others by its width."""
    return encode(picture(8, 8 + number, seed=number))


def width_of(cell) -> int:
    return to_rgb(cell).shape[1]


def make(root: Path, *names: str | bytes) -> dict[str, int]:
    """Write images below `root`; their widths by name."""
    widths = {}
    for number, name in enumerate(names):
        path = os.path.join(root, os.fsdecode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_bytes(image_of(number))
        widths[os.fsdecode(name)] = 8 + number
    assert len(widths) == len(names)
    return widths


def tree(root: Path) -> dict[bytes, bytes]:
    """Every file and link below a folder, and what it holds."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            if os.path.islink(path):
                found[path] = b"-> " + os.readlink(path)
            elif os.path.isfile(path):
                found[path] = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest()
    return found


def run(source, output: Path, checkpoint, **options):
    options = {"mask_format": "png", "overlays": True, "batch_size": 8, "workers": 1, "progress": False, **options}
    return predict(str(source), str(output), checkpoint, **options)


def masks_below(output: Path, checkpoint) -> dict[str, int]:
    """The widths of the masks by name, which are those of the images, and have an overlay each; names are harmless."""
    masks = {os.path.relpath(path, output / "masks"): np.asarray(Image.open(path)) for path in files(output / "masks")}
    widths = {name: mask.shape[1] for name, mask in masks.items()}
    images = objects(*(image_of(width - 8) for width in widths.values()))
    expected = SegformerPredictor(checkpoint).predict({"image": images})
    assert agreement(masks.values(), expected["segmentation"]) >= 0.999
    overlays = {
        os.path.relpath(path, output / "overlays"): Image.open(path).width for path in files(output / "overlays")
    }
    assert {name[:-4]: width for name, width in overlays.items()} == {n[:-4]: width for n, width in widths.items()}
    for name in widths:
        assert name.encode() and "Cc" not in map(unicodedata.category, name)  # UTF-8, and no control characters
        assert all(len(part.encode()) <= 255 and part not in ("", ".", "..") for part in name.split("/"))
    # On a file system that ignores case and how letters are composed, they are as many.
    folded = {unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()) for name in widths}
    assert len(folded) == len(widths)
    return widths


def files(root: Path) -> list[str]:
    return [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]


# -- names of files ---------------------------------------------------------------------------------


def test_a_tree_of_hostile_names(ray_session, checkpoint, tmp_path):
    names = [
        *("plain.jpg", "Plain.jpg", "PLAIN.png", "deep/er/x.jpg", "deep/x", f"{E_ACUTE}.jpg", "e\u0301.jpg"),
        *("a.jpg", "a.png/b.jpg", "A.PNG/c.jpg", "x.png", "x.jpg/y.jpg", "z/file.jpg", "z.jpg"),
        *("new\nline.jpg", "\x1b[31mred.jpg", "z\\..\\..\\up.jpg", " .jpg", "~", "$(touch pwned).jpg"),
        *(f"{LONG}.jpg", f"{LONG}.png", f"{E_ACUTE * 125}.jpg", "n" * 255 + "/x.jpg"),
        *(b"caf\xe9.jpg", "caf%E9.jpg", b"\xff\xfe/\xe9.jpg", b"\xff\xfe/\xe8.jpg"),
    ]
    names = [name if os.path.splitext(name)[1] else name + ".jpg" for name in map(os.fsdecode, names)]
    widths = make(tmp_path / "in", *names)
    make(tmp_path / "in", "...jpg", "..\\..\\..\\hidden.jpg")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked.jpg").write_bytes(image_of(len(names)))
    widths["link/linked.jpg"] = 8 + len(names)
    (tmp_path / "in" / "link").symlink_to(elsewhere)
    before = tree(tmp_path)
    summary = run(tmp_path / "in", tmp_path / "out", checkpoint)
    after = tree(tmp_path)
    assert {path: after[path] for path in before} == before
    assert all(path.startswith(os.fsencode(tmp_path / "out") + b"/") for path in after if path not in before)

    found = masks_below(tmp_path / "out", checkpoint)
    assert sorted(found.values()) == sorted(widths.values())
    assert summary["images"] == len(widths) and summary["failures"] == 0
    assert {warning["code"]: warning["rows"] for warning in summary["warnings"]}["hidden-files"] == 2
    for name, expected in {
        "deep/er/x.jpg": "deep/er/x.png",
        "link/linked.jpg": "link/linked.png",
        "PLAIN.png": "PLAIN.png.png",
        "z/file.jpg": "z/file.png",
        "z.jpg": "z.png",
        os.fsdecode(b"\xff\xfe/\xe9.jpg"): "%FF%FE/%E9.png",
        "new\nline.jpg": "new_line.png",
        "z\\..\\..\\up.jpg": "z/up.png",
        f"{E_ACUTE * 125}.jpg": f"{E_ACUTE * 125}.png",
    }.items():
        assert found[expected] == widths[name], name


def test_a_table_of_hostile_paths(ray_session, checkpoint, tmp_path):
    paths = [
        *("../../../../escaped", "/etc/escaped", "C:\\escaped\\x", "..\\..\\escaped", "a/../../../escaped.png"),
        *("a\0b.png", "new\nline", "x" * 300, "d/" * 3000 + "deep", "e/" * 3000 + "deep", f"{E_ACUTE * 200}.jpg"),
        *("", ".", "..", "/", "//", None, "CON", "name", "NAME", "Name", "name.png/inner", "name.jpg", "name-2"),
        *("../summary.json", "../journal/job", "s3://bucket/key.jpg", "file:///etc/passwd", "\u202egpj.exe"),
        *("Stra\u00dfe", "STRASSE", f"caf{E_ACUTE}", "cafe\u0301", "y.png/1", "Y", "y.jpg/2", "~/x", "$HOME/x", ".png"),
    ]
    table = pa.table(
        {"image": [image_of(number) for number in range(len(paths))], "path": pa.array(paths, pa.string())}
    )
    pa.parquet.write_table(table, tmp_path / "in.parquet", row_group_size=16)
    before = tree(tmp_path)
    summary = run(tmp_path / "in.parquet", tmp_path / "out", checkpoint)
    assert summary["images"] == len(paths) and summary["failures"] == 0
    after = tree(tmp_path)
    assert all(path.startswith(os.fsencode(tmp_path / "out") + b"/") for path in after.keys() ^ before.keys())
    assert sorted(os.listdir(tmp_path / "out")) == ["classes.json", "masks", "overlays", "rows", "summary.json"]
    found = {width - 8: name for name, width in masks_below(tmp_path / "out", checkpoint).items()}
    assert sorted(found) == list(range(len(paths)))
    names = {path: found[number] for number, path in enumerate(paths)}
    assert names["/etc/escaped"] == "etc/escaped.png" and names["C:\\escaped\\x"] == "C:/escaped/x.png"
    for path in ("name", "NAME", "Name", "name.jpg"):
        assert re.fullmatch(path.removesuffix(".jpg") + "~[0-9a-f]{16}.png", names[path])
    assert names["name-2"] == "name-2.png" and names["a\0b.png"] == "a_b.png"
    assert names["name.png/inner"] == "name.png_/inner.png" and names["Y"] == "Y.png"  # no file is a folder, too


def test_a_list_of_hostile_lines(tmp_path):
    widths = make(
        tmp_path, "listed/a.jpg", "other/a.jpg", b"other/caf\xe9.jpg", "other/b.jpg", "other/line\u2028end.jpg"
    )
    lines = ["a.jpg", "../other/a.jpg", "../other/../other/b.jpg", str(tmp_path / "listed/a.jpg"), "a.jpg"]
    (tmp_path / "listed" / "list.txt").write_text(
        "\n".join([*lines, "../other/line\u2028end.jpg", "/", "..", "a\0b.jpg"])
    )
    rows = find_images(str(tmp_path / "listed" / "list.txt")).take(99)
    assert [width_of(row["image"]) for row in rows[:6]] == [8, 9, 11, 8, 8, widths["other/line\u2028end.jpg"]]
    for row in rows[6:]:
        with pytest.raises(ImageError, match="cannot read"):
            to_rgb(row["image"])
    names = [row["name"] for row in rows]
    assert all(re.search("listed/a.jpg~[0-9a-f]{16}$", names[place]) for place in (0, 3, 4))
    assert names[1].endswith("listed/other/a")
    assert len(set(names)) == 9 and not any(name.startswith("/") or ".." in name.split("/") for name in names)
    uris = [(tmp_path / "other/b.jpg").as_uri(), f"{(tmp_path / 'other').as_uri()}/caf%E9.jpg", "a.jpg"]
    (tmp_path / "listed" / "list.txt").write_text("\n".join(uris))
    assert [width_of(row["image"]) for row in find_images(str(tmp_path / "listed" / "list.txt")).take(9)] == [11, 10, 8]


@pytest.mark.parametrize("kind", ["folder", "glob", "image"])
def test_names_that_are_no_utf8_are_read(tmp_path, kind):
    widths = make(tmp_path / os.fsdecode(b"in\xe9"), b"caf\xe9.jpg", b"\xff/\xe9.jpg", "plain.jpg")
    folder = os.path.join(tmp_path, os.fsdecode(b"in\xe9"))
    image = os.path.join(folder, os.fsdecode(b"caf\xe9.jpg"))
    source = {"folder": folder, "glob": f"{folder}/**/*.jpg", "image": image}[kind]
    rows = find_images(source).take(9)
    assert len(rows) == (1 if kind == "image" else 3)
    uri = tmp_path.as_uri()
    assert {row["path"]: row["name"] for row in rows}[f"{uri}/in%E9/caf%E9.jpg"] == "caf%E9"
    for row in rows:
        assert row["path"] == row["key"] and row["path"].encode()
        assert (
            width_of(row["image"])
            == widths[os.fsdecode(row["name"].replace("%E9", "\udce9").replace("%FF", "\udcff")) + ".jpg"]
        )


def test_the_command_with_names_that_are_no_utf8(ray_session, small_dir, tmp_path, capsys):
    make(tmp_path / "in", b"caf\xe9.jpg")
    (tmp_path / "in").rename(os.path.join(tmp_path, os.fsdecode(b"in\xe9")))
    source, output = (os.path.join(tmp_path, os.fsdecode(name)) for name in (b"in\xe9", b"out\xe9"))
    code = main(["predict", source, output, "--model", str(small_dir), "--workers", "1", "--report"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    uri = tmp_path.as_uri()
    assert printed.out.endswith(f": {uri}/out%E9\n") and f"\n{uri}/out%E9/report.html\n" in printed.out
    page = Path(output, "report.html").read_text(encoding="utf-8")
    assert f"{uri}/in%E9/caf%E9.jpg" in page and page.count('src="data:image/jpeg;base64,') == 1
    (shard,) = Path(output, "masks").iterdir()
    (row,) = pa.parquet.read_table(pa.BufferReader(shard.read_bytes())).to_pylist()
    assert (row["path"], row["width"], row["error"]) == (f"{uri}/in%E9/caf%E9.jpg", 8, None)
    summary = json.loads(Path(output, "summary.json").read_text(encoding="utf-8"))
    assert summary["options"]["input"] == f"{uri}/in%E9"


def test_what_is_printed_of_a_name_does_not_steer_the_terminal(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "\x1b\x07no\nwhere"), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and "\\x1b\\x07no where: no such file or folder" in line


def test_paths_in_parquet_that_are_no_text(tmp_path):
    images = pa.array([image_of(0), image_of(1)])
    for paths, expected in (
        (pa.array([b"a/caf\xe9.jpg", b"/b"]), ["a/caf%E9.jpg", "/b"]),
        (pa.array([5, None]), ["5", "image-" + hashlib.sha256(image_of(1)).hexdigest()[:16]]),
    ):
        pa.parquet.write_table(pa.table({"image": images, "path": paths}), tmp_path / "in.parquet")
        assert [row["path"] for row in find_images(str(tmp_path / "in.parquet")).take(2)] == expected
    lying = pa.StringArray.from_buffers(2, pa.array([0, 1, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff\xfe"))
    pa.parquet.write_table(pa.table({"image": images, "path": lying}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"in\.parquet: broken from row 0 on, in the columns image, path: .*UTF8"):
        find_images(str(tmp_path / "in.parquet")).take(2)


def test_many_rows_of_one_name_get_a_name_each(tmp_path):
    (tmp_path / "list.txt").write_text("x.jpg\n" * 10_000)
    rows = find_images(str(tmp_path / "list.txt")).take(10_000)
    assert len({row["name"] for row in rows}) == len({row["key"] for row in rows}) == 10_000


# -- trees of the input -----------------------------------------------------------------------------


def test_links_in_the_input(tmp_path):
    make(tmp_path / "in", "a.jpg", "sub/b.jpg")
    (tmp_path / "in/sub/loop").symlink_to("..")
    (tmp_path / "in/broken.jpg").symlink_to("nowhere")
    (tmp_path / "in/itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "in/alias").symlink_to("sub")
    os.mkfifo(tmp_path / "in/pipe.jpg")
    rows = find_images(str(tmp_path / "in")).take(99)
    # Each once by each of the two names of its folder, and not what is below `loop` again and again.
    assert [row["name"] for row in rows] == ["a", "alias/b", "broken", "itself", "pipe", "sub/b"]
    for row in rows[2:5]:
        with pytest.raises(ImageError, match="cannot read the file: .*" + row["name"]):
            to_rgb(row["image"])
    assert len(find_images(str(tmp_path / "in/*.jpg")).take(99)) == 4
    with pytest.raises(InputError, match=r"pipe\.jpg is a pipe or a device"):
        find_images(str(tmp_path / "in/pipe.jpg"))
    with pytest.raises(InputError, match=r"itself\.jpg: cannot be read: Too many levels of symbolic links"):
        find_images(str(tmp_path / "in/itself.jpg"))


def test_a_folder_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        make(Path(folder), "a.jpg", "secret/b.jpg")
        os.chmod(f"{folder}/secret", 0)
        libc = ctypes.CDLL(None)
        if os.geteuid() == 0:  # who may read everything: files of this thread are then asked for as by nobody
            libc.setfsuid(65534)
        try:
            with pytest.raises(InputError, match=r"secret: this folder of the input cannot be read: Permission denied"):
                find_images(folder)
        finally:
            libc.setfsuid(os.geteuid())
            os.chmod(f"{folder}/secret", 0o755)


def test_devices_are_not_read():
    for cell in ("/dev/zero", "file:///dev/zero", {"bytes": None, "path": "file:///dev/zero"}):
        with pytest.raises(ImageError, match="cannot read the file: /dev/zero is a pipe or a device"):
            to_rgb(cell)


# -- links in the output ----------------------------------------------------------------------------


def test_nothing_is_written_through_links_in_the_output(tmp_path):
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    row = {"path": "/a", "index": 0, "key": "a", "name": "a", "height": 1, "width": 1, "error": None}
    row |= {"segmentation": b"a mask", "overlay": b"an overlay", "class_ids": [0], "class_pixels": [1]}

    def write(row, finish=True, **options):
        with OutputFolder(str(output), options={"a": 1}, **options) as folder:
            folder.begin()
            WriteShards(folder.storage, "png")(pa.Table.from_pylist([row]))
            if not finish:
                raise KeyboardInterrupt
            folder.finish({}, {})

    with pytest.raises(KeyboardInterrupt):
        write(row, finish=False)
    assert (output / "overlays" / "a.jpg").read_bytes() == b"an overlay"
    (output / "overlays").rename(elsewhere)
    (output / "overlays").symlink_to(elsewhere)
    (output / ".unfinished").symlink_to(elsewhere)  # is removed: files are made there before they get their names
    before = tree(elsewhere)
    with pytest.raises(OutputError, match="overlays is a symbolic link, through which nothing is written; remove it"):
        write({**row, "key": "b", "name": "deep/b"}, resume=True)
    assert tree(elsewhere) == before and not (elsewhere / "deep").exists()
    (output / "overlays").unlink()
    # OUTPUT itself may be a link: its folder is what the user named.
    output.rename(tmp_path / "big")
    output.symlink_to("big")
    for again in range(2):
        write({**row, "segmentation": b"mask %d" % again}, overwrite=True)
        assert output.is_symlink() and (tmp_path / "big/masks/a.png").read_bytes() == b"mask %d" % again
        assert sorted(os.listdir(tmp_path / "big")) == ["classes.json", "masks", "overlays", "rows", "summary.json"]


# -- checkpoints ------------------------------------------------------------------------------------

WATCHED = """
import json, os, sys, tempfile
import numpy as np, torch, transformers
import ray_segformer.network, ray_segformer.predictor
from ray_segformer import SegformerCheckpoint, SegformerPredictor
from reference import Reference, small_model

directory, small_dir = sys.argv[1:3]
expected = Reference(small_dir).logits()
events = []
# What a first prediction compiles and caches comes before.
SegformerPredictor(small_dir, runtime="eager").predict({"image": np.zeros((1, 20, 30, 3), np.uint8)})
SegformerCheckpoint.from_pretrained(small_dir).get_model()
FILES = ("open", "os.listdir", "os.scandir", "os.chdir")
OTHER = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec",
         "os.posix_spawn", "os.fork", "pickle.find_class", "ctypes.dlopen")

def watch(event, arguments):
    if event in FILES and isinstance(arguments[0], (str, bytes)):
        events.append((event, os.path.realpath(os.fsdecode(arguments[0]))))
    elif event == "exec" and hasattr(arguments[0], "co_filename"):
        events.append((event, os.path.realpath(arguments[0].co_filename)))
    elif event in OTHER:
        events.append((event, str(arguments)[:200]))

sys.addaudithook(watch)
checkpoint = SegformerCheckpoint.from_pretrained(directory)
predictor = SegformerPredictor.from_checkpoint(checkpoint, runtime="eager")
mask = predictor.predict({"image": np.zeros((1, 20, 30, 3), np.uint8)})["segmentation"][0]
model = checkpoint.get_model()
pixels = torch.linspace(-2, 2, 2 * 3 * 64 * 96).reshape(2, 3, 64, 96)
with torch.no_grad():
    difference = (model(pixel_values=pixels).logits - expected).abs().max().item()
seen, events = events, []

# The watch is not blind.
import pickle, socket
exec(compile(open(directory + "/modeling_evil.py").read(), directory + "/modeling_evil.py", "exec"))
pickle.loads(pickle.dumps(Reference))
try:
    socket.create_connection(("127.0.0.1", 9), timeout=1)
except OSError:
    pass
installed = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(ray_segformer.network.__file__))]
print(json.dumps([seen, events, difference, mask.shape, [os.path.realpath(path) for path in installed]]))
"""


@pytest.fixture
def hostile(small_dir, tmp_path) -> Path:
    """The small model, and beside it all that makes a loader run code, leave the folder, or ask the Hub."""
    directory = tmp_path / "a" / "b" / "model"
    shutil.copytree(small_dir, directory)
    shutil.copy(directory / "model.safetensors", tmp_path / "a" / "outside.safetensors")
    (directory / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    evil = {
        **{"AutoConfig": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"},
        **{"AutoModelForSemanticSegmentation": "somebody/else--modeling_evil.Evil"},
        **{"AutoImageProcessor": "modeling_evil.Evil"},
    }
    added = {
        **{"auto_map": evil, "trust_remote_code": True, "_name_or_path": "../../outside.safetensors"},
        **{"base_model_name_or_path": "somebody/else", "name_or_path": "somebody/else"},
        **{"attn_implementation": "somebody/kernels", "_attn_implementation": "somebody/kernels"},
        **{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        **{"custom_pipelines": {"x": {"impl": "modeling_evil.Evil"}}, "torchscript": True, "dtype": "float16"},
    }
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **added}))
    config = json.loads((directory / "preprocessor_config.json").read_text())
    added["feature_extractor_type"] = added["processor_class"] = "modeling_evil.Evil"
    (directory / "preprocessor_config.json").write_text(json.dumps({**config, **added}))
    (directory / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "somebody/else", "peft_type": "LORA", "auto_mapping": evil})
    )
    weights = dict.fromkeys(load_file(directory / "model.safetensors"), "../../outside.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (directory / "pytorch_model.bin").write_bytes(b"cos\nmkdir\n(S'x'\ntR.")
    (directory / "training.json").write_text(json.dumps({"base_model": "somebody/else", "auto_map": evil}))
    return directory


def test_a_hostile_checkpoint_is_watched_as_it_loads_and_predicts(hostile, small_dir, tmp_path):
    output = run_python(WATCHED, hostile, small_dir, HF_HOME=str(tmp_path / "hub"))
    seen, control, difference, shape, installed = json.loads(output.splitlines()[-1])
    # The hook would have noticed.
    assert ["open", str(hostile / "modeling_evil.py")] in control and [
        "exec",
        str(hostile / "modeling_evil.py"),
    ] in control
    assert {"socket.connect", "pickle.find_class"} <= {event for event, _ in control}
    (tmp_path / "ran").rmdir()  # what the control did: it was not there before
    assert difference < 1e-4 and shape == [20, 30]
    others = [(event, what) for event, what in seen if event not in ("open", "os.listdir", "os.scandir", "exec")]
    assert others == []  # no connection, no process, no pickle, no library
    inside = {what for event, what in seen if event in ("open", "exec") and Path(what).is_relative_to(hostile)}
    # Of the weights, a library opens the file, where Python does not see it.
    allowed = ("config.json", "preprocessor_config.json", "training.json", "model.safetensors")
    assert {"config.json", "preprocessor_config.json"} <= {Path(path).name for path in inside} <= set(allowed)
    assert not [what for event, what in seen if event == "exec" and Path(what).is_relative_to(hostile)]
    own = [
        *installed,
        os.path.realpath(tempfile.gettempdir()) + "/torchinductor",
        "/proc",
        "/sys",
        "/dev/null",
        "/etc/",
    ]
    elsewhere = [what for event, what in seen if event == "open" and not Path(what).is_relative_to(hostile)]
    assert [what for what in elsewhere if not what.startswith(tuple(own))] == []


def test_shards_outside_of_the_folder_are_refused(hostile):
    (hostile / "model.safetensors").unlink()
    (hostile / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"index\.json: names the shard '\.\./\.\./outside\.safetensors'"):
        SegformerCheckpoint.from_pretrained(hostile)


def test_the_links_of_a_hub_cache_work(small_dir, small, tmp_path):
    snapshot, blobs = tmp_path / "snapshots/0123", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(small_dir, blobs)
    for name in os.listdir(blobs):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    for load in (
        SegformerCheckpoint.from_pretrained,
        lambda path: SegformerCheckpoint.from_checkpoint(Checkpoint.from_directory(str(path))),
    ):
        assert_same_model(load(snapshot).get_model(), small)


def test_a_plain_checkpoint_travels_as_the_files_below_it(small_dir, small, tmp_path, monkeypatch):
    directory = tmp_path / "reported"
    shutil.copytree(small_dir, directory / "checkpoint")
    for name in ("..hidden", "... /..x", "back\\..\\..\\slash", "new\nline", "checkpoint/../top"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(name)
    os.mkfifo(directory / "pipe")
    (directory / "broken").symlink_to("nowhere")
    travelling = CheckpointFiles.read(Checkpoint.from_directory(str(directory)))
    assert not [path for path in travelling.files if ".." in path.split("/") or os.path.isabs(path)]
    (tmp_path / "node").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    restored = travelling.restore()
    (new,) = os.listdir(tmp_path / "node")
    assert new.startswith("checkpoint_")
    with restored.as_directory() as there:
        sent = sorted(path for path, content in travelling.files.items() if content is not None)
        assert sorted(os.path.relpath(path, there) for path in files(Path(there))) == sent
        assert Path(there, "back\\..\\..\\slash").read_text() == "back\\..\\..\\slash"
        checkpoint = SegformerCheckpoint.from_pretrained(there)
    assert_same_model(checkpoint.get_model(), small)


def configured(name: str, **changes):
    def change(directory: Path) -> None:
        config = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**config, **changes}))

    return change


def replaced(name: str, content: bytes):
    return lambda directory: (directory / name).write_bytes(content)


def pickled(directory: Path, **changes) -> None:
    torch.save({**load_file(directory / "model.safetensors"), **changes}, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def pipe(name: str):
    def change(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        os.mkfifo(directory / name)

    return change


HUGE = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**3], "data_offsets": [0, 4 * 10**12]}}).encode()
BOMBS = {
    "sizes": (configured("config.json", hidden_sizes=[10**9] * 4), "do not fit"),
    "sizes beyond numbers": (configured("config.json", hidden_sizes=[10**30] * 4), "do not fit"),
    "decoder size": (configured("config.json", decoder_hidden_size=10**12), "do not fit"),
    "depths": (
        configured("config.json", depths=[10**9] * 4),
        r"depths are \[1000000000, .*, but there are only \d+ tens",
    ),
    "depths in balance": (configured("config.json", depths=[10**12, -(10**12), 1, 1]), "depths are"),
    "mlp ratio": (configured("config.json", mlp_ratios=[1e308] * 4), "describes no SegFormer"),
    "labels": (configured("config.json", id2label=None, num_labels=10**12), "do not fit"),
    "labels by name": (
        configured("config.json", id2label={"sky": "sky"}),
        "id2label: expected class names by class id",
    ),
    "labels that are no text": (configured("config.json", id2label={0: "\ud800"}), "id2label: .*surrogates"),
    "size": (
        configured("preprocessor_config.json", size={"height": 10**6, "width": 10**6}),
        "size is 1000000 x 1000000",
    ),
    "nesting": (replaced("config.json", b"[" * 10**6), r"config\.json: not readable as JSON"),
    "header": (replaced("model.safetensors", struct.pack("<Q", 2**62) + b"{}"), "not readable"),
    "tensor": (replaced("model.safetensors", struct.pack("<Q", len(HUGE)) + HUGE), "not readable"),
    "repeated": (
        lambda directory: pickled(directory, x=torch.zeros(1).expand(10**6, 10**6)),
        r"pytorch_model\.bin: refused: its tensors would take 40000\d+ bytes, but it stores \d{6}\b",
    ),
    "sparse": (
        lambda directory: pickled(directory, x=torch.eye(3).to_sparse()),
        r"pytorch_model\.bin: (expected plain tensors|not readable)",
    ),
    "pipe for preprocessor": (pipe("preprocessor_config.json"), "it is not a regular file"),
    "pipe for training": (pipe("training.json"), "it is not a regular file"),
    "pipe for weights": (pipe("model.safetensors"), "no model.safetensors"),
    "device": (
        lambda directory: [(directory / "config.json").unlink(), (directory / "config.json").symlink_to("/dev/zero")],
        r"no config\.json",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_checkpoint_takes_no_more_than_its_files(small_dir, tmp_path, bomb):
    change, message = BOMBS[bomb]
    shutil.copytree(small_dir, tmp_path / "model")
    change(tmp_path / "model")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def load():
        with pytest.raises(CheckpointError, match=message) as caught:
            SegformerCheckpoint.from_pretrained(tmp_path / "model")
        assert str(tmp_path / "model") in str(caught.value)

    assert calls_of(load) < 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KB


# -- the page ---------------------------------------------------------------------------------------


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) >= 20
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
    own = set(re.findall(r"\ndef (test_\w+)\(", Path(__file__).read_text(encoding="utf-8")))
    assert own <= {name for _, name in named} | {"test_every_test_that_the_page_names_is_there"}
