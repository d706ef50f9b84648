"""The pages are true of the code as far as a test can see: links, rooms, modules, the picture."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

from support.imports import find_floors
from support.markdown import ROOT, find_long_lines, find_pages, wrap

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

FENCED = re.compile(r"^ *```.*?^ *```", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.M)
MODULE = re.compile(r"`((?:\w+/)+\w+\.py)`")
TEST = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.M)
NAMED_TEST = re.compile(r"`(test_\w+)`")
# Files of a program in an example, and of an architecture to come.
NOT_OURS = {"util/__init__.py", "vmm/kvm/aarch64.py"}


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


def test_tests_that_the_threat_model_names_exist() -> None:
    paths = (ROOT / "tests").rglob("test_*.py")
    defined = {name for path in paths for name in TEST.findall(path.read_text())}

    named = set(NAMED_TEST.findall(text_of(ROOT / "docs/threat-model.md")))

    assert len(named) > 40
    assert named <= defined, named - defined


def test_architecture_names_all_rooms() -> None:
    floors = find_floors()
    text = text_of(ROOT / "docs/architecture.md")
    rows = re.findall(r"^\| (\d?) ?\| `(\w+)` \|", text, re.M)

    assert [room for _, room in rows] == [
        room for floor in reversed(floors) for room in order_rooms(floor, rows)
    ]
    assert [int(number) for number, _ in rows if number] == [*range(len(floors), 0, -1)]


def order_rooms(floor: tuple[str, ...], rows: list[tuple[str, str]]) -> list[str]:
    """Return the rooms of a floor in the order of the page."""
    listed = [room for _, room in rows]
    assert set(floor) <= set(listed)
    return sorted(floor, key=listed.index)


def test_modules_that_pages_name_exist(subtests: pytest.Subtests) -> None:
    for page in find_pages():
        # A decision describes the code of its day.
        if "decisions" in page.parts:
            continue
        with subtests.test(str(page.relative_to(ROOT))):
            named = set(MODULE.findall(text_of(page))) - NOT_OURS
            assert {module for module in named if not exists(module)} == set()


@cache
def exists(module: str) -> bool:
    """Tell if a module exists, with a path from one of the directories that pages start from."""
    packages = "host agent initramfs host/slipway agent/slipway_agent initramfs/slipway_initramfs"
    bases = [ROOT, ROOT / "tests", *(ROOT / package for package in packages.split())]
    bases += [init.parent for init in (ROOT / "host/slipway").glob("*/__init__.py")]
    return any((base / module).is_file() for base in bases)


def test_the_picture_is_what_its_script_draws() -> None:
    script = ROOT / "docs/pictures/life_of_a_run.py"
    drawn = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)

    assert (ROOT / "docs/pictures/life-of-a-run.svg").read_text() == drawn.stdout


def test_lines_are_wrapped(subtests: pytest.Subtests) -> None:
    for page in find_pages():
        with subtests.test(str(page.relative_to(ROOT))):
            long = find_long_lines(page.read_text())
            assert long == [], f"python tests/support/markdown.py {page.relative_to(ROOT)}"


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
            "",
            "    " + "indented code " * 10,
        ]
    )

    assert [number for number, _ in find_long_lines(text)] == [1]
    assert find_long_lines(wrap(text)) == []
    assert wrap(wrap(text)) == wrap(text)
    assert wrap(text).split() == text.split()
