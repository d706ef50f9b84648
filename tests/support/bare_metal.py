"""A VM of the project's own classes, for guests of :mod:`support.guest_code`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.vmm.arch.host import find_architecture
from slipway.vmm.bus import Bus
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.memory import GuestMemory
from slipway.vmm.vcpu_thread import Ending, VcpuThread
from support.guest_code import CODE, DATA, DONE, IS_ARM, write_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from slipway.vmm.devices.model import Device
    from slipway.vmm.kvm.vcpu import Vcpu
    from support.assembler import Assembler

MEMORY = 4 << 20
# Seconds. Nothing waits for it but a test that fails; in the lab all is slow.
PATIENCE = 60.0


def open_files() -> int:
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Recorder:
    """A device that keeps each access as (verb, offset, size, value), and reads ``answers``."""

    def __init__(self, answers: Iterable[int] = ()) -> None:
        self.seen: list[tuple[str, int, int, int]] = []
        self._answers = iter(answers)

    def read(self, offset: int, size: int) -> int:
        value = next(self._answers, 0) & (1 << 8 * size) - 1
        self.seen.append(("read", offset, size, value))
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append(("write", offset, size, value))

    @property
    def written(self) -> list[int]:
        """The values of the writes."""
        return [value for verb, _, _, value in self.seen if verb == "write"]


class _Done:
    def __init__(self, machine: BareMetal) -> None:
        self._machine = machine

    def read(self, offset: int, size: int) -> int:
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        self._machine.end(Ending("done", wanted=True))


class BareMetal:
    """A VM of the project's own classes around ``code``; a test adds devices to its ``bus``."""

    def __init__(self, code: Assembler, cpus: int = 1, memory: int = MEMORY) -> None:
        self.arch = arch = find_architecture()
        self.bus = Bus()
        self.add_port(DONE, 1, _Done(self))
        self.lock = threading.Lock()
        self.endings: list[Ending] = []
        self.ended = threading.Event()
        self.kvm = Kvm()
        self.memory = GuestMemory(arch.place_memory(memory))
        self.vm = self.kvm.create_vm(arch.find_machine_type(self.kvm))
        for slot, region in enumerate(self.memory.regions):
            host_address = self.memory.host_address + region.offset
            self.vm.set_memory(slot, region.address, region.size, host_address)
        arch.create_interrupts(self.vm)
        write_tables(self.memory, code)
        self.memory.write(CODE, code.build())
        self.vcpus = [self.vm.create_vcpu(number) for number in range(cpus)]
        arch.connect_vcpus(self.vm, self.vcpus)
        for vcpu in self.vcpus:
            arch.prepare_vcpu(self.kvm, vcpu, cpus, CODE)
        self.threads = [VcpuThread(v, self.bus, self.lock, self.end) for v in self.vcpus]

    def add_port(self, port: int, size: int, device: Device) -> None:
        """Attach a device at a port, which aarch64 has as an address."""
        if IS_ARM:
            self.bus.add_memory(port, size, device)
        else:
            self.bus.add_port(port, size, device)

    def coalesce(self, port: int, write: Callable[[bytes], None]) -> None:
        """Let KVM collect writes to a port, for ``write``."""
        self.bus.add_burst(port, write)
        if IS_ARM:
            self.vm.coalesce_memory(port, 1)
        else:
            self.vm.coalesce_port(port)

    @property
    def vcpu(self) -> Vcpu:
        """The first vCPU."""
        return self.vcpus[0]

    @property
    def thread(self) -> VcpuThread:
        """The first vCPU's thread."""
        return self.threads[0]

    def end(self, ending: Ending) -> None:
        """The guest is done, or a vCPU has ended."""
        self.endings.append(ending)
        self.ended.set()

    def start(self) -> Self:
        """Let the vCPUs run."""
        for thread in self.threads:
            thread.start()
        return self

    def wait(self) -> Ending:
        """Until something has ended; stops the vCPUs, and returns what ended first."""
        in_time = self.ended.wait(PATIENCE)
        for thread in self.threads:
            thread.stop()
        assert in_time, "\n".join(self.arch.describe_vcpu(self.vcpu, self.memory))
        return self.endings[0]

    def run(self) -> Ending:
        """Start, and wait."""
        return self.start().wait()

    def number(self, address: int = DATA, size: int = 8) -> int:
        """What the guest has at an address."""
        return int.from_bytes(self.memory.read(address, size), "little")

    def interrupt_on(self, line: int) -> int:
        """An eventfd that gives interrupt line ``line`` an edge."""
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.vm.pulse_on(descriptor, line)
        return descriptor

    def close(self) -> None:
        """Stop the vCPUs and give everything back."""
        for thread in self.threads:
            thread.stop()
        for vcpu in self.vcpus:
            vcpu.close()
        self.vm.close()
        self.kvm.close()
        self.memory.close()
