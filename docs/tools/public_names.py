"""The public names of the package: what `__all__` of the package and of its rooms lists. Read from the sources."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ray_segformer"

# The modules that scripts import from, with the title of each in the reference. All others may change.
STABLE = {
    "": "The plugin",
    "predict": "Predict as a job",
    "protocol": "How images are shown to the network",
    "datasets": "Datasets",
    "metrics": "Scores",
    "train": "Train and tune",
    "viz": "Pictures",
    "architectures": "The six architectures",
    "images": "Images",
    "network": "The network",
    "demo": "Synthetic scenes",
}


def modules() -> dict[str, list[str]]:
    """Return the public names of each module that has `__all__`, by the module's name below the package.

    Left out are modules (`commands.predict`, `air.installed`) and what is Ray's own (`air.Checkpoint`).
    """
    found = {}
    for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__init__.py")]:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        names = [name for name in _names_in(path) if _defines(*origin(module, name))]
        if names:
            found[module] = names
    return found


def reference() -> str:
    """Return the API reference as Markdown: each name once, where scripts import it from."""
    lines, seen = [], set()
    found = modules()
    others = sorted(set(found) - set(STABLE))
    for module in [*STABLE, *others]:
        if others and module == others[0]:
            lines += ["## Rooms that may change", ""]
        names = [name for name in found[module] if not _is_seen(module, name, seen)]
        if not names:
            continue
        title = f"## {STABLE[module]}" if module in STABLE else f"### `{module}`"
        lines += [title, "", f"`from {f'ray_segformer.{module}'.rstrip('.')} import ...`", ""]
        for name in names:  # from where it is defined: a room may have a file of the same name
            lines += [f"::: ray_segformer.{'.'.join(origin(module, name))}", ""]
    return "\n".join(lines)


@cache
def origin(module: str, name: str) -> tuple[str, str]:
    """Return the module that defines a name, and its name there, following imports inside of the package."""
    for node in ast.walk(_tree(_file_of(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray_segformer."):
            source = (node.module or "").removeprefix("ray_segformer.")
            for alias in node.names:
                if (alias.asname or alias.name) == name and source != module:
                    return origin(source, alias.name)
    return module, name


def _is_seen(module: str, name: str, seen: set[tuple[str, str]]) -> bool:
    """Return whether the object behind a name is in the reference already, and note that it is now."""
    here = origin(module, name)
    known = here in seen
    seen.add(here)
    return known


def _defines(module: str, name: str) -> bool:
    """Return whether a module of the package defines a name by itself, as a class, function or variable."""
    for node in _tree(_file_of(module)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(node, "name", "") == name or any(getattr(target, "id", "") == name for target in targets):
            return True
    return False


def _file_of(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _names_in(path: Path) -> list[str]:
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []
