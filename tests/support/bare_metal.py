"""A VM of the project's own classes, for guests of :mod:`support.machine_code`."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.vmm.arch.x86_64 import architecture as arch
from slipway.vmm.arch.x86_64 import boot, processor
from slipway.vmm.bus import Bus
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.memory import GuestMemory
from slipway.vmm.vcpu_thread import Ending, VcpuThread
from support.machine_code import CODE, DATA, DONE, IDT, IDT_ENTRIES, IDT_POINTER, VECTOR, gate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from slipway.vmm.kvm.vcpu import Vcpu
    from support.machine_code import Code

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

    def __init__(self, code: Code, cpus: int = 1, memory: int = MEMORY) -> None:
        self.bus = Bus()
        self.bus.add_port(DONE, 1, _Done(self))
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
        boot.write_tables(self.memory)
        self.memory.write(CODE, code.build())
        if code.has("handler"):
            self._write_idt(code.address("handler"))
        self.vcpus = [self.vm.create_vcpu(number) for number in range(cpus)]
        arch.connect_vcpus(self.vm, self.vcpus)
        for vcpu in self.vcpus:
            processor.prepare(self.kvm, vcpu, cpus, CODE)
        self.threads = [VcpuThread(v, self.bus, self.lock, self.end) for v in self.vcpus]

    def _write_idt(self, handler: int) -> None:
        entry = gate(handler)
        self.memory.write(IDT + VECTOR * len(entry), entry)
        self.memory.write(IDT_POINTER, struct.pack("<HQ", IDT_ENTRIES * len(entry) - 1, IDT))

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
        assert in_time, "\n".join(processor.describe(self.vcpu, self.memory))
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
