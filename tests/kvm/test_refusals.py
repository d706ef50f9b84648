"""Hosts that cannot run a machine: each says so, and what helps."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slipway import HostError
from slipway.vmm.kvm import abi, usability
from slipway.vmm.kvm.system import Kvm
from support.bare_metal import open_files
from support.guest_code import IS_ARM, Code, build_kernel
from support.host_programs import need_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipway.machine.model import MachineSpec

# Says how it ended: the error's class, its message and its hint; and what it has left.
CHILD = """
import asyncio, os, resource, sys
from pathlib import Path
from slipway import SlipwayError
from slipway.machine.model import MachineSpec
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.vmm.kvm import usability
from slipway.vmm.kvm.system import Kvm

def limit(name, value):
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))

def open_files():
    return len(os.listdir("/proc/self/fd"))

def start(memory=64 << 20):
    usability.examine = lambda state: (True, "")
    directory = Path({directory!r})
    spec = MachineSpec(directory / "kernel", directory / "initrd", "", memory)
    async def main():
        await (await KvmHypervisor().start(spec)).stop()
    asyncio.run(main())

try:
    {action}
    print("nothing", "", "", sep="\\n")
except SlipwayError as error:
    print(type(error).__name__, error.message, error.hint, sep="\\n")
"""
MORE_FILES = "ulimit -n"
LESS_MEMORY = "--memory"


@dataclass(frozen=True)
class Refusal:
    kind: str
    message: str
    hint: str


def refusal(
    directory: Path, action: str, *, prefix: Sequence[str] = (), options: Sequence[str] = ()
) -> Refusal:
    """How a process ends that does ``action``."""
    (directory / "kernel").write_bytes(build_kernel(Code().halt()))
    source = CHILD.format(directory=str(directory), action=action)
    command = [*prefix, sys.executable, *options, "-c", source]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.stderr, ended.returncode) == ("", 0)
    return Refusal(*ended.stdout.removesuffix("\n").split("\n"))


# --- /dev/kvm -----------------------------------------------------------------------------------


def without_device(replacement: str) -> list[str]:
    """What runs a command where /dev/kvm is something else."""
    need_program("unshare")
    if os.geteuid():
        pytest.skip("a mount namespace needs root")
    script = f'mount --bind {replacement} /dev/kvm && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount")
    return prefix


def as_nobody() -> list[str]:
    """What runs a command as somebody whom /dev/kvm is not for."""
    if os.geteuid() or stat.S_IMODE(Path(abi.DEVICE).stat().st_mode) & stat.S_IRWXO:
        pytest.skip("needs root, and a /dev/kvm that is not for all")
    if any(not stat.S_IMODE(path.stat().st_mode) & 1 for path in Path(__file__).parents):
        pytest.skip("nobody may read these files")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def test_device_that_is_not_there() -> None:
    with pytest.raises(HostError, match="no /nowhere/kvm: ") as caught:
        Kvm("/nowhere/kvm")

    words = "starts at EL2" if IS_ARM else "load kvm-intel or kvm-amd"
    assert words in caught.value.hint


def test_device_that_is_another_to_the_vmm(spec: MachineSpec) -> None:
    found = refusal(spec.kernel.parent, "start()", prefix=without_device("/dev/null"))

    assert found.kind == "HostError"
    assert found.message == "KVM_GET_API_VERSION failed: Inappropriate ioctl for device"
    assert "slipway doctor" in found.hint


def test_device_that_may_not_be_opened(spec: MachineSpec) -> None:
    found = refusal(spec.kernel.parent, "Kvm()", prefix=as_nobody())

    assert (found.kind, found.message) == ("HostError", "/dev/kvm may not be opened")
    assert "usermod -aG kvm" in found.hint


@pytest.mark.usefixtures("open_tmp_path")
def test_vmm_that_may_not_open_the_device(spec: MachineSpec) -> None:
    prefix = as_nobody()

    found = refusal(spec.kernel.parent, "start()", prefix=prefix)

    assert (found.kind, found.message) == ("HostError", "/dev/kvm may not be opened")
    assert "usermod -aG kvm" in found.hint


def test_verdict_on_a_device_that_may_not_be_opened(spec: MachineSpec) -> None:
    action = "raise SlipwayError(*map(str, usability.examine()))"

    found = refusal(spec.kernel.parent, action, prefix=as_nobody())

    assert found.message == "False"
    assert "/dev/kvm may not be opened" in found.hint


# --- What KVM lacks or refuses ------------------------------------------------------------------


def refuse(monkeypatch: pytest.MonkeyPatch, request: int, answer: Callable[[Any], int]) -> None:
    """Have KVM answer a call otherwise."""
    real = fcntl.ioctl

    def ioctl(fd: int, asked: int, argument: Any = 0) -> Any:
        return answer(argument) if asked == request else real(fd, asked, argument)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


@pytest.mark.parametrize("missing", abi.NEEDED, ids=lambda capability: capability.name)
def test_capability_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: abi.Capability
) -> None:
    refuse(monkeypatch, abi.KVM_CHECK_EXTENSION, lambda capability: int(capability != missing))
    before = open_files()

    with pytest.raises(HostError, match=f"lacks KVM_CAP_{missing.name} ") as caught:
        Kvm()

    assert "--machine qemu" in caught.value.hint
    assert open_files() == before


def test_interface_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, abi.KVM_GET_API_VERSION, lambda _: 13)

    with pytest.raises(HostError, match="version 13, and 12 is needed") as caught:
        Kvm()

    assert "Linux 4.20" in caught.value.hint


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOMEM, LESS_MEMORY),
        (errno.EMFILE, MORE_FILES),
        (errno.ENFILE, "fewer machines"),
        (errno.EBUSY, "Another hypervisor"),
        (errno.EINVAL, "--machine qemu"),
    ],
    ids=lambda value: errno.errorcode.get(value, ""),
)
def test_vm_that_is_refused(monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    def refuse_call(_: object) -> int:
        raise OSError(number, os.strerror(number))

    kvm = Kvm()
    refuse(monkeypatch, abi.KVM_CREATE_VM, refuse_call)

    with pytest.raises(HostError, match=f"KVM_CREATE_VM failed: {os.strerror(number)}") as caught:
        kvm.create_vm()

    assert hint in caught.value.hint
    kvm.close()


def test_verdict_on_a_kvm_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, abi.KVM_GET_API_VERSION, lambda _: 13)

    usable, reason = usability.examine()

    assert (usable, "version 13" in reason) == (False, True)


# --- Limits of the process ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ("limit('NOFILE', open_files() - 1); Kvm()", "/dev/kvm cannot be opened"),
        ("kvm = Kvm(); limit('NOFILE', open_files() - 1); kvm.create_vm()", "KVM_CREATE_VM"),
        (
            "vm = Kvm().create_vm(); limit('NOFILE', open_files() - 1); vm.create_vcpu(0)",
            "KVM_CREATE_VCPU",
        ),
        (
            "vm = Kvm().create_vm(); limit('NOFILE', open_files()); vm.create_vcpu(0)",
            "mapping a vCPU's run page",
        ),
    ],
    ids=["device", "VM", "vCPU", "run page"],
)
def test_descriptors_that_are_used_up(spec: MachineSpec, action: str, call: str) -> None:
    found = refusal(spec.kernel.parent, action)

    assert found.kind == "HostError"
    assert found.message.startswith(call)
    assert "Too many open files" in found.message
    assert found.hint


@pytest.mark.parametrize("free", range(0, 24, 2))
def test_machine_whose_descriptors_are_used_up(spec: MachineSpec, free: int) -> None:
    """However far it comes: here, while its process is started, or in that."""
    found = refusal(spec.kernel.parent, f"limit('NOFILE', open_files() - 1 + 3 + {free}); start()")

    if found.kind != "nothing":
        assert found.kind == "HostError"
        assert "Too many open files" in found.message
        assert found.hint


def test_memory_that_the_host_has_not_got(spec: MachineSpec) -> None:
    found = refusal(spec.kernel.parent, "limit('AS', 1 << 30); start(memory=2 << 30)")

    assert found.kind == "HostError"
    assert found.message.startswith("2048 MiB of memory for the guest cannot be mapped")
    assert LESS_MEMORY in found.hint


def test_memory_that_no_host_has(spec: MachineSpec) -> None:
    found = refusal(spec.kernel.parent, "start(memory=1 << 60)")

    assert found.kind == "HostError"
    assert "cannot be mapped" in found.message
    assert LESS_MEMORY in found.hint
