"""A few shapes as SVG, in colours that follow the reader's light or dark."""

from __future__ import annotations

from html import escape

_STYLE = """
  svg { --ground: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #818b98; --box: #f6f8fa; --actor: #ddf4ff; }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #161b22; --ink: #f0f6fc; --soft: #a9b4c0; --line: #7d8590; --box: #21262d; --actor: #0c3a63; }
  }
  text { fill: var(--ink); font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; }
  .title { font-size: 15px; font-weight: 600; }
  .code { font-family: ui-monospace, "SFMono-Regular", "DejaVu Sans Mono", monospace; font-size: 13px; }
  .note { fill: var(--soft); }
  .small { fill: var(--soft); font-size: 11px; }
  .ground { fill: var(--ground); }
  .box { fill: var(--box); stroke: var(--line); }
  .actor { fill: var(--actor); stroke: var(--line); }
  .arrow { stroke: var(--line); stroke-width: 1.5; fill: none; marker-end: url(#head); }
  .head { fill: var(--line); }
"""


class Drawing:
    """A picture of boxes, texts and arrows. Lengths are in pixels, from the top left."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._shapes: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, kind: str) -> None:
        """Add a box; its kind is "box" or "actor"."""
        self._shapes.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')

    def text(self, x: int, y: int, words: str, kind: str) -> None:
        """Add a line of text; its kind is "title", "code", "note" or "small"."""
        self._shapes.append(f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>')

    def arrow(self, x1: int, y1: int, x2: int, y2: int) -> None:
        """Add an arrow from one point to another."""
        self._shapes.append(f'<path class="arrow" d="M{x1} {y1}L{x2} {y2}"/>')

    def svg(self) -> str:
        """Return the picture as a file."""
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="head" d="M0 0L8 4L0 8z"/></marker>'
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {self._height}" role="img">',
                f"<title>{escape(self._title)}</title>",
                f"<style>{_STYLE}</style>",
                f"<defs>{head}</defs>",
                f'<rect class="ground" width="{self._width}" height="{self._height}" rx="8"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )
