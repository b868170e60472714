"""What mkdocs is told beside `mkdocs.yml`: files from outside of `docs/`, and what is generated from the sources.

Links of the pages are those of the repository, so that they work where the files are read. Here they become the site's.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs imports this file by its path

from docs.tools.messages import messages  # noqa: E402
from docs.tools.public_names import reference  # noqa: E402

# Pages that lie elsewhere in the repository, by their names on the site.
PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks.md": "benchmarks/README.md",
}
# Files that pages link to, which a browser shows or downloads.
FILES = ("LICENSE", "examples/*.py", "examples/*.ipynb", "examples/cluster/*")
# Folders that pages link to: what stands for them.
FOLDERS = {"examples": "architectures.md", "ray_segformer/architectures": "reference.md#the-six-architectures"}


def on_files(files: Files, config: Any) -> Files:
    """Add the files from outside of `docs/`."""
    for name, path in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for pattern in FILES:
        for path in ROOT.glob(pattern):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    text = (ROOT / "docs/llms.txt").read_text("utf-8").replace(".md)", ".html)")
    files.remove(files.src_uris["llms.txt"])
    files.append(File.generated(config, "llms.txt", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Mend the links of a page, and fill in what is generated."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    markdown = re.sub(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)", lambda link: _on_site(link[1], source), markdown)
    for mark, generate in GENERATED.items():
        if mark in markdown:
            markdown = markdown.replace(mark, generate())
    return markdown


def _on_site(link: str, source: str) -> str:
    """Return a link of a page of the repository as a link of the site."""
    path = (ROOT / source).parent.joinpath(link).resolve().relative_to(ROOT).as_posix()
    names = {path: name for name, path in PAGES.items()}
    return FOLDERS.get(path) or names.get(path) or path.removeprefix("docs/")


def _table_of_messages() -> str:
    """Return the messages of the package by their class, as tables."""
    lines = []
    by_kind: dict[str, list[str]] = {}
    for message in messages():
        code = f"`{message.code}`: " if message.code else ""
        by_kind.setdefault(message.kind, []).append(code + message.text)
    for kind in sorted(by_kind):
        rows = sorted({text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") for text in by_kind[kind]})
        lines += ["", f"### {kind}", "", "| message |", "|---|", *(f"| {row} |" for row in rows)]
    return "\n".join(lines)


GENERATED = {"<!-- messages -->": _table_of_messages, "<!-- reference -->": reference}
