"""Limits of a machine's process on a host that has no cgroups for machines."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import pytest

from slipway.machine.host_limits import HostLimits, HostNeed
from slipway.machine.process import ChildProcess
from support.fake_machine import OVERHEAD, FakeHypervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20


@pytest.fixture
async def process() -> AsyncIterator[ChildProcess]:
    process = ChildProcess.start(["sleep", "1000"])
    yield process
    await process.kill()


async def test_process_without_a_cgroup_has_limits_on_private_memory(
    process: ChildProcess,
) -> None:
    limits = HostLimits(HostNeed(100 * MIB, 1))

    await limits.adopt(process.pid)

    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_DATA)
    assert 100 * MIB < soft == hard < 1024 * MIB


async def test_use_of_a_process_without_a_cgroup_is_read_until_its_end(
    process: ChildProcess,
) -> None:
    limits = HostLimits(HostNeed(100 * MIB, 1))
    await limits.adopt(process.pid)

    use = limits.read_use()
    await process.kill()
    await limits.close()

    assert use is not None
    assert not use.is_group
    assert 0 < use.memory_peak < 100 * MIB
    assert limits.read_use() is None
    assert limits.describe_loss() is None


def test_need_includes_the_processes_of_the_machine() -> None:
    hypervisor = FakeHypervisor()

    alone = HostNeed.of_guest(hypervisor, 64 * MIB, 1, network=False)
    with_gateway = HostNeed.of_guest(hypervisor, 64 * MIB, 1, network=True)

    assert alone.memory_bytes == 64 * MIB + OVERHEAD
    assert with_gateway.memory_bytes == alone.memory_bytes + 64 * MIB


async def test_copy_of_the_memory_is_allowed_once() -> None:
    limits = HostLimits(HostNeed(100 * MIB, 1))

    limits.allow_copy(50 * MIB)
    limits.allow_copy(50 * MIB)

    assert limits.need.memory_bytes == 150 * MIB
