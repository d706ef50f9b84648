"""L1: a QEMU that emulates a processor with KVM, so that a Linux in it has a real /dev/kvm."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.output import Output
from slipway._util.errors import HostError
from slipway.machine.console import Console
from slipway.machine.process import ChildProcess
from slipway.machine.tsc import find_tsc_khz
from slipway_initramfs.rootfs.cpio import write_tree
from support.host_programs import describe_missing, find_program

if TYPE_CHECKING:
    from pathlib import Path

    from lab.image import LabImage
    from lab.job import Job
    from slipway_initramfs.rootfs.tree import Tree

ICOUNT_KHZ = 1_000_000  # the counter counts virtual nanoseconds then
# Time of day and random numbers, too, are then the same in each run.
ICOUNT = (
    *("-icount", "shift=1,sleep=off", "-seed", "1"),
    *("-rtc", "base=2026-01-01T00:00:00,clock=vm"),
)
CACHE_MIB = 512


@dataclass(frozen=True, slots=True)
class LabSpec:
    """Parameters of L1; with ``icount`` its time follows the count of instructions."""

    image: LabImage
    memory: int
    """MiB"""
    cpus: int
    state: Path
    files: Tree | None = None
    """What L1 has instead of the host's root, at the places where the initramfs is to hold it."""
    icount: bool = False
    boot_log: bool = False


def build_arguments(
    spec: LabSpec, job: Job, *, initrd: int, output: int, console: int
) -> list[str]:
    """Return QEMU's arguments; the numbers are inherited descriptors."""
    # One thread cannot overtake itself: docs/lab.md, "One CPU".
    threads = "multi" if spec.cpus > 1 and not spec.icount else "single"
    root = "ramfs" if spec.files else "tmpfs"
    loudness = "" if spec.boot_log else " quiet"
    arch = spec.image.architecture
    return [
        *["-M", arch.board, "-cpu", arch.processor],
        *["-accel", f"tcg,thread={threads},tb-size={CACHE_MIB}"],
        *["-m", f"{spec.memory}M", "-smp", str(spec.cpus)],
        *["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-kernel", str(spec.image.kernel), "-initrd", f"/proc/self/fd/{initrd}"],
        *["-append", f"{arch.kernel_arguments} rootfstype={root}{_clock(spec)}{loudness}"],
        *["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"],
        *["-chardev", f"socket,id=output,fd={output}"],
        *["-device", "virtio-serial-device,max_ports=2"],
        *["-device", "virtserialport,chardev=output,name=output,nr=1"],
        *(ICOUNT if spec.icount else []),
        *(_share_directory("host", "/", writable=False) if job.shared else []),
        *(_share_directory("out", str(job.out), writable=True) if job.out else []),
    ]


def _clock(spec: LabSpec) -> str:
    """Return the kernel's argument for the clock of an x86-64, which it would have to measure."""
    if spec.image.architecture.name != "amd64":
        return ""
    khz = ICOUNT_KHZ if spec.icount else find_tsc_khz(spec.state / "tsc-khz")
    return f" tsc_early_khz={khz}"


def _share_directory(tag: str, path: str, *, writable: bool) -> list[str]:
    path = path.replace(",", ",,")
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap"
    options += "" if writable else ",readonly=on"
    return ["-fsdev", options, "-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]


async def run(spec: LabSpec, job: Job, timeout: float | None) -> int:
    """Boot, write the command's output to our standard output; return its exit status.

    Raises:
        HostError: L1 cannot be started, or ended before the command did.
        TimeoutError: the command did not end within ``timeout`` seconds.
    """
    name = spec.image.architecture.program
    program = find_program(name)
    if program is None:
        raise HostError(describe_missing(name))
    with ExitStack() as stack:
        initrd = _create_initrd(spec, job)
        stack.callback(os.close, initrd)
        output, output_theirs = socket.socketpair()
        console, console_theirs = socket.socketpair()
        with output_theirs, console_theirs:
            fds = (initrd, output_theirs.fileno(), console_theirs.fileno())
            argv = build_arguments(spec, job, initrd=fds[0], output=fds[1], console=fds[2])
            process = ChildProcess.start([program, *argv], pass_fds=fds)
    tail = Console(echo=spec.boot_log)
    try:
        tail.attach(*await asyncio.open_connection(sock=console))
        reader, writer = await asyncio.open_connection(sock=output)
        async with asyncio.timeout(timeout):
            status = await _copy(reader, Output(os.fsencode(job.marker)))
        writer.close()
        if status is not None:
            return status
        await process.wait()
        await tail.wait_drained()
        words = await process.read_stderr() or "; ".join(tail.get_last_lines())
        raise HostError(f"the lab's machine ended before the command did: {words}")
    finally:
        await process.kill()
        await tail.close()


async def _copy(reader: asyncio.StreamReader, output: Output) -> int | None:
    """Copy the output to stdout; return the status, or None if it is missing."""
    while output.status is None and (data := await reader.read(1 << 16)):
        view = memoryview(output.feed(data))
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
    return output.status


def _create_initrd(spec: LabSpec, job: Job) -> int:
    """Return a descriptor of a nameless file with the image's initramfs and the job's."""
    descriptor = os.memfd_create("lab-initrd")
    with os.fdopen(os.dup(descriptor), "wb") as file, spec.image.initramfs.open("rb") as source:
        shutil.copyfileobj(source, file, 1 << 20)
        if spec.files is not None:
            write_tree(spec.files, file)
        file.write(job.archive())
    return descriptor
