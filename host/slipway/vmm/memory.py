"""Guest memory: one mapping, addressed as the guest sees it; of a snapshot's file, or empty."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress

from slipway._model.errors import HostError
from slipway._util.units import MIB
from slipway.vmm.libc import libc
from slipway.vmm.pages import PAGE, merge_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/asm-generic/mman-common.h; the mmap module has no names for them.
MAP_NORESERVE = 0x4000
MAP_FIXED = 0x10
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
HUGE_PAGE = 2 << 20
# Pieces of a file so near to each other are mapped as one: each mapping is copied by every fork.
JOINED = 256 * 1024


class GuestAddressError(Exception):
    """A guest names memory that it has not got."""


class Region:
    """``size`` bytes at guest physical ``address``, which are ``offset`` into the mapping."""

    __slots__ = ("address", "end", "offset", "size")

    def __init__(self, address: int, size: int, offset: int) -> None:
        self.address = address
        self.size = size
        self.end = address + size
        self.offset = offset


class GuestMemory:
    """RAM in one or two regions with a hole for devices between them.

    The mapping is placed so that guest and host addresses are equal modulo 2 MiB: only then can the
    kernel back the guest with huge pages, which halves the time of a boot.
    """

    def __init__(self, layout: Sequence[tuple[int, int]], file: int | None = None) -> None:
        """Map memory for ``layout``: (guest address, size) pairs in ascending order, in bytes.

        With ``file`` it begins as that file is, which it does not change; and then it is inherited
        by a fork.

        Raises:
            HostError: the host has not got that much, or the file cannot be mapped.
        """
        total = sum(size for _, size in layout)
        try:
            # No swap is reserved: a guest rarely touches all that it is given.
            self._mapping = mmap.mmap(
                -1,
                total + HUGE_PAGE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE,
            )
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise HostError(
                f"{total // MIB} MiB of memory for the guest cannot be mapped: {reason}",
                "Give the machine less memory (--memory), or run fewer machines at once.",
            ) from None
        # An address for KVM, and a lock on the mapping's size.
        self._anchor = ctypes.c_char.from_buffer(self._mapping)
        base = ctypes.addressof(self._anchor)
        slack = -base % HUGE_PAGE
        self.host_address = base + slack
        self.size = total
        if file is None:
            with suppress(OSError):  # a kernel without huge pages is slower and right all the same
                self._mapping.madvise(mmap.MADV_HUGEPAGE)
            self._mapping.madvise(mmap.MADV_DONTFORK)
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
        """Put what ``file`` holds over the empty mapping.

        Large holes stay as they are: a page that is first written to in a hole of the file would be
        made twice, once for the file.
        """
        for start, end in merge_ranges(_find_data(file, self.size), JOINED):
            address = libc.mmap(
                ctypes.c_void_p(self.host_address + start),
                ctypes.c_size_t(end - start),
                mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
                file,
                ctypes.c_long(start),
            )
            if address != self.host_address + start:
                reason = os.strerror(ctypes.get_errno())
                raise HostError(f"the snapshot's memory cannot be mapped: {reason}")

    def populate(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Make the pages of ``ranges``, in bytes from the start of the mapping, at once.

        Where the kernel does not know how (Linux before 5.14), they come one by one as always.
        """
        slack = self.host_address - ctypes.addressof(self._anchor)
        with suppress(OSError):
            for start, end in ranges:
                self._mapping.madvise(MADV_POPULATE_WRITE, slack + start, end - start)

    def view_all(self) -> memoryview:
        """The whole memory, without the holes between its regions; it is about to be read."""
        slack = self.host_address - ctypes.addressof(self._anchor)
        with suppress(OSError):  # Linux before 5.14: then with as many faults as there are pages
            self._mapping.madvise(MADV_POPULATE_READ, slack, self.size)
        return self._view

    def view(self, address: int, length: int) -> memoryview:
        """The ``length`` bytes at guest physical ``address``, to be read and written.

        Raises:
            GuestAddressError: not all of them are RAM.
        """
        for region in self.regions:
            if region.address <= address and address + length <= region.end and length >= 0:
                start = region.offset + address - region.address
                return self._view[start : start + length]
        raise GuestAddressError(f"{length} bytes at {address:#x} are not all memory")

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put ``data`` at guest physical ``address``.

        Raises:
            GuestAddressError: not all of it would be RAM.
        """
        self.view(address, len(data))[:] = data

    def read(self, address: int, length: int) -> bytes:
        """A copy of what is at guest physical ``address``.

        Raises:
            GuestAddressError: not all of it is RAM.
        """
        return bytes(self.view(address, length))

    def load(self, address: int, descriptor: int, size: int) -> None:
        """Read ``size`` bytes from the start of a file to ``address``.

        Raises:
            GuestAddressError: not all of them would be RAM.
            HostError: the file has become shorter, or cannot be read.
        """
        rest = self.view(address, size)
        offset = 0
        while rest:
            try:
                count = os.preadv(descriptor, [rest], offset)
            except OSError as error:
                raise HostError(f"what the guest boots cannot be read: {error.strerror}") from None
            if not count:
                raise HostError(f"what the guest boots ends after {offset} of {size} bytes")
            offset += count
            rest = rest[count:]

    def close(self) -> None:
        """Unmap; KVM must not use it any more."""
        self._view.release()
        del self._anchor
        self._mapping.close()


def _find_data(file: int, size: int) -> list[tuple[int, int]]:
    """Where ``file`` has data, up to ``size``: start and end of each piece, in whole pages."""
    pieces: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # there is none any more
            break
        end = os.lseek(file, start, os.SEEK_HOLE)
        start, end = start // PAGE * PAGE, min(-(-end // PAGE) * PAGE, size)
        if start < size:
            pieces.append((start, end))
    return pieces
