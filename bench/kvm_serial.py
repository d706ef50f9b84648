"""A megabyte out of the guest's second UART, and bytes into it: our VMM against QEMU with KVM.

Meant for the lab under ``--icount``, like kvm_boot.py. The guest is busybox. The time of output
runs from the first byte to the last at the host's end, that of input from the first byte to the
guest's answer to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kvm_boot import MIB, find_stored_kernel, run_qemu
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec, PortKind
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec 3<>/dev/ttyS1
/bin/busybox stty -F /dev/ttyS1 raw -echo
/bin/busybox head -c {out} /dev/zero >&3
/bin/busybox head -c {into} <&3 >/dev/null
/bin/busybox echo >&3
while :; do /bin/busybox sleep 1000; done
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes to be moved in each direction."""

    out: int
    into: int


def write_initrd(path: Path, sizes: Sizes) -> None:
    """Write an initramfs whose init moves bytes over the second UART."""
    tree = Tree()
    for name in ("dev", "bin"):
        tree.add_directory(name)
    tree.add_device("dev/console", "c", (5, 1))
    tree.add_file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    init = INIT.replace("{out}", str(sizes.out)).replace("{into}", str(sizes.into))
    tree.add_file("init", init.encode(), 0o755)
    with path.open("wb") as file:
        write_tree(tree, file)


async def drain(reader: asyncio.StreamReader, size: int) -> float:
    """Return the seconds from the first of ``size`` bytes to the last."""
    received = len(await reader.read(MIB))
    began = time.monotonic()
    while received < size:
        data = await reader.read(MIB)
        if not data:
            raise SystemExit(f"{received} of {size} bytes came")
        received += len(data)
    return time.monotonic() - began


async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> float:
    """Return the seconds from the first of ``size`` bytes to the guest's answer."""
    began = time.monotonic()
    writer.write(bytes(size))
    if not await reader.read(MIB):
        raise SystemExit("the guest ended")
    return time.monotonic() - began


async def time_vmm(spec: MachineSpec, sizes: Sizes) -> list[float]:
    """Return the seconds of output and input with our VMM, and print the exits."""
    machine = await KvmHypervisor().start(spec)
    counts = []

    async def count() -> None:
        total, *_ = await machine.count_exits()
        counts.append(int(total.split()[0]))

    try:
        stream = machine.transport
        await count()
        seconds = [await drain(stream.reader, sizes.out)]
        await count()
        seconds.append(await feed(stream.reader, stream.writer, sizes.into))
        await count()
    finally:
        await machine.stop()
    print(
        f"         exits a byte: {(counts[1] - counts[0]) / sizes.out:.4f} out, boot included;"
        f" {(counts[2] - counts[1]) / sizes.into:.4f} in",
        flush=True,
    )
    return seconds


async def time_qemu(spec: MachineSpec, sizes: Sizes) -> list[float]:
    """Return the seconds with QEMU's isa-serial."""
    async with run_qemu(spec) as (_, agent):
        seconds = [await drain(agent.reader, sizes.out)]
        seconds.append(await feed(agent.reader, agent.writer, sizes.into))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path, help="instead of the store's")
    parser.add_argument("--size", type=int, default=1_000_000, metavar="BYTES")
    parser.add_argument("--input", type=int, default=100_000, metavar="BYTES")
    parsed = parser.parse_args()
    sizes = Sizes(parsed.size, parsed.input)
    with tempfile.TemporaryDirectory() as directory:
        initrd = Path(directory) / "serial.cpio"
        write_initrd(initrd, sizes)
        kernel = parsed.kernel or find_stored_kernel()
        spec = MachineSpec(kernel, initrd, "", 256 * MIB, port=PortKind.SERIAL)
        rates = []
        for name, run in (("slipway", time_vmm), ("qemu", time_qemu)):
            out, into = asyncio.run(run(spec, sizes))
            rates.append((sizes.out / out, sizes.into / into))
            print(
                f"{name:<8} out {rates[-1][0] / 1e6:.4f} MB/s ({out:.3f} s),"
                f" in {rates[-1][1] / 1e6:.4f} MB/s ({into:.3f} s)",
                flush=True,
            )
        ratios = [mine / other for mine, other in zip(*rates, strict=True)]
        print(f"ratio    out {ratios[0]:.2f}, in {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
