"""Commands import few modules: their start is what a person waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.import_budgets import COMMANDS, LOCAL, find_modules, read_budgets, shorten_names

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Server

pytestmark = pytest.mark.bare
# Much that a server, an SDK or an image build needs, and whose import takes longer than a run.
HEAVY = {"fastapi", "httpx", "mcp", "pydantic", "rich", "uvicorn"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != LOCAL])
def test_command_keeps_to_its_budget_of_modules(name: str, server: Server, tmp_path: Path) -> None:
    modules = find_modules(name, tmp_path, server.path)

    check_budget(name, modules)


@pytest.mark.usefixtures("bash", "installed_qemu")
def test_run_keeps_to_its_budget_until_qemu_starts(tmp_path: Path) -> None:
    modules = find_modules(LOCAL, tmp_path)

    check_budget(LOCAL, modules)


def test_client_of_a_server_imports_neither_event_loop_nor_server(
    server: Server, tmp_path: Path
) -> None:
    modules = find_modules("vmm-run on a server", tmp_path, server.path)

    rooms = {name for name in modules if name.startswith(("slipway._server", "slipway._local"))}
    assert rooms == set()
    assert {"asyncio", "ssl", "slipway._run", "slipway.machine", *HEAVY} & set(modules) == set()


def test_budgets_are_those_of_the_commands() -> None:
    budgets = read_budgets()

    assert list(budgets) == list(COMMANDS)
    assert all(not HEAVY & set(budget.names) for budget in budgets.values())


def check_budget(name: str, modules: tuple[str, ...]) -> None:
    budget = read_budgets()[name]
    new = sorted(set(shorten_names(modules)) - set(budget.names))
    assert len(modules) <= budget.most, (
        f"{name} imports {len(modules)} modules, at most {budget.most} are allowed; new: {new}"
        " (if they are needed: tests/support/import_budgets.py)"
    )
