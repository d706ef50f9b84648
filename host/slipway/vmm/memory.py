"""Guest memory: one anonymous mapping, addressed as the guest sees it."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress

from slipway._errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/asm-generic/mman-common.h; the mmap module has no name for it.
MAP_NORESERVE = 0x4000
HUGE_PAGE = 2 << 20
MIB = 1 << 20


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

    def __init__(self, layout: Sequence[tuple[int, int]]) -> None:
        """Map memory for ``layout``: (guest address, size) pairs in ascending order, in bytes.

        Raises:
            HostError: the host has not got that much.
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
        with suppress(OSError):  # a kernel without huge pages is slower and right all the same
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
        for advice in (mmap.MADV_DONTDUMP, mmap.MADV_DONTFORK):
            self._mapping.madvise(advice)
        self.host_address = base + slack
        self.size = total
        self._view = memoryview(self._mapping)[slack : slack + total]
        regions = []
        offset = 0
        for address, size in layout:
            regions.append(Region(address, size, offset))
            offset += size
        self.regions = tuple(regions)

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
