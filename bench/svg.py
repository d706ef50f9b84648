"""Small writer of SVG 1.1 charts: text, bars and lines, readable on light and dark pages.

A chart has a title and a description for readers that cannot see it (WAI-ARIA, role ``img``), and
colours for both schemes by a media query. Numbers are rounded, so that equal data give equal bytes.
"""

from __future__ import annotations

from html import escape

FONT = "font: 13px -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
# Of light and dark pages: the paper, text, minor text and lines of the grid.
_PAPER = ("#ffffff", "#0f172a")
_INK = ("#1f2937", "#e5e7eb")
_FAINT_INK = ("#4b5563", "#9ca3af")
_GRID = ("#d1d5db", "#374151")


class Chart:
    """Elements of one SVG picture, added from back to front."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self._size = (width, height)
        self._title = title
        self._description = description
        self._elements: list[str] = []

    def add_text(
        self, x: float, y: float, text: str, *, kind: str = "", anchor: str = "start"
    ) -> None:
        """Add a line of text; ``kind`` is a class of the style, ``anchor`` as in SVG."""
        attributes = (f' class="{kind}"' if kind else "") + (
            f' text-anchor="{anchor}"' if anchor != "start" else ""
        )
        self._elements.append(f'<text x="{x:g}" y="{y:g}"{attributes}>{escape(text)}</text>')

    def add_bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Add a bar of at least half a pixel, so that a short time is still seen."""
        size = f'width="{max(0.5, round(width, 1)):g}" height="{height:g}"'
        self._elements.append(f'<rect class="{kind}" x="{round(x, 1):g}" y="{y:g}" {size}/>')

    def add_line(self, x: float, top: float, bottom: float, kind: str = "grid") -> None:
        """Add a vertical line."""
        self._elements.append(f'<path class="{kind}" d="M{round(x, 1):g} {top:g}V{bottom:g}"/>')

    def draw(self, colours: dict[str, tuple[str, str]]) -> str:
        """Return the picture; ``colours`` are those of kinds of bars, on light and dark pages."""
        width, height = self._size
        light, dark = (_build_rules(colours, scheme) for scheme in (0, 1))
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            ' aria-labelledby="title description">',
            f'<title id="title">{escape(self._title)}</title>',
            f'<desc id="description">{escape(self._description)}</desc>',
            f"<style>text{{{FONT}}}.title{{font-weight:600}}.small{{font-size:11px}}",
            f".grid,.floor{{fill:none}}.floor{{stroke-width:2;stroke-dasharray:5 4}}{light}",
            f"@media(prefers-color-scheme:dark){{{dark}}}</style>",
            f'<rect class="paper" width="{width}" height="{height}" rx="10"/>',
            *self._elements,
            "</svg>",
        ]
        return "\n".join(parts) + "\n"


def _build_rules(colours: dict[str, tuple[str, str]], scheme: int) -> str:
    """Return the rules of style for a scheme of colours: 0 for light pages, 1 for dark ones."""
    rules = [
        f".paper{{fill:{_PAPER[scheme]}}}text{{fill:{_INK[scheme]}}}",
        f".small{{fill:{_FAINT_INK[scheme]}}}",
        f".grid{{stroke:{_GRID[scheme]}}}.floor{{stroke:{_FAINT_INK[scheme]}}}",
        *(f".{kind}{{fill:{pair[scheme]}}}" for kind, pair in colours.items()),
    ]
    return "".join(rules)
