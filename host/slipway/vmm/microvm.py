"""VM as a whole: memory, devices, bus and vCPUs, put together."""

from __future__ import annotations

import os
import threading
import time

from slipway._util.errors import HostError
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.backends import ConsoleBackend, SocketBackend
from slipway.vmm.boot_template import BootMapping
from slipway.vmm.bus import Bus
from slipway.vmm.devices.uart import Uart
from slipway.vmm.devices.virtio_console import VirtioConsole
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.loader import load_files
from slipway.vmm.memory import GuestMemory
from slipway.vmm.snapshot.vm_state import StateSaver
from slipway.vmm.spec import PORTS, SERIAL, VIRTIO, Plan
from slipway.vmm.vcpu_thread import Ending, VcpuThread, accept_kicks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.arch.model import Stateful
    from slipway.vmm.devices.model import Trigger
    from slipway.vmm.devices.virtio_net import VirtioNet
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.pages import Range
    from slipway.vmm.snapshot.state_file import Saved
    from slipway.vmm.spec import BootSpec, BootTemplate, VmConfig

CONSOLE = 0
AGENT = 1


class MicroVm:
    """Owner of all parts of one VM; the eventfd ``ended`` is written at its end.

    ``sockets`` are the descriptors of a stream socket for the console, of another for each device
    of the agent's port, and if the configuration has a network, of the machine's end of a link.
    """

    def __init__(
        self,
        config: VmConfig,
        sockets: Sequence[int],
        memory: GuestMemory | None = None,
    ) -> None:
        """Make a VM that is then booted or restored; ``memory`` may have its content already.

        Raises:
            HostError: this host cannot run the VM.
        """
        console, *rest = sockets
        self.lock = threading.Lock()
        self.ended = os.eventfd(0, os.EFD_CLOEXEC)
        self.ending: Ending | None = None
        # By device of the agent's port.
        self.backends = {device: SocketBackend(rest.pop(0)) for device in PORTS[config.port]}
        self._config = config
        self._arch = find_architecture()
        self._bus = Bus()
        self._console = ConsoleBackend(console)
        self._kvm = Kvm()
        self._memory = memory or GuestMemory(self._arch.place_memory(config.memory_bytes))
        self._vm = self._kvm.create_vm(self._arch.find_machine_type(self._kvm))
        for slot, region in enumerate(self._memory.regions):
            host_address = self._memory.host_address + region.offset
            self._vm.set_memory(slot, region.address, region.size, host_address)
        self._arch.create_interrupts(self._vm)
        self._vcpus = [self._vm.create_vcpu(number) for number in range(config.cpus)]
        self._arch.connect_vcpus(self._vm, self._vcpus)
        self._boot_mapping: BootMapping | None = None
        self._devices: dict[str, Stateful] = {}
        self._triggers: dict[str, Trigger] = {}
        self._attach()
        self.network = self._attach_network(rest[0]) if config.network else None
        self._threads = [VcpuThread(v, self._bus, self.lock, self._end) for v in self._vcpus]
        # Before the confinement, like all objects.
        self._saver = StateSaver(
            self._arch, self._kvm, self._vm, self._vcpus, self._devices, self._memory
        )

    def boot(self, spec: BootSpec) -> None:
        """Load the files of ``spec`` into memory, and bring the vCPUs to the kernel's entry.

        Raises:
            InputError: a file cannot be booted.
            HostError: KVM refuses a call.
        """
        config = self._config
        plan = Plan(
            spec.command_line,
            config.cpus,
            serials=1 + (SERIAL in self.backends),
            virtio=(VIRTIO in self.backends) + config.network,
        )
        template = spec.template
        if template is None:
            entry, initramfs = load_files(self._arch, self._memory, spec)
        else:
            entry, initramfs = self._use_template(template)
        self._arch.write_tables(self._memory, plan, initramfs)
        for vcpu in self._vcpus:
            self._arch.prepare_vcpu(self._kvm, vcpu, config.cpus, entry)

    def _use_template(self, template: BootTemplate) -> tuple[int, Range]:
        """Copy the kernel of ``template``, and put its initramfs beside the memory.

        Return the kernel's entry, and the initramfs's address and size.
        """
        mapping = BootMapping(template)
        mapping.copy_kernel(self._memory)
        size = template.initramfs[1]
        address = self._arch.find_initramfs_place(self._memory.size, size)
        assert address is not None
        slot = len(self._memory.regions)
        self._vm.set_memory(slot, address, size, mapping.initramfs_address, is_read_only=True)
        self._boot_mapping = mapping
        return template.entry, (address, size)

    def restore(self, saved: Saved) -> None:
        """Restore all but the memory, which is mapped already, from ``saved``.

        Raises:
            HostError: the state is not of this host or VM.
        """
        self._memory.populate(saved.working_set)
        for name in self._saver.restore(saved):
            self._triggers[name]()
        for backend in self.backends.values():
            if backend.port is not None:
                backend.port.drain()
        if self.network is not None:
            self.network.ready(readable=True)

    def _attach(self) -> None:
        vm, bus = self._vm, self._bus
        trigger = self._create_trigger(vm, self._arch.find_serial_line(CONSOLE))
        wide = self._arch.HAS_WIDE_FIFOS
        console = Uart(trigger, self._console, has_wide_fifo=wide)
        self._arch.attach_serial(vm, bus, CONSOLE, console)
        self._triggers["console"] = trigger
        self._devices["console"] = console
        for name, backend in self.backends.items():
            self._attach_port(name, backend)
        self._devices |= self._arch.attach_board(bus, self._on_reset, time.time)

    def _attach_port(self, name: str, backend: SocketBackend) -> None:
        """Attach the device ``name`` of the agent's port."""
        port: VirtioConsole | Uart
        if name == VIRTIO:
            trigger = self._create_trigger(self._vm, self._arch.find_virtio_line(0))
            port = VirtioConsole(self._memory, trigger, backend)
            self._arch.attach_virtio(self._bus, 0, port)
        else:
            trigger = self._create_trigger(self._vm, self._arch.find_serial_line(AGENT))
            port = Uart(trigger, backend, has_wide_fifo=self._arch.HAS_WIDE_FIFOS)
            self._arch.attach_serial(self._vm, self._bus, AGENT, port)
        self._triggers[name] = trigger
        backend.port = self._devices[name] = port

    def _attach_network(self, descriptor: int) -> VirtioNet:
        """Attach a network device behind the other virtio devices."""
        # Most machines have no network, and save the time of the import.
        from slipway.vmm.devices.virtio_net import VirtioNet

        number = int(VIRTIO in self.backends)
        trigger = self._create_trigger(self._vm, self._arch.find_virtio_line(number))
        device = VirtioNet(self._memory, trigger, descriptor)
        self._arch.attach_virtio(self._bus, number, device)
        self._triggers["network"] = trigger
        self._devices["network"] = device
        return device

    @staticmethod
    def _create_trigger(vm: Vm, line: int) -> Trigger:
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        vm.pulse_on(descriptor, line)
        write = os.eventfd_write
        return lambda: write(descriptor, 1)

    def _on_reset(self) -> None:
        self._end(Ending("the guest ended by itself", wanted=True))

    def _end(self, ending: Ending) -> None:
        """Keep the first ending; later ones follow from it."""
        if self.ending is None:
            self.ending = ending
            os.eventfd_write(self.ended, 1)

    def start(self) -> None:
        """Start the vCPUs; called by the main thread."""
        accept_kicks()
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Stop all vCPUs, and wait until they stand still."""
        for thread in self._threads:
            thread.pause()

    def resume(self) -> None:
        """Let all vCPUs continue."""
        for thread in self._threads:
            thread.resume()

    def stop(self) -> None:
        """End all vCPUs for good."""
        for thread in self._threads:
            thread.stop()

    @property
    def is_line_closed(self) -> bool:
        """True if the parent has closed its ends of all lines to the agent; False without any."""
        backends = self.backends.values()
        return bool(backends) and all(backend.ended for backend in backends)

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory."""
        return self._memory

    def save(self, channel: int) -> None:
        """Stop the vCPUs, and write the state of the VM to ``channel``.

        Raises:
            HostError: the guest has ended, or bytes are on their way to or from the agent.
        """
        self.pause()
        with self.lock:
            if self.ending is not None or self.is_line_closed:
                raise HostError("the guest has ended")
            if not all(backend.ended or backend.quiet for backend in self.backends.values()):
                raise HostError("bytes are on their way to or from the agent")
            self._saver.save(self._config, channel)

    def on_agent_ready(self, descriptor: int) -> None:
        """Continue after ``descriptor`` of a backend became readable or writable."""
        with self.lock:
            for backend in self.backends.values():
                if backend.descriptor == descriptor:
                    backend.ready()

    def on_network_ready(self, *, readable: bool) -> None:
        """Continue after the network's socket became ``readable``, or writable, or both."""
        assert self.network is not None
        with self.lock:
            self.network.ready(readable=readable)

    def describe(self) -> list[str]:
        """Return registers and instruction bytes of all vCPUs, which stand still, in lines."""
        lines = []
        for thread in self._threads:
            lines += self._arch.describe_vcpu(thread.vcpu, self._memory)
        return lines

    def count_exits(self) -> list[str]:
        """Return the number of exits, and their causes, the most frequent first.

        Each line but the first is a count and a place: ``out 0x3f8``, ``read 0xd0000000``, ...
        """
        with self.lock:
            total = sum(sum(thread.exits.values()) for thread in self._threads)
            places = sorted(self._bus.counts.items(), key=lambda item: -item[1])
        words = {(True, True): "out", (True, False): "in", (False, True): "write"}
        lines = [f"{total} exits, {self._bus.unknown} for no device"]
        for (is_port, is_write, address), count in places:
            lines.append(f"{count} {words.get((is_port, is_write), 'read')} {address:#x}")
        return lines
