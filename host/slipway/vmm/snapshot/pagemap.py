"""Pages of the guest's memory that this process has written to, as the kernel reports them.

After Documentation/admin-guide/mm/pagemap.rst of Linux: eight bytes for each page. The file is
opened after all capabilities are dropped, since with one it would report physical addresses as
well. Its offset is set at once, since a confined VMM may only read.
"""

from __future__ import annotations

import os

from slipway.vmm.pages import PAGE, merge_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.pages import Range

_PROCESS, _FILE = "/proc/self", "pagemap"
_ENTRY = 8
_AT_ONCE = 256 * 1024  # bytes, for 128 MiB of guest memory
_THERE = 1 << 63 | 1 << 62  # present, or swapped out
_OF_A_FILE = 1 << 61


def open_process() -> int:
    """Return a descriptor of this process's directory in /proc, or -1 if it is missing.

    The directory is found by it also where the root has no /proc any more.
    """
    try:
        return os.open(_PROCESS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1


def open_pagemap(process: int, address: int) -> int:
    """Return a descriptor at the entry of ``address``, or -1 if the kernel refuses.

    ``process`` is that of :func:`open_process`, and is closed.
    """
    if process < 0:
        return -1
    try:
        descriptor = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    except OSError:
        return -1
    finally:
        os.close(process)
    os.lseek(descriptor, address // PAGE * _ENTRY, os.SEEK_SET)
    return descriptor


def read_own(descriptor: int, size: int) -> list[Range]:
    """Return the private pages among ``size`` bytes from the descriptor's offset on."""
    ranges: list[Range] = []
    page, pages = 0, size // PAGE
    while page < pages:
        data = os.read(descriptor, min((pages - page) * _ENTRY, _AT_ONCE))
        entries = memoryview(data)[: len(data) // _ENTRY * _ENTRY].cast("Q")
        if not entries:
            break
        for number, entry in enumerate(entries, page):
            if entry & _THERE and not entry & _OF_A_FILE:
                ranges.append((number * PAGE, (number + 1) * PAGE))
        page += len(entries)
    return merge_ranges(ranges)
