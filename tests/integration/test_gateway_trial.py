"""Trial of a host for ``slipway doctor``: confinement, and the look-up of one reserved name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway_trial import GatewayTrial, ResolverAnswer, try_gateway
from support.gateway_rig import PUBLIC, GatewayRig, open_rig
from support.namespaces import explain_missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.debian("ip")
NAME = "example.com"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[GatewayRig]:
    if missing := explain_missing():
        pytest.skip(missing)
    async with open_rig(tmp_path) as rig:
        yield rig


async def run_trial(rig: GatewayRig) -> GatewayTrial:
    def run() -> GatewayTrial:
        with rig.host.enter_with_files():
            return try_gateway()

    return await asyncio.to_thread(run)


async def test_answer_of_the_resolver_to_one_reserved_name_is_found(rig: GatewayRig) -> None:
    unknown = await run_trial(rig)
    rig.names.table[NAME] = [[PUBLIC]]
    resolved = await run_trial(rig)
    rig.names.silent.add(NAME)
    silent = await run_trial(rig)

    answers = [trial.resolver for trial in (unknown, resolved, silent)]
    assert answers == [ResolverAnswer.UNKNOWN, ResolverAnswer.RESOLVED, ResolverAnswer.SILENT]
    assert not any(trial.failure for trial in (unknown, resolved, silent))
    assert set(rig.names.asked) == {NAME}


def test_host_on_which_no_process_starts_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")

    trial = try_gateway()

    assert "No such file" in trial.failure
    assert trial.resolver is ResolverAnswer.UNTRIED
