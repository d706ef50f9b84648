"""Tests that need /dev/kvm. Where it interprets its guests they pass as well: theirs are small."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec
from slipway.vmm.kvm import abi, usability
from slipway.vmm.vcpu_thread import KICK, accept_kicks
from support.bare_metal import BareMetal
from support.guest_code import IS_ARM, Code, build_kernel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path

    from slipway.machine.kvm import KvmMachine
    from support.assembler import Assembler

# Tests of what only one architecture has are in modules with its name.
collect_ignore_glob = ["*_x86_64.py" if IS_ARM else "*_aarch64.py"]


@pytest.fixture(scope="session", autouse=True)
def kvm() -> None:
    """The device of KVM: without it these tests are skipped, and run in the lab."""
    try:
        os.close(os.open(abi.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        pytest.skip(f"{abi.DEVICE}: {error.strerror}")


@pytest.fixture(autouse=True)
def kicks(kvm: None) -> Iterator[None]:
    """What the VMM's main thread prepares for its vCPUs' threads."""
    before = signal.getsignal(KICK)
    accept_kicks()
    yield
    signal.signal(KICK, before)


class Bare(Protocol):
    """Makes machines that are closed when the test ends."""

    def __call__(self, code: Assembler, cpus: int = 1) -> BareMetal: ...


@pytest.fixture
def bare() -> Iterator[Bare]:
    with ExitStack() as cleanup:
        yield lambda code, cpus=1: cleanup.enter_context(closing(BareMetal(code, cpus)))


class Boot(Protocol):
    """Boots machines that are stopped when the test ends; ``changes`` are those to their spec."""

    def __call__(self, code: Code, **changes: Any) -> Coroutine[Any, Any, KvmMachine]: ...


@pytest.fixture
def trust_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines start where KVM only interprets as well."""
    monkeypatch.setattr(usability, "examine", lambda state=None: (True, "in these tests"))


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    """A machine that boots ``tmp_path / "kernel"``, which is none yet."""
    (tmp_path / "initrd").write_bytes(b"an initramfs")
    (tmp_path / "kernel").touch()
    return MachineSpec(
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        kernel_arguments="these are for the guest",
        memory_bytes=64 << 20,
    )


@pytest.fixture
async def boot(trust_kvm: None, spec: MachineSpec) -> AsyncIterator[Boot]:
    async with AsyncExitStack() as cleanup:

        async def start(code: Code, **changes: Any) -> KvmMachine:
            spec.kernel.write_bytes(build_kernel(code))
            machine = await KvmHypervisor().start(replace(spec, **changes))
            cleanup.push_async_callback(machine.stop)
            return machine

        yield start
