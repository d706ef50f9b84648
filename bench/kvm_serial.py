"""A megabyte out of the guest's second UART: our VMM against QEMU with KVM.

Meant for the lab under ``--icount``, like kvm_boot.py. The guest is busybox; the time runs from the
first byte to the last at the host's end. Goals: five times QEMU's isa-serial, and under 0.03 exits
a byte.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from kvm_boot import MIB, find_stored_kernel, run_qemu
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec, PortKind
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree

INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox stty -F /dev/ttyS1 raw -echo
/bin/busybox head -c %d /dev/zero >/dev/ttyS1
while :; do /bin/busybox sleep 1000; done
"""


def write_initrd(path: Path, size: int) -> None:
    """Write an initramfs whose init writes ``size`` bytes to the second UART."""
    tree = Tree()
    for name in ("dev", "bin"):
        tree.add_directory(name)
    tree.add_device("dev/console", "c", (5, 1))
    tree.add_file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    tree.add_file("init", INIT % size, 0o755)
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


async def time_vmm(spec: MachineSpec, size: int) -> float:
    """Return the seconds with our VMM, and print the exits."""
    machine = await KvmHypervisor().start(spec)
    try:
        before = await machine.count_exits()
        seconds = await drain(machine.transport.reader, size)
        after = await machine.count_exits()
    finally:
        await machine.stop()
    exits = int(after[0].split()[0]) - int(before[0].split()[0])
    print(f"         {exits / size:.4f} exits a byte, boot included", flush=True)
    return seconds


async def time_qemu(spec: MachineSpec, size: int) -> float:
    """Return the seconds with QEMU's isa-serial."""
    async with run_qemu(spec) as (_, agent):
        return await drain(agent, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path, help="instead of the store's")
    parser.add_argument("--size", type=int, default=1_000_000, metavar="BYTES")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        initrd = Path(directory) / "serial.cpio"
        write_initrd(initrd, parsed.size)
        kernel = parsed.kernel or find_stored_kernel()
        spec = MachineSpec(kernel, initrd, "", 256 * MIB, port=PortKind.SERIAL)
        rates = []
        for name, run in (("slipway", time_vmm), ("qemu", time_qemu)):
            seconds = asyncio.run(run(spec, parsed.size))
            rates.append(parsed.size / seconds)
            print(f"{name:<8} {rates[-1] / 1e6:.4f} MB/s ({seconds:.3f} s)", flush=True)
        print(f"ratio    {rates[0] / rates[1]:.2f}")


if __name__ == "__main__":
    main()
