"""The pages and the API reference can be built, without a warning and without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import slipway

ROOT = Path(__file__).parents[3]
# Values and aliases without a docstring of their own.
NOT_LISTED = {"Event", "__version__"}


def build_site(source: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of ``source`` as ``make docs`` does.

    Not with --quiet: then --strict does not count the warnings.
    """
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the site."""
    directory = tmp_path_factory.mktemp("site")
    built = build_site(ROOT, directory)
    notes = [line for line in built.stderr.splitlines() if not line.startswith("INFO ")]
    assert (built.returncode, built.stdout, notes) == (0, "", [])
    return directory


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a directory with a copy of the pages."""
    copy = tmp_path / "source"
    shutil.copytree(ROOT / "docs", copy / "docs")
    for page in (*ROOT.glob("*.md"), ROOT / "mkdocs.yml"):
        shutil.copy(page, copy)
    for code in ("host", "protocol"):
        (copy / code).symlink_to(ROOT / code)
    return copy


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


@pytest.mark.parametrize("target", ["../tests/conftest.py", "../tests/", "missing.md"])
def test_link_to_a_file_that_is_no_page_fails_the_build(
    source: Path, tmp_path: Path, target: str
) -> None:
    with (source / "docs" / "design.md").open("a") as page:
        page.write(f"\nSee [this]({target}).\n")

    built = build_site(source, tmp_path / "site")

    assert built.returncode != 0
    assert f"link '{target}'" in built.stderr


def test_links_lead_to_files_of_the_site(site: Path) -> None:
    pages = {page: page.read_text() for page in site.rglob("*.html") if page.name != "404.html"}
    dead = [
        f"{page.name}: {link}"
        for page, text in pages.items()
        for link in re.findall(r'(?:href|src)="(?![a-z]+:|/|#)([^"#?]+)', text)
        if not (page.parent / link).is_file()
    ]

    assert dead == []


def test_nothing_is_fetched_by_a_reader(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        fetched = re.findall(r'<(?:script|link|img)\b[^>]*?(?:src|href)="(https?://[^"]+)"', text)
        assert fetched == [], page
