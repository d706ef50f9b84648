"""A VM as a whole: memory, devices, bus and vCPUs of one machine, put together."""

from __future__ import annotations

import os
import threading
import time

from slipway.vmm import arch
from slipway.vmm.bus import Bus
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.link import AgentLink, ConsoleLink
from slipway.vmm.memory import GuestMemory
from slipway.vmm.record import record
from slipway.vmm.vcpu import Ending, VcpuThread, accept_kicks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.devices.model import Trigger
    from slipway.vmm.kvm.vm import Vm

CONSOLE = 0
AGENT = 1


@record
class Spec:
    """What a VM is made of; ``memory`` in bytes.

    ``virtio``: the agent's port is a virtio console, else the second UART.
    """

    kernel: str
    initramfs: Sequence[str]
    memory: int
    command_line: str
    cpus: int = 1
    virtio: bool = True


class MicroVm:
    """Owns everything of one VM; ``ended`` is an eventfd that tells of its end.

    ``agent`` and ``console`` are descriptors of stream sockets.
    """

    def __init__(self, spec: Spec, agent: int, console: int) -> None:
        """Make the VM up to where its vCPUs may start.

        Raises:
            InputError: what it shall boot is not fit to be booted.
            HostError: this host cannot run it.
        """
        self.lock = threading.Lock()
        self.ended = os.eventfd(0, os.EFD_CLOEXEC)
        self.ending: Ending | None = None
        self.link = AgentLink(agent)
        self._arch = arch.of_host()
        self._bus = Bus()
        self._console = ConsoleLink(console)
        self._kvm = Kvm()
        self._memory = GuestMemory(self._arch.memory_regions(spec.memory))
        self._vm = self._kvm.create_vm(self._arch.MACHINE_TYPE)
        for slot, region in enumerate(self._memory.regions):
            host_address = self._memory.host_address + region.offset
            self._vm.set_memory(slot, region.address, region.size, host_address)
        self._arch.create_interrupts(self._vm)
        self._attach(spec)
        plan = arch.Plan(
            spec.command_line,
            spec.cpus,
            serials=1 if spec.virtio else 2,
            virtio=int(spec.virtio),
        )
        entry = self._arch.load(self._memory, spec.kernel, spec.initramfs, plan)
        vcpus = [self._vm.create_vcpu(number) for number in range(spec.cpus)]
        for vcpu in vcpus:
            self._arch.prepare_vcpu(self._kvm, vcpu, spec.cpus, entry)
        self._threads = [VcpuThread(v, self._bus, self.lock, self._end) for v in vcpus]

    def _attach(self, spec: Spec) -> None:
        from slipway.vmm.devices.uart import Uart

        vm, bus = self._vm, self._bus
        console = Uart(self._trigger(vm, self._arch.serial_line(CONSOLE)), self._console)
        self._arch.attach_serial(vm, bus, CONSOLE, console)
        if spec.virtio:
            from slipway.vmm.devices.virtio_console import VirtioConsole

            trigger = self._trigger(vm, self._arch.virtio_line(0))
            console_port = VirtioConsole(self._memory, trigger, self.link)
            self._arch.attach_virtio(bus, 0, console_port)
            self.link.port = console_port
        else:
            uart = Uart(self._trigger(vm, self._arch.serial_line(AGENT)), self.link)
            self._arch.attach_serial(vm, bus, AGENT, uart)
            self.link.port = uart
        self._arch.attach_board(bus, self._reset, time.time)

    @staticmethod
    def _trigger(vm: Vm, line: int) -> Trigger:
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        vm.pulse_on(descriptor, line)
        write = os.eventfd_write
        return lambda: write(descriptor, 1)

    def _reset(self) -> None:
        self._end(Ending("the guest ended by itself", wanted=True))

    def _end(self, ending: Ending) -> None:
        """The first end is the one that counts; the others follow from it."""
        if self.ending is None:
            self.ending = ending
            os.eventfd_write(self.ended, 1)

    def start(self) -> None:
        """Let the vCPUs run; from the main thread."""
        accept_kicks()
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Stop all vCPUs; waits until they stand still."""
        for thread in self._threads:
            thread.pause()

    def resume(self) -> None:
        """Let all vCPUs go on."""
        for thread in self._threads:
            thread.resume()

    def stop(self) -> None:
        """End all vCPUs for good."""
        for thread in self._threads:
            thread.stop()

    def agent_ready(self) -> None:
        """The agent's socket has become readable or writable."""
        with self.lock:
            self.link.ready()

    def describe(self) -> list[str]:
        """Registers and instruction bytes of all vCPUs, which stand still, in lines."""
        lines = []
        for thread in self._threads:
            lines += self._arch.describe_vcpu(thread.vcpu, self._memory)
        return lines

    def exits(self) -> list[str]:
        """How often the vCPUs came out of KVM_RUN, and what for, in lines; the most frequent first.

        Each line is a count and a place: ``out 0x3f8``, ``read 0xd0000000``, ...
        """
        with self.lock:
            total = sum(sum(thread.exits.values()) for thread in self._threads)
            places = sorted(self._bus.counts.items(), key=lambda item: -item[1])
        words = {(True, True): "out", (True, False): "in", (False, True): "write"}
        lines = [f"{total} exits, {self._bus.unknown} for no device"]
        for (is_port, is_write, address), count in places:
            lines.append(f"{count} {words.get((is_port, is_write), 'read')} {address:#x}")
        return lines
