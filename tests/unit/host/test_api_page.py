"""docs/api.md names what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "api.md").read_text("utf-8")
DOCUMENT: dict[str, Any] = json.loads((DOCS / "openapi.json").read_text("utf-8"))


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_names_every_route(path: str) -> None:
    for method in DOCUMENT["paths"][path]:
        assert f"`{method.upper()} {path}" in PAGE


@pytest.mark.parametrize("field", DOCUMENT["components"]["schemas"]["StartBody"]["properties"])
def test_names_every_field_of_a_job(field: str) -> None:
    assert f"`{field}`" in PAGE


def test_names_every_type_of_problem() -> None:
    sources = (DOCS.parent / "host" / "slipway" / "_server").rglob("*.py")
    text = "\n".join(source.read_text("utf-8") for source in sources)
    kinds = set(re.findall(r"Problem\(\s*(?:4|5)\d\d,\s*\"([a-z-]+)\"", text))

    assert kinds
    assert {kind for kind in kinds if f"`{kind}`" not in PAGE} == set()
