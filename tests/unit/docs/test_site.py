"""The pages and the API reference can be built, without a warning and without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import slipway

ROOT = Path(__file__).parents[3]
# Values and aliases without a docstring of their own.
NOT_LISTED = {"Event", "__version__"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the site, built as by ``make docs``."""
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", directory],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")
    return directory


def test_the_reference_has_every_public_name(site: Path) -> None:
    listed = set(re.findall(r'id="slipway\.(\w+)"', (site / "reference.html").read_text()))

    assert listed == set(slipway.__all__) - NOT_LISTED


def test_the_reference_begins_with_runs_and_ends_with_errors(site: Path) -> None:
    names = re.findall(r'id="slipway\.(\w+)"', (site / "reference.html").read_text())

    assert names[:4] == ["run", "run_async", "Runtime", "Client"]
    errors = [issubclass(getattr(slipway, name), Exception) for name in names[2:]]
    assert errors == sorted(errors)


def test_handles_show_no_constructor(site: Path) -> None:
    text = (site / "reference.html").read_text()
    text = re.sub(r"<[^>]+>", "", text)

    assert not re.search(r"\bthread\b\s*:|\bowner\b\s*:", text)
    assert "max_machines:" in text


def test_docstrings_are_markdown(site: Path) -> None:
    text = (site / "reference.html").read_text()

    assert not re.search(r":(class|func|meth|mod):|::\s*</p>", text)


@pytest.mark.parametrize("page", ["index", "contributing", "security", "changelog"])
def test_the_pages_of_the_root_belong_to_the_site(site: Path, page: str) -> None:
    assert "<h1" in (site / f"{page}.html").read_text()


def test_nothing_is_fetched_by_a_reader(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r'<(?:script|link|img)\b[^>]*?(?:src|href)="(https?://[^"]+)"', text)
        assert fetched == [], page
