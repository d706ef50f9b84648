"""One vCPU of KVM: its run page and the ring of coalesced writes behind it."""

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
    """Owns the vCPU's descriptor and the mapping of its run page (``page``, struct kvm_run)."""

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
        """Run the guest until something ends it; returns the exit reason.

        Raises:
            InterruptedError: a signal came, or ``immediate_exit`` is set.
            OSError: KVM cannot run this vCPU.
        """
        _ioctl(self.fd, _RUN, 0)
        return self.page[_REASON_AT]  # no reason has more than one byte

    def set_immediate_exit(self, value: bool) -> None:
        """Have :meth:`run` come back at once, after it has completed what was under way."""
        self.page[abi.RUN_IMMEDIATE_EXIT_OFFSET] = value

    def take_coalesced(self) -> list[tuple[int, bytes]]:
        """Take what the ring holds: writes in their order, as (address, data).

        What follows on itself at one address is joined: a serial port's transmit register gets a
        FIFO's worth of writes. All vCPUs of a VM share the ring: a lock is needed around this.
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
        """How many entries from ``at`` on are writes of one byte to the same address."""
        page = self.page
        whole = (stop - at) // _SIZE
        # The usual case is that all are alike, and three slices tell, where a loop would take a
        # step an entry. The places that are coalesced differ in their lowest 16 bits.
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
        """Unmap and close."""
        self.page.close()
        os.close(self.fd)
