"""Guest memory: one mapping with guest addresses, empty or with the content of a snapshot."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress

from slipway._util.errors import HostError
from slipway._util.libc import libc
from slipway._util.units import format_mib
from slipway.vmm.pages import PAGE, merge_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/asm-generic/mman-common.h; the mmap module lacks these names.
MAP_NORESERVE = 0x4000
MAP_FIXED = 0x10
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_COLLAPSE = 25
HUGE_PAGE = 2 << 20
# Pieces of a file at this distance or less are mapped as one: a fork copies each mapping.
JOINED = 256 * 1024


class GuestAddressError(Exception):
    """A guest names an address outside of its RAM."""


class Region:
    """Part of the RAM: ``size`` bytes at guest ``address``, ``offset`` bytes into the mapping."""

    __slots__ = ("address", "end", "offset", "size")

    def __init__(self, address: int, size: int, offset: int) -> None:
        self.address = address
        self.size = size
        self.end = address + size
        self.offset = offset


class GuestMemory:
    """RAM in one or two regions with a hole for devices between them.

    Guest and host addresses are equal modulo 2 MiB: only then can the kernel back the guest with
    huge pages, which halves the time of a boot.
    """

    def __init__(
        self,
        layout: Sequence[tuple[int, int]],
        file: int | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        """Map memory for ``layout``: (guest address, size) pairs in ascending order, in bytes.

        With ``file``, the memory starts as a private copy of that file, and a forked child inherits
        it. If ``is_shared``, the memory is the file itself.

        Raises:
            HostError: the host has too little memory, or the file cannot be mapped.
        """
        total = sum(size for _, size in layout)
        try:
            # No swap is reserved: a guest rarely touches all of its memory.
            self._mapping = mmap.mmap(
                -1,
                total + HUGE_PAGE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE,
            )
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise HostError(
                f"{format_mib(total)} of memory for the guest cannot be mapped: {reason}",
                "Give the machine less memory (--memory), or run fewer machines at once.",
            ) from None
        # The address for KVM; keeps the mapping from being resized.
        self._anchor = ctypes.c_char.from_buffer(self._mapping)
        base = ctypes.addressof(self._anchor)
        slack = -base % HUGE_PAGE
        self.host_address = base + slack
        self.size = total
        if file is None:
            with suppress(OSError):  # without huge pages the guest is slower
                self._mapping.madvise(mmap.MADV_HUGEPAGE)
            self._mapping.madvise(mmap.MADV_DONTFORK)
        elif is_shared:
            self._map_piece(file, 0, total, mmap.MAP_SHARED)
        else:
            self._map(file)
        self._mapping.madvise(mmap.MADV_DONTDUMP)
        self._view = memoryview(self._mapping)[slack : slack + total]
        regions = []
        offset = 0
        for address, size in layout:
            regions.append(Region(address, size, offset))
            offset += size
        self.regions = tuple(regions)

    def _map(self, file: int) -> None:
        """Map the data of ``file`` over the empty mapping.

        Large holes stay anonymous: a first write to a page of a hole would make two pages, one of
        them in the file's cache.
        """
        for start, end in merge_ranges(find_data(file, self.size), JOINED):
            self._map_piece(file, start, end, mmap.MAP_PRIVATE)

    def _map_piece(self, file: int, start: int, end: int, kind: int) -> None:
        address = libc.mmap(
            ctypes.c_void_p(self.host_address + start),
            ctypes.c_size_t(end - start),
            mmap.PROT_READ | mmap.PROT_WRITE,
            kind | MAP_FIXED | MAP_NORESERVE,
            file,
            ctypes.c_long(start),
        )
        if address != self.host_address + start:
            reason = os.strerror(ctypes.get_errno())
            raise HostError(f"a file of memory cannot be mapped: {reason}")

    def collapse(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Put the pages of ``ranges``, in bytes from the start of the mapping, into huge pages.

        A kernel before Linux 6.1 cannot, nor one without free huge pages: the pages stay small.
        """
        slack = self.host_address - ctypes.addressof(self._anchor)
        huge = ((start // HUGE_PAGE * HUGE_PAGE, end) for start, end in ranges)
        with suppress(OSError):
            for start, end in merge_ranges(huge):
                self._mapping.madvise(MADV_COLLAPSE, slack + start, end - start)

    def populate(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Make the pages of ``ranges``, in bytes from the start of the mapping, at once.

        A kernel before Linux 5.14 cannot, and makes them one by one at their first use.
        """
        slack = self.host_address - ctypes.addressof(self._anchor)
        with suppress(OSError):
            for start, end in ranges:
                self._mapping.madvise(MADV_POPULATE_WRITE, slack + start, end - start)

    def view_all(self) -> memoryview:
        """Return the whole memory, without the hole between regions, ready to be read."""
        slack = self.host_address - ctypes.addressof(self._anchor)
        with suppress(OSError):  # Linux before 5.14: then with a fault for each page
            self._mapping.madvise(MADV_POPULATE_READ, slack, self.size)
        return self._view

    def view(self, address: int, length: int) -> memoryview:
        """Return a view of ``length`` bytes at guest physical ``address``, to be read and written.

        Raises:
            GuestAddressError: part of the bytes is outside of the RAM.
        """
        for region in self.regions:
            if region.address <= address and address + length <= region.end and length >= 0:
                start = region.offset + address - region.address
                return self._view[start : start + length]
        raise GuestAddressError(f"{length} bytes at {address:#x} are not all memory")

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` to guest physical ``address``.

        Raises:
            GuestAddressError: part of the bytes is outside of the RAM.
        """
        self.view(address, len(data))[:] = data

    def read(self, address: int, length: int) -> bytes:
        """Return a copy of ``length`` bytes at guest physical ``address``.

        Raises:
            GuestAddressError: part of the bytes is outside of the RAM.
        """
        return bytes(self.view(address, length))

    def load(self, address: int, descriptor: int, size: int) -> None:
        """Read ``size`` bytes from the start of a file to ``address``.

        Raises:
            GuestAddressError: part of the bytes is outside of the RAM.
            HostError: the file has become shorter, or cannot be read.
        """
        rest = self.view(address, size)
        offset = 0
        while rest:
            try:
                count = os.preadv(descriptor, [rest], offset)
            except OSError as error:
                raise HostError(f"cannot read a boot file: {error.strerror}") from None
            if not count:
                raise HostError(f"a boot file ends after {offset} of {size} bytes")
            offset += count
            rest = rest[count:]

    def close(self) -> None:
        """Unmap the memory, after KVM has stopped using it."""
        self._view.release()
        del self._anchor
        self._mapping.close()


def find_data(file: int, size: int) -> list[tuple[int, int]]:
    """Return start and end of each piece of data in ``file``, up to ``size``, in whole pages."""
    pieces: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # only a hole is left
            break
        end = os.lseek(file, start, os.SEEK_HOLE)
        start, end = start // PAGE * PAGE, min(-(-end // PAGE) * PAGE, size)
        if start < size:
            pieces.append((start, end))
    return pieces
