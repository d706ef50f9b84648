"""Addresses in the guest's physical memory, and its interrupt lines.

::

    0x0800_0000  GIC: distributor
    0x080A_0000  GIC: redistributors, one for each vCPU
    0x0900_0000  serial ports, one on each page
    0x0A00_0000  virtio-mmio devices, one on each page
    0x4000_0000  the memory: first 2 MiB with the device tree
    0x4020_0000  the kernel, as far as its header says
         ...     initramfs, at the end of the memory or of its first 4 GiB
"""

from __future__ import annotations

# A page of the guest's kernel.
PAGE = 4096

# GICv3 (Arm IHI 0069, section 12.10): 64 KiB; two frames of 64 KiB for each vCPU.
DISTRIBUTOR = 0x0800_0000
DISTRIBUTOR_SIZE = 0x1_0000
REDISTRIBUTORS = 0x080A_0000
REDISTRIBUTOR_SIZE = 0x2_0000
# KVM numbers vCPUs in the lowest field of MPIDR_EL1, which has 16 values.
MAX_VCPUS = 16

SERIAL = 0x0900_0000
SERIAL_SIZE = 8
SERIAL_DISTANCE = PAGE
VIRTIO = 0x0A00_0000
VIRTIO_SIZE = 0x1000

# Documentation/arm64/booting.rst: the device tree has at most 2 MiB; a kernel lies at its
# text_offset behind a multiple of 2 MiB, in one window of 32 GiB with its initramfs.
RAM = 0x4000_0000
DEVICE_TREE = RAM
DEVICE_TREE_SIZE = 0x20_0000
KERNEL_BASE = DEVICE_TREE + DEVICE_TREE_SIZE
INITRAMFS_END = RAM + (4 << 30)
# COMMAND_LINE_SIZE of arch/arm64/include/uapi/asm/setup.h, its final NUL included.
COMMAND_LINE_SIZE = 2048

# Lines are shared peripheral interrupts, numbered as in a device tree: INTID 32 is line 0. KVM's
# irqfd numbers them in the same way.
LINES = 32
FIRST_INTID = 32
SERIAL_LINE = 0
VIRTIO_LINE = 16
