"""Boot after boot of one runtime: the later ones may share files with the first, and no data."""

from __future__ import annotations

from typing import Any

import pytest

from slipway._local.runtime import AsyncRuntime
from support.programs import PATIENCE

BOOTS = 3
LIMITS: Any = PATIENCE
# Fills the memory behind the programs' own, where a boot has put its initramfs or has not.
PROGRAM = """
head -c 40M /dev/zero | tr '\\0' x > /tmp/filled
sha256sum < /tmp/filled
cat /etc/os-release | sha256sum
[ -e /tmp/mine ] || echo "none before me"
touch /tmp/mine
"""


@pytest.mark.usefixtures("bash")
async def test_boots_of_one_runtime_are_alike_and_share_nothing(machine: str) -> None:
    async with AsyncRuntime(machine=machine, cold=True) as runtime:
        results = [await runtime.run(PROGRAM, "bash", **LIMITS) for _ in range(BOOTS)]

    assert [result.verdict for result in results] == ["ok"] * BOOTS
    assert [result.provenance.start for result in results] == ["cold"] * BOOTS
    assert len({result.stdout for result in results}) == 1
    assert results[0].stdout.endswith("none before me\n")
