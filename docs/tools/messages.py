"""The messages, codes and causes of the package, read from its sources. Nothing of it is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ray_segformer"
_CODE = re.compile(r"[a-z]+(-[a-z]+)+")
_EXCEPTION = re.compile(r"\w+(Error|Exception)")


@dataclass(frozen=True)
class Message:
    """What an error or a warning says. "…" stands for what differs; `code` is that of a warning or finding, else ""."""

    kind: str
    code: str
    text: str


@cache
def messages() -> list[Message]:
    """Return the messages of all errors and warnings that the package makes, except those that only pass on another."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for function in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
            found += _messages_in(function)
    return list(dict.fromkeys(each for each in found if each.code or len(re.findall(r"\w{2,}", each.text)) > 2))


def codes_of_warnings() -> set[str]:
    """Return the codes of the package's warnings."""
    return {message.code for message in messages() if message.kind == "SegformerWarning"}


def codes_of_findings() -> set[str]:
    """Return the codes that `jobs/_findings.py` names: its words with hyphens, and those of its calls."""
    constants = ast.walk(ast.parse((PACKAGE / "jobs/_findings.py").read_text("utf-8")))
    named = {node.value for node in constants if isinstance(node, ast.Constant) and _CODE.fullmatch(str(node.value))}
    return named | {message.code for message in messages() if message.kind.startswith("Finding")}


def error_classes() -> set[str]:
    """Return the names of the exceptions that the package defines."""
    return {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and _EXCEPTION.fullmatch(node.name)
    }


def _messages_in(function: ast.AST) -> Iterator[Message]:
    texts: dict[str, ast.AST] = {}  # of the variables, by their last value
    for node in sorted(
        _inside(function), key=lambda node: (getattr(node, "lineno", 0), getattr(node, "col_offset", 0))
    ):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            texts[node.targets[0].id] = node.value
        name = _called(node)
        if name in ("Guess", "Finding") and isinstance(node.args[0], ast.Constant):
            kind = "SegformerWarning" if name == "Guess" else "Finding of `check`"
            yield Message(kind, node.args[0].value, _text(node.args[1], texts))
        elif _EXCEPTION.fullmatch(name):
            yield Message(name, "", _text(node.args[0], texts))


def _inside(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of functions inside of it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from _inside(node)


def _called(node: ast.AST) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args else ""


def _text(node: ast.AST, texts: dict[str, ast.AST]) -> str:
    """Return a text of the sources, with "…" in place of what is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(_text(part, texts) for part in node.values))
    if isinstance(node, ast.FormattedValue) and isinstance(texts.get(getattr(node.value, "id", "")), ast.JoinedStr):
        return _text(texts[node.value.id], {})
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return re.sub("…+", "…", _text(node.left, texts) + _text(node.right, texts))
    if isinstance(node, ast.Name) and node.id in texts:
        return _text(texts[node.id], {})
    return "…"
