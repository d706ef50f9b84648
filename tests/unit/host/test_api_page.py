"""docs/api.md names all routes, fields and types of problems."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "api.md").read_text("utf-8")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text("utf-8"))
    return found


def test_names_every_route(page: str, document: dict[str, Any], subtests: pytest.Subtests) -> None:
    assert document["paths"]
    for path, methods in document["paths"].items():
        for method in methods:
            with subtests.test(f"{method} {path}"):
                assert f"`{method.upper()} {path}" in page


def test_names_every_field_of_a_job(
    page: str, document: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for field in document["components"]["schemas"]["StartBody"]["properties"]:
        with subtests.test(field):
            assert f"`{field}`" in page


def test_names_every_type_of_problem(page: str) -> None:
    sources = (DOCS.parent / "host" / "slipway" / "_server").rglob("*.py")
    text = "\n".join(source.read_text("utf-8") for source in sources)
    kinds = set(re.findall(r"Problem\(\s*(?:4|5)\d\d,\s*\"([a-z-]+)\"", text))

    assert kinds
    assert {kind for kind in kinds if f"`{kind}`" not in page} == set()
