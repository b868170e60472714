"""The rooms of the package: who may import whom. Read from the sources; nothing is imported.

A room is a folder of the package, or a module at its root. Rooms are listed from top to bottom: a room imports from
those below it only, through what their `__init__` exports.
"""

from __future__ import annotations

import ast
import functools
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "ray_segformer"

ROOMS = (
    *("__main__", "cli", "commands", "predict", "datasets", "train"),  # the command, and the import paths of scripts
    *("demo", "comparison", "training", "jobs", "reports", "exports", "outputs", "viz"),
    *("architectures", "metrics", "_labels"),
    *("predictor", "_sources", "_segmenter", "checkpoint", "preprocessor", "_batch_columns", "protocol"),  # the plugin
    *("inputs", "pretrained", "images", "air", "_class_names", "_guesses", "_stage_times", "network"),
)
MOST_LINES, MOST_LINES_OF_A_CLASS = 300, 200


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """Its name below the package: "images.cells", "images" for its `__init__`, "" for the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@functools.cache
def lazy_names() -> dict[str, str]:
    """The modules of the names that `ray_segformer` itself exports."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    (table,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_MODULES"]
    return ast.literal_eval(table)


@functools.cache
def imports_of(path: Path) -> list[tuple[str, int]]:
    """What a file imports of the package, inside of functions and for types alone too: modules, and the lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(name.name, node.lineno) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            found += [(_module_of_name(module, name.name), node.lineno) for name in node.names]
    prefix = "ray_segformer."
    return [(module.removeprefix(prefix), line) for module, line in found if module.startswith(prefix)]


def _module_of_name(module: str, name: str) -> str:
    """The module that `from module import name` imports: `module`, or its file of that name."""
    if module == "ray_segformer":
        return f"{module}.{lazy_names().get(name, name)}"
    file = PACKAGE.parent.joinpath(*module.split("."), f"{name}.py")
    return f"{module}.{name}" if file.is_file() else module


@functools.cache
def exported(room: str) -> list[str]:
    """The names in a room's `__all__`; all of a room without."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    return ast.literal_eval(lists[0]) if lists else []


def test_every_room_is_listed_once():
    rooms = {module_of(path).split(".")[0] for path in sources()} - {""}
    assert sorted(ROOMS) == sorted(rooms)


def test_no_room_imports_from_one_above_it():
    wrong = []
    for path in sources():
        room = module_of(path).split(".")[0]
        for module, line in imports_of(path):
            other = module.split(".")[0]
            if room and other in ROOMS and ROOMS.index(other) < ROOMS.index(room):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: {room} imports from {other}, which is above it")
    assert wrong == []


def test_rooms_import_what_others_export():
    wrong = []
    for path in sources():
        room = module_of(path).split(".")[0]
        for module, line in imports_of(path):
            other, _, file = module.partition(".")
            if file and other != room and file not in exported(other):
                wrong.append(f"{path.relative_to(PACKAGE)}:{line}: import from the room, not from {module}")
    assert wrong == []


def test_files_of_a_room_are_private_by_name():
    """But for those that the room exports, and the program that trains the packaged checkpoint."""
    public = [module_of(path) for path in sources() if path.parent != PACKAGE and not path.stem.startswith("_")]
    rooms = [module.partition(".")[::2] for module in public]
    assert [f"{room}.{file}" for room, file in rooms if file not in exported(room)] == ["demo.train"]


def test_no_modules_import_each_other():
    """Neither directly nor in a circle, imports for types alone included."""
    modules = {module_of(path) for path in sources()}
    arrows = {module_of(path): {module for module, _ in imports_of(path)} & modules for path in sources()}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + ", ".join(error.args[1]))


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_files_and_classes_are_short_enough_to_read(path):
    text = path.read_text("utf-8")
    lines = text.count("\n")
    assert lines <= MOST_LINES
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in classes}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES_OF_A_CLASS} == {}
