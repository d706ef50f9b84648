"""Snapshots of the qemu machine, whatever its guest is at: what only QEMU itself can show."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway._util.errors import HostError
from slipway.machine import memory_files, migration
from slipway.machine.model import MachineSpec
from slipway.machine.qemu import QemuMachine
from slipway.machine.qemu_hypervisor import QemuHypervisor
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway.machine.model import Snapshot

ACCESS = os.access


@pytest.fixture(scope="module")
def booting(bash: Assets, installed_qemu: str) -> MachineSpec:
    return MachineSpec(
        kernel=bash.kernel_path,
        initrd=bash.initrd,
        kernel_arguments=bash.agent.kernel_arguments,
        memory_bytes=bash.memory,
    )


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = psutil.Process().num_fds()
    yield
    assert psutil.Process().children(recursive=True) == []
    assert psutil.Process().num_fds() <= before


async def snapshot_of(spec: MachineSpec) -> Snapshot:
    """A snapshot of a machine that boots, which is stopped."""
    machine = await QemuHypervisor().start(spec)
    try:
        await wait_until(machine.console.get_last_lines, "the kernel writes to the console")
        return await machine.snapshot()
    finally:
        await machine.stop()


def refuse_descriptors(path: str, mode: int) -> bool:
    """``os.access`` of one who may write to no file that is open."""
    return not str(path).startswith("/proc/self/fd/") and ACCESS(path, mode)


@pytest.mark.parametrize("template", [True, False])
async def test_nobody_can_change_a_snapshot(booting: MachineSpec, template: bool) -> None:
    snapshot = await snapshot_of(replace(booting, template=template))

    try:
        for descriptor in (snapshot.memory, snapshot.state):
            with pytest.raises(PermissionError):
                os.pwrite(descriptor, b"changed", 0)
        size = os.fstat(snapshot.memory).st_size
        empty = memory_files.is_empty(snapshot.memory)
    finally:
        snapshot.close()

    assert size == booting.memory_bytes
    assert empty != template


@pytest.mark.parametrize("template", [True, False])
async def test_memory_of_any_size_can_be_cloned(booting: MachineSpec, template: bool) -> None:
    size = booting.memory_bytes + 1
    snapshot = await snapshot_of(replace(booting, memory_bytes=size, template=template))
    cloning = await QemuHypervisor().open_template(snapshot)
    try:
        clone = await cloning.clone()
        assert isinstance(clone, QemuMachine)
        try:
            await migration.wait_loaded(clone.monitor)
        finally:
            await clone.stop()
    finally:
        await cloning.close()

    assert snapshot.memory_bytes >= size


async def test_template_has_ended_once_there_is_its_snapshot(booting: MachineSpec) -> None:
    machine = await QemuHypervisor().start(replace(booting, template=True))
    try:
        snapshot = await machine.snapshot()
        snapshot.close()

        assert await machine.wait() == -signal.SIGKILL
        with pytest.raises(HostError):
            await machine.snapshot()
        with pytest.raises(HostError):
            await machine.resume()
    finally:
        await machine.stop()
    await machine.stop()


async def test_machine_that_stands_still_is_not_saved_twice(booting: MachineSpec) -> None:
    machine = await QemuHypervisor().start(booting)
    try:
        (await machine.snapshot()).close()

        with pytest.raises(HostError, match="QEMU"):
            await machine.snapshot()
        await machine.resume()
        (await machine.snapshot()).close()
    finally:
        await machine.stop()


async def test_machine_whose_saving_was_cancelled_goes_on(
    booting: MachineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await QemuHypervisor().start(booting)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(migration, "_UNLIMITED", {"max-bandwidth": 65536})
            saving = asyncio.create_task(machine.snapshot())

            async def saves() -> bool:
                return bool(
                    (await machine.monitor.execute("query-migrate")).get("status") == "active"
                )

            await wait_until(saves, "the machine is being saved")

            saving.cancel()
            await asyncio.wait([saving])

        await machine.resume()
        told = (
            await machine.monitor.execute("query-migrate"),
            await machine.monitor.execute("query-status"),
        )
        (await machine.snapshot()).close()
    finally:
        await machine.stop()

    assert saving.cancelled()
    assert [status["status"] for status in told] == ["cancelled", "running"]


async def test_machine_that_dies_while_it_is_saved_is_told(booting: MachineSpec) -> None:
    machine = await QemuHypervisor().start(booting)
    try:
        await wait_until(machine.console.get_last_lines, "the kernel writes to the console")
        saving = asyncio.create_task(machine.snapshot())
        await asyncio.sleep(0)
        os.kill(machine.pid, signal.SIGKILL)

        with pytest.raises(HostError, match="ended"):
            await saving
    finally:
        await machine.stop()


async def test_qemu_that_refuses_to_load_a_state_says_so_and_ends(
    booting: MachineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = await snapshot_of(replace(booting, template=True))
    template = await QemuHypervisor().open_template(snapshot)
    refused = {"capabilities": [{"capability": "x-no-such-capability", "state": True}]}
    monkeypatch.setattr(migration, "_IGNORE_SHARED", refused)
    clone = await template.clone()
    try:
        await clone.wait()

        assert "QEMU refused" in await clone.read_exit_report()
        assert await clone.transport.reader.read() == b""
    finally:
        await clone.stop()
        await template.close()


async def test_memory_that_qemu_may_not_open_is_copied(
    booting: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = await snapshot_of(replace(booting, template=True))
    path = tmp_path / "memory"
    path.write_bytes(os.pread(snapshot.memory, booting.memory_bytes, 0))
    os.close(snapshot.memory)
    stored = replace(snapshot, memory=os.open(path, os.O_RDONLY))
    monkeypatch.setattr(os, "access", refuse_descriptors)  # these tests may be root's

    template = await QemuHypervisor().open_template(stored)
    path.unlink()
    try:
        clone = await template.clone()
        assert isinstance(clone, QemuMachine)
        await migration.wait_loaded(clone.monitor)
        maps = psutil.Process(clone.pid).memory_maps()
        await clone.stop()
    finally:
        await template.close()

    assert any("memfd:slipway-memory" in each.path for each in maps)


async def test_state_without_end_is_not_written(
    booting: MachineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "STATE_BYTES", 4096 - booting.memory_bytes)
    machine = await QemuHypervisor().start(booting)
    try:
        with pytest.raises(HostError):
            await machine.snapshot()
    finally:
        await machine.stop()
