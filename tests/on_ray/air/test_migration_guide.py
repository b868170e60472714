"""`docs/migration.md` on the installed Ray: which old lines still run, and the script before and after."""

import importlib.util
import re
from pathlib import Path

import pytest
import ray
from packaging.version import Version

import ray_segformer
from ray_segformer.air import installed
from ray_segformer.demo import write_scenes

TEXT = (Path(__file__).resolve().parents[3] / "docs/migration.md").read_text("utf-8")
ROWS = re.findall(r"^\| `([^|]*)` \| (yes|no) \| (yes|no) \| (yes|no) \| (.*) \|$", TEXT, re.M)
COLUMN = 0 if installed.HAS_AIR else 1 if Version(ray.__version__) < Version("2.56") else 2
BEFORE, AFTER = re.findall(r"```python\n(import ray\n.*?)```", TEXT, re.S)
HUB_NAME = '"nvidia/segformer-b0-finetuned-ade-512-512"'


def runs(code):
    try:
        exec(code, {})
    except Exception:  # Ray's reasons are ImportError, AttributeError, DeprecationWarning and others
        return False
    return True


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_guide_says_whether_a_line_still_runs(row):
    line, *works, _ = row
    assert runs(line) == (works[COLUMN] == "yes")


@pytest.mark.parametrize(
    "replacement", sorted({line for *_, text in ROWS for line in re.findall(r"`(from .*?)`", text)})
)
def test_what_the_guide_writes_instead_runs(replacement):
    older_only = "from ray.train import" in replacement and "DataConfig" not in replacement
    assert runs(replacement) != (installed.HAS_AIR and older_only)


@pytest.mark.skipif(COLUMN < 2, reason="of today's Ray")
@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(ray\.(?:train|tune)\.[\w.]*\w)", TEXT))))
def test_names_of_train_and_tune_are_there(name):
    module, _, attribute = name.rpartition(".")
    while importlib.util.find_spec(module) is None:  # such as a class
        module, _, first = module.rpartition(".")
        attribute = f"{first}.{attribute}"
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    assert callable(found)


@pytest.mark.parametrize("code", [BEFORE, AFTER], ids=["before", "after"])
def test_the_scripts_of_the_guide_give_the_mask_of_a_photo(code, tmp_path, capsys):
    if code is BEFORE and not installed.HAS_AIR:
        pytest.skip("the script for Ray 2.6")
    write_scenes(tmp_path, 1, height=48, width=64)
    model = Path(ray_segformer.__file__).parent / "demo/checkpoint"
    assert code.count(HUB_NAME) == 1 and code.count('"photos/"') == 1
    exec(code.replace(HUB_NAME, repr(str(model))).replace('"photos/"', repr(str(tmp_path / "images"))), {})
    assert capsys.readouterr().out.strip() == "(48, 64)"
