"""The pages are true of the code as far as a test can see: links, rooms, modules, the picture."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest

from support.markdown import ROOT, find_long_lines, find_pages, wrap

if TYPE_CHECKING:
    from pathlib import Path

FENCED = re.compile(r"^ *```.*?^ *```", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)
MODULE = re.compile(r"`((?:\w+/)*\w+\.py)`")


@cache
def text_of(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in HEADING.findall(text_of(page))]
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_links_lead_somewhere(subtests: pytest.Subtests) -> None:
    pages = find_pages()

    assert len(pages) > 20
    for page in pages:
        with subtests.test(str(page.relative_to(ROOT))):
            check_links(page)


def check_links(page: Path) -> None:
    for link in LINK.findall(text_of(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), link


def test_architecture_names_all_rooms() -> None:
    floors = runpy.run_path(str(ROOT / "tests/unit/test_imports.py"))["FLOORS"]
    text = text_of(ROOT / "docs/architecture.md")
    rows = re.findall(r"^\| (\d?) ?\| `(\w+)` \|", text, re.M)

    assert [room for _, room in rows] == [
        room for floor in reversed(floors) for room in ordered(floor, rows)
    ]
    assert [int(number) for number, _ in rows if number] == [*range(len(floors), 0, -1)]


def ordered(floor: tuple[str, ...], rows: list[tuple[str, str]]) -> list[str]:
    """Return the rooms of a floor in the order of the page."""
    listed = [room for _, room in rows]
    assert set(floor) <= set(listed)
    return sorted(floor, key=listed.index)


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_modules_that_a_page_names_exist(name: str) -> None:
    modules = MODULE.findall(text_of(ROOT / name))

    assert len(modules) > 3
    for module in modules:
        places = [base / module for base in (ROOT, ROOT / "host/slipway", *rooms())]
        assert any(place.is_file() for place in places), module


@cache
def rooms() -> list[Path]:
    return [path.parent for path in (ROOT / "host/slipway").glob("*/__init__.py")]


def test_the_picture_is_what_its_script_draws() -> None:
    script = ROOT / "docs/pictures/life_of_a_run.py"
    drawn = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)

    assert (ROOT / "docs/pictures/life-of-a-run.svg").read_text() == drawn.stdout


def test_long_lines_are_found_and_wrapped() -> None:
    text = "\n".join(
        [
            "- " + "word " * 30,
            "",
            "| " + "cell " * 30,
            "# " + "heading " * 20,
            "```",
            "code " * 30,
            "```",
            "x" * 120,
        ]
    )

    assert [number for number, _ in find_long_lines(text)] == [1]
    assert find_long_lines(wrap(text)) == []
    assert wrap(wrap(text)) == wrap(text)
    assert wrap(text).split() == text.split()
