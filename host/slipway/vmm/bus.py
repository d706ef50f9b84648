"""Bus of a machine: finds the device of each port and memory-mapped register."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slipway.vmm.devices.model import Device

# Unknown addresses with a counter of their own; a guest may try all of them.
KEPT_UNKNOWN = 64


class Bus:
    """Dispatcher of accesses to devices, and their counter.

    Without a device, reads return all ones and writes vanish, as on a PC.

    ``counts`` has the accesses that ended KVM_RUN, by (is a port, is a write, address);
    ``unknown`` is the number of those without a device.
    """

    __slots__ = ("_bursts", "_kept", "_memory", "_ports", "counts", "unknown")

    def __init__(self) -> None:
        self._ports: dict[int, tuple[Device, int]] = {}
        self._memory: list[tuple[int, int, Device]] = []
        self._bursts: dict[int, Callable[[bytes], object]] = {}
        self.counts: dict[tuple[bool, bool, int], int] = {}
        self.unknown = 0
        self._kept = 0

    def add_port(self, first: int, count: int, device: Device) -> None:
        """Give ``device`` the ports from ``first`` on, ``count`` registers of one byte."""
        for offset in range(count):
            assert first + offset not in self._ports
            self._ports[first + offset] = (device, offset)

    def add_burst(self, address: int, burst: Callable[[bytes], object]) -> None:
        """Pass coalesced writes to a port or address to ``burst``, many at once."""
        self._bursts[address] = burst

    def add_memory(self, address: int, size: int, device: Device) -> None:
        """Give ``device`` the ``size`` bytes of registers from ``address`` on."""
        self._memory.append((address, address + size, device))

    def read_port(self, port: int, size: int) -> int:
        """Return the value that a guest reads; ``size`` is 1, 2 or 4 bytes."""
        # As _count(), without its call: each byte that comes into a UART is two reads.
        key = (True, False, port)
        counts = self.counts
        if key in counts:
            counts[key] += 1
        else:
            self._count(key)
        found = self._ports.get(port)
        if size == 1:
            if found is not None:
                return found[0].read(found[1], 1)
            self.unknown += 1
            return 0xFF
        if found is None:
            self.unknown += 1
        value = 0
        for part in range(size):  # registers are a byte wide; a wider access is several
            at = self._ports.get(port + part)
            value |= (0xFF if at is None else at[0].read(at[1], 1)) << 8 * part
        return value

    def write_port(self, port: int, size: int, value: int) -> None:
        """Write a value of a guest; ``size`` is 1, 2 or 4 bytes."""
        self._count((True, True, port))
        found = self._ports.get(port)
        if found is None:
            self.unknown += 1
        if size == 1:
            if found is not None:
                found[0].write(found[1], 1, value)
            return
        for part in range(size):
            at = self._ports.get(port + part)
            if at is not None:
                at[0].write(at[1], 1, value >> 8 * part & 0xFF)

    def read_memory(self, address: int, size: int) -> int:
        """Return the value that a guest reads outside of its RAM; ``size`` is 1 to 8 bytes."""
        self._count((False, False, address))
        for start, end, device in self._memory:
            if start <= address < end:
                return device.read(address - start, size)
        self.unknown += 1
        return (1 << 8 * size) - 1

    def write_memory(self, address: int, size: int, value: int) -> None:
        """Write a value of a guest outside of its RAM; ``size`` is 1 to 8 bytes."""
        self._count((False, True, address))
        for start, end, device in self._memory:
            if start <= address < end:
                device.write(address - start, size, value)
                return
        self.unknown += 1

    def write_coalesced(self, writes: Iterable[tuple[int, bytes]]) -> None:
        """Pass on writes that did not end KVM_RUN, in their order."""
        for address, data in writes:
            burst = self._bursts.get(address)
            if burst is not None:
                burst(data)

    def _count(self, key: tuple[bool, bool, int]) -> None:
        counts = self.counts
        if key in counts:
            counts[key] += 1
        elif self._has_device(key):
            counts[key] = 1
        elif self._kept < KEPT_UNKNOWN:
            self._kept += 1
            counts[key] = 1

    def _has_device(self, key: tuple[bool, bool, int]) -> bool:
        is_port, _, address = key
        if is_port:
            return address in self._ports
        # A device's window has as many keys as it has bytes.
        return any(start <= address < end for start, end, _ in self._memory)
