"""What the pages promise about themselves: nothing of the package is missing, and README is short."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from griffe import load

from docs.tools import figures, messages, public_names
from ray_segformer.images import CAUSES
from ray_segformer.train import Settings

ROOT = Path(__file__).resolve().parents[2]
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
NAMES = [(module, name) for module, names in public_names.modules().items() for name in names]


def first_column(heading):
    """The names in the first column of the table under a heading of the page on troubleshooting."""
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", TROUBLESHOOTING, re.M | re.S)[1]
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", section, re.M)
    assert all(all(cell.strip() for cell in cells.split(" | ")[-2:]) for _, cells in rows)  # a cause and a cure
    return [name for name, _ in rows]


def test_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 800


def test_the_links_of_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_page_is_on_the_site():
    nav = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1])
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(nav)
    assert len(nav) == len(set(nav))


def test_every_cause_of_an_unreadable_image_has_a_cure():
    assert sorted(first_column("Causes of unreadable images")) == sorted([*CAUSES, "other"])


def test_every_warning_has_a_cause_and_a_cure():
    assert sorted(first_column("Warnings")) == sorted(messages.codes_of_warnings())


def test_every_finding_of_check_has_a_cause_and_a_cure():
    warnings = messages.codes_of_warnings()
    assert sorted(first_column("Findings of `check`")) == sorted(messages.codes_of_findings() - warnings)
    table = (ROOT / "docs/check.md").read_text("utf-8").split("## JSON")[0]
    of_jobs = {"unlabeled-classes", "packaged-model", "labels-reduced", "range-does-not-fit"}
    never = {"hidden-files", "array-differs-from-file", "forward-hooks", *of_jobs}
    assert {code for code in messages.codes_of_findings() | warnings if f"`{code}`" not in table} == never


def test_every_test_to_copy_is_there():
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("copy this test")[1].split("\n\n")[0]
    names = re.findall(r"`(test_\w+)` \|$", table, re.M)
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) >= 8 and [name for name in names if f"def {name}(" not in tests] == []


def test_every_error_has_a_cause_and_a_cure():
    assert sorted(first_column("Errors")) == sorted(messages.error_classes())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("OutputError", "… exists; name a new folder, or replace it with --overwrite"),
        ("ImageError", "null: there is no image"),
        ("ImageError", "too large: … rows, each resized from … to … pixels"),  # of a variable
        ("SegformerWarning", "…: … left out (…)"),
    ],
)
def test_messages_are_read_from_the_sources(kind, text):
    assert (kind, text) in {(message.kind, message.text) for message in messages.messages()}


def test_every_public_name_has_a_docstring():
    package = load("ray_segformer", search_paths=[ROOT], allow_inspection=False)
    paths = [".".join(public_names.origin(*names)) for names in NAMES]
    assert [path for path in paths if not package[path].has_docstring] == []


def test_every_public_name_is_in_the_reference_once():
    shown = re.findall(r"^::: ray_segformer\.(?:([\w.]+)\.)?(\w+)$", public_names.reference(), re.M)
    origins = [public_names.origin(*names) for names in shown]
    assert len(origins) == len(set(origins))
    assert set(origins) == {public_names.origin(*names) for names in NAMES}


def test_llms_txt_names_every_page():
    linked = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/llms.txt").read_text("utf-8"))
    assert sorted(linked) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_pages_that_lie_elsewhere_are_on_the_site():
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), yaml.BaseLoader)
    (project,) = [pages["The project"] for pages in config["nav"] if "The project" in pages]
    names = [name for page in project for name in page.values()]
    assert {"contributing.md", "security.md", "benchmarks.md"} <= set(names)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_figures_show_what_there_is(name):
    drawn = figures.FIGURES[name]()
    assert (figures.FOLDER / name).read_text("utf-8") == drawn, "draw it again: python -m docs.tools.figures"


def test_the_table_of_settings_has_all_of_them_and_their_defaults():
    text = (ROOT / "docs/train.md").read_text("utf-8").split("## Settings")[1].split("\n## ")[0]
    shown = dict(re.findall(r"^\| `(\w+)` \| ?(.*?) ?\| .*\|$", text, re.M))
    defaults = {field.name: field.default for field in fields(Settings)}
    assert list(shown) == list(defaults)
    for name, default in defaults.items():
        assert default is None or ast.literal_eval(shown[name].strip("`")) == default, name
        assert default is not None or "`" not in shown[name], name
