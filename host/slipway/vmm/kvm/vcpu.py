"""A vCPU of KVM: its run page, and the ring of coalesced writes behind it."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import ExitStack

from slipway.vmm.kvm import abi
from slipway.vmm.kvm.failure import explain_failure

_RUN = abi.KVM_RUN
_ioctl = fcntl.ioctl
_indices = abi.RING_INDICES.unpack_from
_set_first = abi.RING_FIRST.pack_into
_entry = abi.RING_ENTRY.unpack_from
_SIZE = abi.RING_ENTRY_SIZE
_COUNT = abi.RING_ENTRIES
_REASON_AT = abi.EXIT_REASON_OFFSET


class Vcpu:
    """Owner of a vCPU's descriptor, and of the mapping of its run page (struct kvm_run)."""

    __slots__ = ("_ring", "fd", "number", "page")

    def __init__(self, fd: int, number: int, run_size: int, ring_page: int) -> None:
        self.fd = fd
        self.number = number
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            with explain_failure("mapping a vCPU's run page"):
                self.page = mmap.mmap(fd, run_size)
            undo.pop_all()
        self._ring = ring_page * abi.PAGE_SIZE

    def run(self) -> int:
        """Run the guest up to the next exit; return the reason.

        Raises:
            InterruptedError: a signal came, or ``immediate_exit`` is set.
            OSError: KVM cannot run this vCPU.
        """
        _ioctl(self.fd, _RUN, 0)
        return self.page[_REASON_AT]  # no reason has more than one byte

    def set_immediate_exit(self, value: bool) -> None:
        """Let :meth:`run` return at once, after the effects of the last exit are complete."""
        self.page[abi.RUN_IMMEDIATE_EXIT_OFFSET] = value

    def take_coalesced(self) -> list[tuple[int, bytes]]:
        """Take the writes of the ring, in their order, as (address, data).

        Successive writes to one address are joined: a serial port's transmit register gets many.
        All vCPUs of a VM share the ring, which needs a lock around this call.
        """
        page, ring = self.page, self._ring
        first, last = _indices(page, ring)
        if first == last:
            return []
        start = ring + abi.RING_ENTRIES_OFFSET
        taken: list[tuple[int, bytes]] = []
        first, last = first % _COUNT, last % _COUNT
        while first != last:
            end = last if last > first else _COUNT
            at, stop = start + first * _SIZE, start + end * _SIZE
            address, length, _, data = _entry(page, at)
            if length == 1:
                run = self._count_alike(at, stop)
                taken.append((address, page[at + 16 : at + run * _SIZE : _SIZE]))
            else:
                run = 1
                taken.append((address, data[:length]))
            first = (first + run) % _COUNT
        _set_first(page, ring, last)
        return taken

    def _count_alike(self, at: int, stop: int) -> int:
        """Return the number of entries from ``at`` on that write a byte to the same address."""
        page = self.page
        whole = (stop - at) // _SIZE
        # Usually all are alike, which three slices show faster than a loop over the entries.
        # Coalesced addresses differ in their lowest 16 bits.
        if all(
            page[at + offset : stop : _SIZE].count(page[at + offset]) == whole
            for offset in (0, 1, 8)
        ):
            return whole
        head = page[at : at + 16]
        count = 1
        while count < whole and page[at + count * _SIZE : at + count * _SIZE + 16] == head:
            count += 1
        return count

    def close(self) -> None:
        """Unmap the run page, and close the vCPU."""
        self.page.close()
        os.close(self.fd)
