"""Figures and table of the performance page are what their script makes of the record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from support.markdown import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = ROOT / "bench/figures.py"
FIGURES = ROOT / "docs/figures"
RECORD = FIGURES / "starts.json"
PAGE = ROOT / "docs/performance.md"
NAMES = ("starts.svg", "steps-python.svg", "steps-c.svg")
SVG = "{http://www.w3.org/2000/svg}"
# Bytes; pages load all figures.
LARGEST = 20 * 1024


def check(record: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--check", "--record", str(record)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_figures_and_table_are_drawn_from_the_record() -> None:
    checked = check(RECORD)

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("way", "stale"),
    [
        ("cold", {"docs/figures/starts.svg", "docs/figures/steps-python.svg"}),
        ("bare QEMU", {"docs/figures/starts.svg"}),
    ],
)
def test_another_record_is_noticed(tmp_path: Path, way: str, stale: set[str]) -> None:
    fields = json.loads(RECORD.read_text())
    for sample in fields["samples"]:
        if sample["way"] == way and sample["language"] in {"", "python"}:
            sample["wall"] *= 2
    record = tmp_path / "starts.json"
    record.write_text(json.dumps(fields))

    checked = check(record)

    assert checked.returncode == 1
    named = checked.stderr.partition(": ")[2].partition("; ")[0].split(", ")
    assert set(named) == {*stale, "docs/performance.md"}


def test_figures_of_the_directory_are_those_of_the_page() -> None:
    assert {path.name for path in FIGURES.glob("*.svg")} == set(NAMES)
    assert set(re.findall(r"\(figures/([\w-]+\.svg)\)", PAGE.read_text("utf-8"))) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_small_and_described_in_words(name: str) -> None:
    text = (FIGURES / name).read_text("utf-8")
    root = ElementTree.fromstring(text)

    assert len(text.encode()) < LARGEST
    for part in ("title", "desc"):
        element = root.find(f"{SVG}{part}")
        assert element is not None
        assert element.text
        assert element.get("id") in root.get("aria-labelledby", "").split()
    assert "prefers-color-scheme:dark" in text
