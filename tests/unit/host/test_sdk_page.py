"""docs/sdk.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slipway._model import bounds as _request_bounds
from slipway._model import options as _request
from slipway._model.options import Options
from slipway._model.result import OutputFile, PhaseResult, Result, Usage, Verdict
from slipway._util.units import MIB

# How the page writes a bound that is no plain number.
WRITTEN = {
    "MAX_SOURCE": (MIB, "MiB"),
    "MAX_FILE_BYTES": (MIB, "MiB"),
    "MAX_MEMORY": (1024 * MIB, "GiB"),
    "MIN_MEMORY_LIMIT": (MIB, "MiB"),
    "MAX_ARGUMENT_BYTES": (1024, "KiB"),
    "MAX_ENVIRONMENT_BYTES": (1024, "KiB"),
    "MAX_OUTPUT_PATH_BYTES": (1024, "KiB"),
    "MAX_SECONDS": (1, "s"),
}


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[3] / "docs" / "sdk.md").read_text("utf-8")


def section(page: str, title: str) -> str:
    """The part of the page with this title."""
    found = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found
    return found


@pytest.mark.parametrize("field", Options.__dataclass_fields__)
def test_names_every_option(page: str, field: str) -> None:
    assert f"`{field}`" in page


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in dir(Result) if not name.startswith("_") and name != "with_output"),
        *(name for kind in (PhaseResult, Usage, OutputFile) for name in kind.__dataclass_fields__),
        *Verdict,
    ],
)
def test_tells_what_a_result_has(page: str, name: str) -> None:
    assert re.search(rf"`{name}(\(\))?`", section(page, "The result"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for module in (_request, _request_bounds)
        for name, value in vars(module).items()
        if name.startswith(("MAX_", "MIN_")) and name != "MAX_CHARACTERS"  # of a terminal
    ],
)
def test_tells_every_bound(page: str, name: str, value: float) -> None:
    unit, word = WRITTEN.get(name, (1, ""))
    assert value % unit == 0
    assert f"{int(value // unit)} {word}".rstrip() in section(page, "Bounds")
