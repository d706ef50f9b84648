"""The parts of a machine that need no guest: its process, its console, its command line."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from slipway._model.options import Options
from slipway._run.languages import find_language
from slipway._util.errors import HostError, InputError
from slipway.machine.console import KEPT_BYTES, Console
from slipway.machine.hypervisors import choose
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec, PortKind, Snapshot
from slipway.machine.process import ChildProcess
from slipway.machine.qemu import (
    Board,
    QemuSockets,
    build_boot_arguments,
    build_file_ram,
    build_kernel_command_line,
    build_network_arguments,
)
from slipway.machine.qemu_hypervisor import QemuHypervisor
from slipway.machine.qemu_targets import TARGETS, find_target
from slipway.machine.tsc import find_tsc_khz, measure_khz
from slipway_initramfs.architectures import machine_architecture
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

SPEC = MachineSpec(
    kernel=Path("/kernel"),
    initrd=Path("/initrd"),
    kernel_arguments="rdinit=/x -- /agent",
    memory_bytes=256 << 20,
)
AMD64, ARM64 = TARGETS["amd64"], TARGETS["arm64"]
BOARD = Board(AMD64, 256 << 20, 1, PortKind.VIRTIO)
SOCKETS = QemuSockets({PortKind.VIRTIO: 3}, 4, 5)


# --- Processes ----------------------------------------------------------------------------------


async def test_process_ends_with_its_status() -> None:
    process = ChildProcess.start(["sh", "-c", "echo 'no   such' >&2; echo board >&2; exit 3"])

    assert await process.wait() == 3
    assert await process.read_stderr() == "no such board"
    await process.kill()


async def test_exit_report_can_be_read_again() -> None:
    process = ChildProcess.start(["sh", "-c", "echo board >&2"])

    words = await asyncio.gather(process.read_stderr(), process.read_stderr())

    assert list(words) == ["board", "board"]
    await process.kill()


async def test_process_that_cannot_be_watched_does_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor_left(_pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", no_descriptor_left)

    with pytest.raises(HostError, match="Too many open files"):
        ChildProcess.start(["sleep", "1000"])

    assert psutil.Process().children() == []


async def test_killed_process_takes_its_group_along() -> None:
    process = ChildProcess.start(["sh", "-c", "sleep 1000 & sleep 1000"])
    group = process.pid

    def members() -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if _group(p) == group]

    await wait_until(lambda: len(members()) == 3, "the group has three processes")
    children = members()

    await process.kill()

    assert await process.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    await process.kill()  # nothing more to do


def _group(process: psutil.Process) -> int:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return -1


async def test_process_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(HostError, match="setpriv") as caught:
        ChildProcess.start(["sleep", "1000"])
    assert "apt-get install --no-install-recommends util-linux" in caught.value.hint


def test_process_dies_with_the_one_that_started_it() -> None:
    starter = (
        "import asyncio\n"
        "from slipway.machine.process import ChildProcess\n"
        "async def main():\n"
        "    process = ChildProcess.start(['sleep', '1000'])\n"
        "    print(process.pid, flush=True)\n"
        "    await process.wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []


# --- The console --------------------------------------------------------------------------------


async def console_of(data: bytes, *, echo: bool = False) -> Console:
    """A console that has read ``data`` to its end."""
    ours, theirs = socket.socketpair()
    console = Console(echo)
    console.attach(*await asyncio.open_connection(sock=ours))
    with theirs:
        theirs.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(theirs, data)
    await console.wait_drained()
    return console


async def test_console_that_is_shown_cannot_steer_a_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    console = await console_of(b"a\tb\r\n\x1b[2J\x07\x9b2J\xc2\x9bc\n", echo=True)

    assert capfd.readouterr().err == "a\tb\n[2J2Jc\n"
    await console.close()


async def test_console_keeps_its_last_lines_without_control_characters() -> None:
    console = await console_of(b"first\n\x1b[31mred\x07\x1b[0m\r\n\n\xff\xfe\nlast")

    assert console.get_last_lines(3) == ["[31mred[0m", "\ufffd\ufffd", "last"]
    await console.close()


async def test_console_of_a_guest_that_writes_without_end_is_bounded() -> None:
    console = await console_of(b"x" * (10 * KEPT_BYTES) + b"\nend")

    assert sum(map(len, console.get_last_lines(100))) <= KEPT_BYTES
    assert console.get_last_lines(1) == ["end"]
    await console.close()


# --- QEMU's command line ------------------------------------------------------------------------


def test_agents_arguments_come_last() -> None:
    line = build_kernel_command_line(SPEC, AMD64, 3_000_000)

    assert line.endswith("rdinit=/x -- /agent")
    assert "tsc_early_khz=3000000" in line
    assert " quiet" in line


def test_serial_port_is_named_to_the_agent() -> None:
    spec = replace(SPEC, port=PortKind.SERIAL, boot_log=True)

    line = build_kernel_command_line(spec, AMD64, 1)

    assert "slipway.port=ttyS1" in line
    assert " quiet" not in line
    sockets = QemuSockets({PortKind.SERIAL: 3}, 4, 5)
    board = Board(AMD64, spec.memory_bytes, spec.cpus, spec.port).build_arguments(sockets, "ram")
    assert any("isa-serial" in word for word in board)
    assert not any("virtio" in word for word in board)


def test_machine_with_both_devices_names_the_serial_one() -> None:
    spec = replace(SPEC, port=PortKind.AUTO)
    sockets = QemuSockets({PortKind.VIRTIO: 3, PortKind.SERIAL: 6}, 4, 5)

    board = Board(AMD64, spec.memory_bytes, spec.cpus, spec.port).build_arguments(sockets, "ram")

    assert "slipway.port=auto,ttyS1" in build_kernel_command_line(spec, AMD64, 1)
    assert {"socket,id=virtio,fd=3", "socket,id=serial,fd=6"} < {*board}
    assert "isa-serial,index=1,chardev=serial" in board
    assert "virtserialport,chardev=virtio,name=agent,nr=1" in board


def test_arm_machine_has_its_own_program_board_and_console() -> None:
    board = replace(BOARD, target=ARM64).build_arguments(SOCKETS, "ram")
    boot = build_boot_arguments(SPEC, ARM64, 0)
    serial = build_kernel_command_line(replace(SPEC, port=PortKind.SERIAL), ARM64, 0)

    assert ARM64.program == "qemu-system-aarch64"
    assert board[board.index("-M") + 1].startswith("virt,")
    assert "console=ttyAMA0 " in boot[-1]
    assert "tsc" not in boot[-1]
    assert "slipway.port=ttyS0" in serial


def test_network_is_a_device_of_its_own_on_an_inherited_socket() -> None:
    words = build_network_arguments(7)

    assert words[:2] == ["-netdev", "dgram,id=net,local.type=fd,local.str=7"]
    assert words[2] == "-device"
    device, *settings = words[3].split(",")
    assert device == "virtio-net-device"
    assert {"netdev=net", "mac=52:54:00:53:4c:50", "host_mtu=65520"} < set(settings)
    assert not any("net" in word for word in BOARD.build_arguments(SOCKETS, "ram"))


def test_qemu_gets_kernel_memory_and_sandbox() -> None:
    words = [
        *BOARD.build_arguments(SOCKETS, "memory-backend-ram"),
        *build_boot_arguments(SPEC, AMD64, 1),
    ]

    assert words[words.index("-kernel") + 1] == "/kernel"
    assert words[words.index("-m") + 1] == f"{256 << 20}B"
    assert words[words.index("-object") + 1] == f"memory-backend-ram,id=ram,size={256 << 20}"
    assert words[words.index("-sandbox") + 1].startswith("on,")


def test_clone_differs_from_its_template_in_whose_memory_it_is_alone() -> None:
    template = BOARD.build_arguments(SOCKETS, build_file_ram(9, share=True))
    clone = BOARD.build_arguments(SOCKETS, build_file_ram(9, share=False))

    assert clone != template
    assert clone == [word.replace("share=on", "share=off") for word in template]


def test_fingerprint_tells_one_qemu_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = tmp_path / find_target().program
    qemu.write_text("one", "ascii")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    one = QemuHypervisor().fingerprint()
    qemu.write_text("another", "ascii")

    another = QemuHypervisor().fingerprint()

    assert QemuHypervisor().fingerprint() == another != one


@pytest.mark.parametrize("architecture", TARGETS)
def test_missing_qemu_is_reported_with_its_package(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(HostError, match="is not installed") as caught:
        QemuHypervisor(architecture=architecture).check()

    assert TARGETS[architecture].package in caught.value.hint


def test_fingerprint_needs_a_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(HostError, match="QEMU is not installed"):
        QemuHypervisor().fingerprint()


def test_machines_are_known_by_name() -> None:
    assert [(type(h), h.reason) for h in map(choose, ("qemu", "kvm"))] == [
        (QemuHypervisor, "asked for"),
        (KvmHypervisor, "asked for"),
    ]
    with pytest.raises(InputError, match="nonsense") as caught:
        choose("nonsense")
    assert "qemu" in caught.value.message


@pytest.mark.parametrize("machine", ["auto", "qemu"])
def test_machine_of_another_architecture_is_emulated(machine: str) -> None:
    host = machine_architecture()
    (foreign,) = {*TARGETS} - {host}
    reasons = {"auto": f"{foreign} is emulated on this {host} host", "qemu": "asked for"}

    hypervisor = choose(machine, architecture=foreign)

    assert (hypervisor.name, hypervisor.architecture) == ("qemu", foreign)
    assert (hypervisor.is_emulated, hypervisor.reason) == (True, reasons[machine])
    with pytest.raises(InputError, match=f"not {foreign}"):
        choose("kvm", architecture=foreign)


@pytest.mark.parametrize("architecture", TARGETS)
def test_memory_of_a_machine_has_the_boot_files_that_qemu_keeps(
    architecture: str, tmp_path: Path
) -> None:
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(bytes(1000))
    initrd.write_bytes(bytes(200))
    hypervisor = QemuHypervisor(architecture=architecture)
    assets = replace(
        FakeLauncher().assets_of(find_language("bash"), Options()),
        hypervisor=hypervisor,
        other_kernel=kernel,
        initrd=initrd,
    )

    beside = assets.footprint - assets.memory - hypervisor.overhead
    initrd.unlink()
    without = assets.footprint - assets.memory - hypervisor.overhead

    assert (beside, without) == {"amd64": (0, 0), "arm64": (1200, 1000)}[architecture]


@pytest.mark.parametrize(("name", "architecture"), [("other", "amd64"), ("qemu", "other")])
async def test_snapshot_of_another_machine_is_refused(name: str, architecture: str) -> None:
    hypervisor = QemuHypervisor(architecture="amd64")
    memory, state = os.memfd_create("memory"), os.memfd_create("state")
    snapshot = Snapshot(name, architecture, 4096, 1, PortKind.VIRTIO, memory, state)

    with pytest.raises(HostError, match=r"'other' is not for (qemu|amd64)"):
        await hypervisor.open_template(snapshot)


# --- The time stamp counter ---------------------------------------------------------------------


def test_rate_is_measured_alike_each_time() -> None:
    first, second = measure_khz(), measure_khz()

    assert first > 100_000
    assert abs(first - second) < first / 20


def test_rate_is_remembered_until_the_host_boots_again(tmp_path: Path) -> None:
    cache = tmp_path / "tsc-khz"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()

    cache.write_text(f"{boot} 4711\n")
    assert find_tsc_khz(cache) == 4711
    for stale in (f"{'0' * 36} 4711\n", "", f"{boot} many\n", f"{boot}\n", "\0" * 100):
        cache.write_text(stale)
        assert find_tsc_khz(cache) != 4711
        assert cache.read_text().split()[0] == boot
    assert [path.name for path in tmp_path.iterdir()] == ["tsc-khz"]


def test_rate_is_measured_where_nothing_can_be_remembered(tmp_path: Path) -> None:
    assert find_tsc_khz(tmp_path / "missing" / "tsc-khz") > 100_000
