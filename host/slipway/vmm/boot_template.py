"""Boot template: sealed file in memory with a kernel and an initramfs, ready to be booted.

The file has the kernel's bytes where they are in the guest's memory, counted from its start, and
behind them the initramfs, each from a multiple of 2 MiB on. A boot copies the kernel, most of whose
pages the guest changes. It maps the initramfs, which a guest only reads, beside its memory: boots
of one template share these pages, and KVM gives them to the guest as read-only.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from slipway._util.errors import HostError
from slipway._util.libc import libc
from slipway.vmm.memory import HUGE_PAGE, MAP_FIXED, MAP_NORESERVE
from slipway.vmm.spec import BootTemplate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.memory import GuestMemory


class BootMapping:
    """Mapping of a boot template in a VMM; it stays as long as the process."""

    def __init__(self, template: BootTemplate) -> None:
        """Map the file, which stays the caller's.

        The address is a multiple of 2 MiB: only then can the kernel map huge pages.

        Raises:
            HostError: the file cannot be mapped.
        """
        self._template = template
        size = template.initramfs[0] + -(-template.initramfs[1] // HUGE_PAGE) * HUGE_PAGE
        try:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
            self._mapping = mmap.mmap(-1, size + HUGE_PAGE, flags)
        except OSError as error:
            raise _build_error(error.errno or 0) from None
        self._anchor = ctypes.c_char.from_buffer(self._mapping)
        slack = -ctypes.addressof(self._anchor) % HUGE_PAGE
        start = ctypes.addressof(self._anchor) + slack
        address = libc.mmap(
            ctypes.c_void_p(start),
            ctypes.c_size_t(size),
            mmap.PROT_READ,
            mmap.MAP_PRIVATE | MAP_FIXED,
            template.file,
            ctypes.c_long(0),
        )
        if address != start:
            raise _build_error(ctypes.get_errno())
        self._view = memoryview(self._mapping)[slack : slack + size]
        self.initramfs_address = start + template.initramfs[0]

    def copy_kernel(self, memory: GuestMemory) -> None:
        """Copy the kernel to its place in ``memory``, which is zeros."""
        base = memory.regions[0].address
        for start, end in self._template.kernel:
            memory.write(base + start, self._view[start:end])


def _build_error(number: int) -> HostError:
    return HostError(f"a boot template cannot be mapped: {os.strerror(number)}")


def encode_template(template: BootTemplate) -> str:
    """Return all of ``template`` but its descriptor, as text."""
    pieces = [f"{start:x}-{end:x}" for start, end in template.kernel]
    numbers = (template.entry, template.end, *template.initramfs)
    return " ".join([*(f"{number:x}" for number in numbers), *pieces])


def decode_template(text: str, file: int) -> BootTemplate:
    """Return the template of :func:`encode_template`, whose file is open as ``file``.

    Raises:
        ValueError: the text is invalid.
    """
    words = text.split(" ")
    entry, end, offset, size = (int(word, 16) for word in words[:4])
    pieces = []
    for word in words[4:]:
        first, _, second = word.partition("-")
        pieces.append((int(first, 16), int(second, 16)))
    return BootTemplate(file, entry, end, pieces, (offset, size))
