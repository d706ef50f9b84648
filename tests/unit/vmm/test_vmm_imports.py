"""Modules that a zygote imports before it can make the first VMM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOST = Path(__file__).parents[3] / "host"
LIST = """
import json, sys
before = set(sys.modules)
sys.path[:0] = sys.argv[1:]
import {module}
from slipway.vmm.arch.host import find_architecture
find_architecture()
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# The number of 2026-11 and a few more.
BUDGET = 104
# Each of these takes 2 to 15 ms, with all that it imports.
DEAR = {"asyncio", "dataclasses", "inspect", "pathlib", "re", "socket", "subprocess", "typing"}


def list_modules(module: str) -> set[str]:
    command = [sys.executable, "-IS", "-c", LIST.format(module=module), str(HOST)]
    printed = subprocess.run(command, check=True, capture_output=True).stdout
    return set(json.loads(printed))


@pytest.mark.parametrize("module", ["boot_zygote", "clone_zygote"])
def test_zygote_imports_no_module_that_is_dear(module: str) -> None:
    modules = list_modules(f"slipway.vmm.process.{module}") - {"json"}

    assert not modules & DEAR


def test_zygote_keeps_to_its_budget_of_modules() -> None:
    assert len(list_modules("slipway.vmm.process.boot_zygote")) <= BUDGET
