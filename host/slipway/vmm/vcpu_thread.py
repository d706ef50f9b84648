"""The run loop: one thread for each vCPU, from KVM_RUN to the device that its exit is for."""

from __future__ import annotations

import signal
import threading

from slipway.vmm.kvm import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from slipway.vmm.bus import Bus
    from slipway.vmm.kvm.vcpu import Vcpu

# Interrupts KVM_RUN; what it means is in the vCPU's flags.
KICK = signal.SIGUSR1

_io = abi.EXIT_IO.unpack_from
_mmio = abi.EXIT_MMIO.unpack_from
_AT = abi.EXIT_UNION_OFFSET
_DATA_AT = abi.MMIO_DATA_OFFSET
_IO, _MMIO = abi.EXIT_IO_REASON, abi.EXIT_MMIO_REASON


class Ending:
    """Why a vCPU will not run again. ``wanted``: the guest asked for it in the proper way."""

    __slots__ = ("text", "wanted")

    def __init__(self, text: str, *, wanted: bool = False) -> None:
        self.text = text
        self.wanted = wanted


def accept_kicks() -> None:
    """Let :data:`KICK` interrupt a system call and do nothing else; in the main thread, once."""
    signal.signal(KICK, lambda number, frame: None)


class VcpuThread:
    """Runs ``vcpu`` until it ends; ``on_end`` is then called in its thread, unless it is stopped.

    ``lock`` is held while devices work: they know nothing of threads.
    """

    def __init__(
        self, vcpu: Vcpu, bus: Bus, lock: threading.Lock, on_end: Callable[[Ending], None]
    ) -> None:
        self.vcpu = vcpu
        self.exits: dict[int, int] = {}
        self._bus = bus
        self._lock = lock
        self._on_end = on_end
        self._go = threading.Event()
        self._go.set()
        self._parked = threading.Event()
        self._stopping = False
        # A signal to a thread that is gone would go to memory that is somebody else's by now.
        self._kicking = threading.Lock()
        self._kickable = False
        self._thread = threading.Thread(
            target=self._run_thread, name=f"vcpu{vcpu.number}", daemon=True
        )

    def start(self) -> None:
        """Begin to run."""
        self._thread.start()

    def pause(self) -> None:
        """Stop between two instructions, after what an exit began is complete; waits for that."""
        self._go.clear()
        self._kick()
        while not self._parked.wait(0.05):
            if not self._thread.is_alive():
                return

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._go.set()

    def stop(self) -> None:
        """End the thread for good; from another thread."""
        self._stopping = True
        self._kick()
        self._go.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _kick(self) -> None:
        # The flag first: a signal that comes before KVM_RUN does not interrupt it.
        self.vcpu.set_immediate_exit(True)
        with self._kicking:
            if self._kickable and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, KICK)

    def _park(self) -> bool:
        """After an interruption: wait while paused; whether to go on."""
        # Cleared before the flags are looked at: who sets them after that sets it again.
        self.vcpu.set_immediate_exit(False)
        if not self._go.is_set() and not self._stopping:
            self._parked.set()
            self._go.wait()
            self._parked.clear()
        return not self._stopping

    def _run_thread(self) -> None:
        self._kickable = True
        try:
            ending = self._run()
        except Exception as error:
            # A fault of ours must not leave a guest that stands still without a word.
            ending = Ending(f"a fault of the VMM's own: {type(error).__name__}: {error}")
        finally:
            with self._kicking:
                self._kickable = False
        if ending is not None:
            self._on_end(ending)

    def _run(self) -> Ending | None:
        vcpu, bus, lock, exits = self.vcpu, self._bus, self._lock, self.exits
        page, run, take_coalesced = vcpu.page, vcpu.run, vcpu.take_coalesced
        while True:
            try:
                reason = run()
            except InterruptedError:
                # What the guest has written does not wait for an exit that may be long in coming.
                with lock:
                    bus.write_coalesced(take_coalesced())
                if self._park():
                    continue
                return None
            except BlockingIOError:
                continue  # a vCPU that waited for its start-up interrupt has got it
            except OSError as error:
                return Ending(f"KVM_RUN failed: {error.strerror}")
            exits[reason] = exits.get(reason, 0) + 1
            with lock:
                if writes := take_coalesced():
                    bus.write_coalesced(writes)
                if reason == _IO:
                    direction, size, port, count, offset = _io(page, _AT)
                    if direction == abi.IO_OUT:
                        for at in range(offset, offset + size * count, size):
                            value = int.from_bytes(page[at : at + size], "little")
                            bus.write_port(port, size, value)
                    else:
                        for at in range(offset, offset + size * count, size):
                            value = bus.read_port(port, size)
                            page[at : at + size] = value.to_bytes(size, "little")
                    continue
                if reason == _MMIO:
                    address, data, size, is_write = _mmio(page, _AT)
                    if is_write:
                        bus.write_memory(address, size, int.from_bytes(data[:size], "little"))
                    else:
                        value = bus.read_memory(address, size)
                        page[_DATA_AT : _DATA_AT + size] = value.to_bytes(size, "little")
                    continue
            if (ending := _explain_exit(page, reason)) is not None:
                return ending


def _explain_exit(page: mmap.mmap, reason: int) -> Ending | None:
    """What an exit means that is no device's; None where the guest goes on."""
    kind = abi.ExitReason
    if reason in {kind.IRQ_WINDOW_OPEN, kind.INTR}:
        return None
    if reason == kind.SHUTDOWN:
        return Ending("the guest crashed: a triple fault")
    if reason == kind.HLT:
        return Ending("the guest halted, and nothing can wake it")
    if reason == kind.SYSTEM_EVENT:
        (event,) = abi.EXIT_SYSTEM_EVENT.unpack_from(page, _AT)
        if event in {abi.SystemEvent.SHUTDOWN, abi.SystemEvent.RESET}:
            return Ending("the guest ended by itself", wanted=True)
        return Ending("the guest's kernel reported a crash")
    if reason == kind.FAIL_ENTRY:
        (hardware,) = abi.EXIT_FAIL_ENTRY.unpack_from(page, _AT)
        return Ending(f"the processor refuses the guest's state (reason {hardware:#x})")
    if reason == kind.INTERNAL_ERROR:
        suberror, _ = abi.EXIT_INTERNAL.unpack_from(page, _AT)
        try:
            name = abi.InternalError(suberror).name.lower()
        except ValueError:
            name = str(suberror)
        return Ending(f"KVM cannot run an instruction of the guest's (internal error: {name})")
    try:
        name = abi.ExitReason(reason).name
    except ValueError:
        name = "unknown"
    return Ending(f"an exit that this machine does not know: {name} ({reason})")
