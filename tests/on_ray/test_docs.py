"""Every example of README and docs/ runs, one page after the other, and shows what comes out.

A page is read in a folder of its own, with photos, ADE20K's folders, and a small model at the path that is its name on
the Hub. Blocks run in order. A block of text is what the block before it printed, but for times and last digits.

`<!-- skip: next "reason" -->` in a page stands before a block that cannot run here. Of such a block, the options of
commands are parsed, and the imports of Python are done. `<!-- invisible-code-block: shell` prepares something that
readers have.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import shutil
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
from reference import save_small, small_model
from sybil import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from benchmarks.__main__ import SECTIONS
from ray_segformer.cli import _parser, main
from ray_segformer.demo import write_scenes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "shell", "text", "json", "yaml"}
TIME = re.compile(r"[\d.]+ (s|images/s)\b|(?<=\d)s\b")
NUMBER = re.compile(r"\d+\.\d+")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What a reader has: photos, a dataset, and a model of the Hub (here a small one, of as many classes)."""
    folder = tmp_path_factory.mktemp("world")
    scenes = folder / "scenes"
    write_scenes(scenes, 3, height=48, width=64)
    (folder / "photos").mkdir()
    for scene, name in zip(sorted((scenes / "images").iterdir()), ("cat", "street", "trip/hills"), strict=True):
        (folder / "photos" / name).parent.mkdir(exist_ok=True)
        shutil.copy(scene, folder / "photos" / f"{name}.jpg")
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            shutil.copytree(scenes / kind, folder / "ADEChallengeData2016" / kind / split)
    save_small(folder / "nvidia/segformer-b0-finetuned-ade-512-512", small_model(num_labels=150))
    return folder


class Page:
    """Runs the blocks of a page, and remembers what the last one printed."""

    def __init__(self, path: Path):
        self.printed: str | None = None
        self.python = PythonEvaluator()
        self.document = Document.parse(
            str(path),
            CodeBlockParser("python", self.run_python),
            CodeBlockParser("shell", self.run_shell),
            CodeBlockParser("text", self.compare),
            SkipParser(),
        )

    def run(self) -> None:
        for example in self.document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                assert str(reason)
                self.printed = None
                parse(example.parsed, example.region.lexemes["arguments"])

    def run_python(self, example) -> None:
        self.printed = capture(self.python, example)

    def run_shell(self, example) -> None:
        self.printed = "".join(capture(run_command, command) for command in commands_in(example.parsed))

    def compare(self, example) -> None:
        assert self.printed is not None, f"{example.path}:{example.line}: what no block before it printed"
        shown, printed = (TIME.sub("TIME", text).strip() for text in (example.parsed, self.printed))
        assert NUMBER.sub("N", shown) == NUMBER.sub("N", printed)
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (shown, printed)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.02)


def capture(function, argument) -> str:
    """What a function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        function(argument)
    return output.getvalue()


def commands_in(source: str) -> list[list[str]]:
    """The words of each command of a block of lines for a shell."""
    lines = source.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def run_command(words: list[str]) -> None:
    if words[0] != "ray-segformer":
        return parse_command(words)
    try:
        code = main(words[1:])
    except SystemExit as end:  # of --help
        code = end.code
    # `check` ends with 1 if it finds something
    assert code in ((0, 1) if words[1] == "check" else (0,)), shlex.join(words)


def parse_command(words: list[str]) -> None:
    """Check a command that is not run: its program, and its options as far as they are ours."""
    if "ray-segformer" in words:  # also one that `ray job submit` hands on
        _parser().parse_args(words[words.index("ray-segformer") + 1 :])
    elif words[0] == "make":
        assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), re.M), words
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"\[(.*)\]", words[2])
        declared = (ROOT / "pyproject.toml").read_text()
        assert all(re.search(rf"^{extra} = \[", declared, re.M) for extra in extras), words
    elif words[:3] == ["python", "-m", "benchmarks"]:
        options = [word for word in words[3:] if word.startswith("--")]
        sections = words[4:] if options[:1] == ["--only"] else []
        assert set(sections[: next((i for i, s in enumerate(sections) if s.startswith("--")), None)]) <= set(SECTIONS)
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), words
    else:
        assert words[0] == "python" and (ROOT / words[1]).is_file(), words


def parse(source: str, language: str) -> None:
    """Check a block that is not run."""
    if language == "shell":
        for words in commands_in(source):
            parse_command(words)
    elif language == "python":
        imports = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        removed = re.compile(r"ray\.(air|train\.batch_predictor)")  # from Ray, after 2.6
        ours = [node for node in imports if not removed.match(getattr(node, "module", "") or "")]
        exec(compile(ast.Module(ours, []), "<page>", "exec"), {})


# `test_recipes` runs the recipes, and compares what they make.
@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "recipes.md"], ids=lambda path: path.name)
def test_every_block_runs_and_shows_what_comes_out(path, ray_session, one_thread, world, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["page"])
    Page(path).run()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_blocks_and_commands_are_marked_as_what_they_are(path):
    text = path.read_text("utf-8")
    assert set(re.findall(r"^```(.*\S)$", text, re.M)) <= LANGUAGES  # others would not be run
    for command in re.findall(r"^    (ray-segformer .*)$", text, re.M):  # in an indented block
        parse_command(shlex.split(command, comments=True))
    for sections in re.findall(r"`(?:python -m benchmarks )?--only ([\w ]+)`", text.replace("\n", " ")):
        assert set(sections.split()) <= set(SECTIONS)
