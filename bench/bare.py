"""Baseline of the boot benchmark: the least that a kernel can boot into.

``python bench/bare.py KERNEL INITRD`` boots it once on Slipway's QEMU board and waits for the end;
``write_initrd`` makes the initramfs.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from pathlib import Path

from slipway.machine.hypervisors import choose
from slipway.machine.model import MachineSpec
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree

MIB = 1024 * 1024
LOAD_ADDRESS = 0x400000
HEADERS_SIZE = 64 + 56
MESSAGE = b"bare\n"
# write(1, message, 5); reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, RB_AUTOBOOT, NULL)
CODE = bytes.fromhex(
    "b801000000"  # mov eax, 1
    "bf01000000"  # mov edi, 1
    "488d3520000000"  # lea rsi, [rip + 0x20]: the message, right after the code
    "ba05000000"  # mov edx, 5
    "0f05"  # syscall
    "b8a9000000"  # mov eax, 169
    "bfaddee1fe"  # mov edi, 0xfee1dead
    "be69191228"  # mov esi, 0x28121969
    "ba67452301"  # mov edx, 0x01234567
    "4d31d2"  # xor r10, r10
    "0f05"  # syscall
)


def init_program() -> bytes:
    """Return a static ELF for x86-64 (System V ABI, chapters 4, 5): prints a line, restarts."""
    body = CODE + MESSAGE
    size = HEADERS_SIZE + len(body)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    entry = LOAD_ADDRESS + HEADERS_SIZE
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000)
    return identity + header + segment + body


def write_initrd(path: Path) -> None:
    """Write the whole initramfs: /init and the console's node."""
    tree = Tree()
    tree.add_directory("dev")
    tree.add_device("dev/console", "c", (5, 1))
    tree.add_file("init", init_program(), 0o755)
    with path.open("wb") as file:
        write_tree(tree, file)


async def boot(kernel: Path, initrd: Path) -> None:
    """Boot once and wait for the end."""
    spec = MachineSpec(kernel, initrd, "", 256 * MIB)
    machine = await choose("qemu", initrd.parent).start(spec)
    try:
        await asyncio.wait_for(machine.wait(), 120)
        await machine.console.wait_drained()
        lines = machine.console.get_last_lines()
        if not any("bare" in line for line in lines):
            raise SystemExit(f"the bare guest did not get to its /init: {lines}")
    finally:
        await machine.stop()


if __name__ == "__main__":
    asyncio.run(boot(Path(sys.argv[1]), Path(sys.argv[2])))
