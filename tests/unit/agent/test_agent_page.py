"""docs/agent.md names each module of the agent."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_page_lists_each_module_and_no_other() -> None:
    page = (ROOT / "docs" / "agent.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| module | content |\n")
    cells = [line.split("|")[1] for line in table.split("\n\n")[0].splitlines()[1:]]
    listed = {name for cell in cells for name in re.findall(r"`(\w+\.py)`", cell)}

    modules = {path.name for path in (ROOT / "agent" / "slipway_agent").glob("[!_]*.py")}
    assert listed == modules
