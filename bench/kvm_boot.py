"""Time from the start of a process to the first line of init: our VMM against QEMU with KVM.

Our VMM starts alone, as for ``vmm-run``, and by a booter whose zygote and boot template exist, as
in a runtime from the second boot of an image on. The same kernel, initramfs and memory for all.
Meant for the lab under ``--icount``, where time follows the count of instructions and repeats
exactly: ``make bench-lab``. The default initramfs is the smallest possible; --initrd names another.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from bare import write_initrd
from slipway.machine import kvm
from slipway.machine.console import Console
from slipway.machine.kernel_arguments import build_command_line
from slipway.machine.kvm_booter import KvmBooter
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec, Transport
from slipway.machine.process import ChildProcess
from slipway.machine.qemu import SANDBOX
from slipway.machine.qemu_targets import find_target
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import KERNELS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

MIB = 1 << 20
LINE = b"bare"
TARGET = find_target()
QEMU = (
    *(TARGET.program, "-M", TARGET.board),
    *("-accel", "kvm", "-cpu", "host", "-nodefaults", "-no-user-config", "-display", "none"),
    *("-no-reboot", "-sandbox", SANDBOX),
)


class FirstLine(Console):
    """Console that notes when init's line came."""

    def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.came = asyncio.create_task(wait_for_first_line(reader))


async def wait_for_first_line(reader: asyncio.StreamReader) -> float:
    """Wait for init's line; return its time."""
    while line := await reader.readline():
        if line.startswith(LINE):
            return time.monotonic()
    raise SystemExit("the guest ended before its init said a word")


async def time_vmm(spec: MachineSpec) -> float:
    """Return the seconds with our VMM."""
    began = time.monotonic()
    with patch.object(kvm, "Console", FirstLine):
        machine = await KvmHypervisor().start(spec)
    try:
        assert isinstance(machine.console, FirstLine)
        return await machine.console.came - began
    finally:
        await machine.stop()


async def time_booter(spec: MachineSpec, rounds: int) -> list[float]:
    """Return the seconds of each boot by a booter, after a first one that prepares it."""
    booter = KvmBooter()
    seconds = []
    with patch.object(kvm, "Console", FirstLine):
        for _ in range(rounds + 1):
            began = time.monotonic()
            machine = await booter.start(spec, KvmHypervisor())
            try:
                assert isinstance(machine.console, FirstLine)
                seconds.append(await machine.console.came - began)
            finally:
                await machine.stop()
            while booter.is_making:
                await asyncio.sleep(0.01)
    await booter.close()
    return seconds[1:]


async def time_qemu(spec: MachineSpec) -> float:
    """Return the seconds with QEMU's microvm board on KVM."""
    began = time.monotonic()
    async with run_qemu(spec) as (console, _):
        return await wait_for_first_line(console.reader) - began


@asynccontextmanager
async def run_qemu(spec: MachineSpec) -> AsyncIterator[tuple[Transport, Transport]]:
    """Run a machine of QEMU; yield the streams of its console and its agent port."""
    ends = [socket.socketpair() for _ in range(2)]
    fds = [theirs.fileno() for _, theirs in ends]
    argv = [
        *QEMU,
        *("-m", f"{spec.memory_bytes}B", "-smp", str(spec.cpus)),
        *("-kernel", str(spec.kernel), "-initrd", str(spec.initrd)),
        *("-append", build_command_line(spec, "reboot=t")),
        *("-chardev", f"socket,id=console,fd={fds[0]}", "-serial", "chardev:console"),
        *TARGET.build_port_arguments({spec.port: fds[1]}),
    ]
    process = ChildProcess.start(argv, pass_fds=fds)
    streams = []
    for ours_end, theirs in ends:
        theirs.close()
        streams.append(Transport(*await asyncio.open_connection(sock=ours_end)))
    try:
        yield streams[0], streams[1]
    finally:
        await process.kill()
        for stream in streams:
            stream.writer.close()


def find_stored_kernel(name: str = "") -> Path:
    """Return the kernel of this name in the image store, by default the one in use."""
    store = ImageStore()
    kernel = store.find_kernel(machine_architecture(), name) if name else store.kernel()
    if kernel is None:
        raise SystemExit("make the kernel first: slipway image build bash; slipway kernel build")
    return kernel.path


def measure(
    name: str,
    run: Callable[[MachineSpec], Coroutine[None, None, float]],
    spec: MachineSpec,
    rounds: int,
) -> float:
    """Return the median of ``rounds``, after a first round that warms the caches."""
    seconds = [asyncio.run(run(spec)) for _ in range(rounds + 1)][1:]
    return show(name, seconds)


def show(name: str, seconds: list[float]) -> float:
    """Print ``seconds``, and return their median."""
    median = statistics.median(seconds)
    shown = " ".join(f"{value:.4f}" for value in seconds)
    print(f"{name:<8} {median:.4f} s   ({shown})", flush=True)
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path, help="instead of the store's")
    parser.add_argument("--initrd", type=Path, help="one whose init prints a line 'bare'")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--print-kernel",
        choices=("", *KERNELS),
        nargs="?",
        const="",
        help="print the path of the store's kernel, and end",
    )
    parsed = parser.parse_args()
    if parsed.print_kernel is not None:
        print(find_stored_kernel(parsed.print_kernel))
        return
    with tempfile.TemporaryDirectory() as directory:
        initrd = parsed.initrd or Path(directory) / "bare.cpio"
        if parsed.initrd is None:
            write_initrd(initrd)
        kernel = parsed.kernel or find_stored_kernel()
        spec = MachineSpec(kernel, initrd, "", parsed.memory * MIB)
        print(f"initramfs of {initrd.stat().st_size / 1e6:.1f} MB, {parsed.memory} MiB", flush=True)
        mine = measure("slipway", time_vmm, spec, parsed.rounds)
        booted = show("booter", asyncio.run(time_booter(spec, parsed.rounds)))
        other = measure("qemu", time_qemu, spec, parsed.rounds)
        print(f"ratio    {mine / other:.3f}, of the booter {booted / other:.3f}")


if __name__ == "__main__":
    main()
