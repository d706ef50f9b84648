"""Run loop: one thread for each vCPU, which runs the guest and passes exits to devices."""

from __future__ import annotations

import errno
import signal
import threading

from slipway.vmm.kvm import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from slipway.vmm.bus import Bus
    from slipway.vmm.kvm.vcpu import Vcpu

# Signal that interrupts KVM_RUN; flags of the vCPU say why.
KICK = signal.SIGUSR1

_io = abi.EXIT_IO.unpack_from
_mmio = abi.EXIT_MMIO.unpack_from
_AT = abi.EXIT_UNION_OFFSET
_DATA_AT = abi.MMIO_DATA_OFFSET
_IO, _MMIO = abi.EXIT_IO_REASON, abi.EXIT_MMIO_REASON
_OUT = abi.IO_OUT


class Ending:
    """Reason why a vCPU does not run again; ``wanted``: the guest requested its end."""

    __slots__ = ("text", "wanted")

    def __init__(self, text: str, *, wanted: bool = False) -> None:
        self.text = text
        self.wanted = wanted


def accept_kicks() -> None:
    """Let :data:`KICK` interrupt system calls without further effect; main thread, once."""
    signal.signal(KICK, lambda number, frame: None)


class VcpuThread:
    """Thread that runs ``vcpu`` until its end, and then calls ``on_end``, unless it was stopped.

    ``lock`` is held while devices work, since they know nothing of threads.
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
        # Held for a signal: pthread_kill to a thread that has ended has undefined effects.
        self._kicking = threading.Lock()
        self._kickable = False
        self._thread = threading.Thread(
            target=self._run_thread, name=f"vcpu{vcpu.number}", daemon=True
        )

    def start(self) -> None:
        """Start to run the vCPU."""
        self._thread.start()

    def pause(self) -> None:
        """Stop between two instructions, after the effects of an exit, and wait for that."""
        self._go.clear()
        self._kick()
        while not self._parked.wait(0.05):
            if not self._thread.is_alive():
                return

    def resume(self) -> None:
        """Continue after :meth:`pause`."""
        self._go.set()

    def stop(self) -> None:
        """End the thread for good; called by another thread."""
        self._stopping = True
        self._kick()
        self._go.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _kick(self) -> None:
        # The flag first: a signal that comes before KVM_RUN does not interrupt KVM_RUN.
        self.vcpu.set_immediate_exit(True)
        with self._kicking:
            if self._kickable and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, KICK)

    def _park(self) -> bool:
        """Wait while paused, after an interruption; return True to continue."""
        # Cleared before the other flags are read: a thread that sets one later sets this again.
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
            # A fault of the VMM must not leave a stopped guest without a report.
            ending = Ending(f"a fault of the VMM's own: {type(error).__name__}: {error}")
        finally:
            with self._kicking:
                self._kickable = False
        if ending is not None:
            self._on_end(ending)

    def _run(self) -> Ending | None:
        vcpu, bus, lock, exits = self.vcpu, self._bus, self._lock, self.exits
        page, run, take_coalesced = vcpu.page, vcpu.run, vcpu.take_coalesced
        read_port, write_port = bus.read_port, bus.write_port
        while True:
            try:
                reason = run()
            except InterruptedError:
                # Coalesced writes do not wait for the next exit, which may be far.
                with lock:
                    bus.write_coalesced(take_coalesced())
                if self._park():
                    continue
                return None
            except BlockingIOError:
                continue  # the start-up interrupt of this vCPU has come
            except OSError as error:
                # A guest's last output says the most about its end.
                with lock:
                    bus.write_coalesced(take_coalesced())
                return _explain_error(error)
            exits[reason] = exits.get(reason, 0) + 1
            with lock:
                if writes := take_coalesced():
                    bus.write_coalesced(writes)
                if reason == _IO:
                    direction, size, port, count, offset = _io(page, _AT)
                    if size == count == 1:
                        if direction == _OUT:
                            write_port(port, 1, page[offset])
                        else:
                            page[offset] = read_port(port, 1)
                    elif direction == _OUT:
                        for at in range(offset, offset + size * count, size):
                            value = int.from_bytes(page[at : at + size], "little")
                            write_port(port, size, value)
                    else:
                        for at in range(offset, offset + size * count, size):
                            value = read_port(port, size)
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


def _explain_error(error: OSError) -> Ending:
    """Return the ending that follows from a failure of KVM_RUN.

    ENOSYS is that of aarch64 (io_mem_abort in arch/arm64/kvm/mmio.c): the processor does not tell
    KVM which value an instruction reads from or writes to an address without memory.
    """
    if error.errno == errno.ENOSYS:
        return Ending(
            "KVM cannot run an instruction of the guest's: it is not one that reads or writes"
            " a single register of a device"
        )
    return Ending(f"KVM_RUN failed: {error.strerror}")


def _explain_exit(page: mmap.mmap, reason: int) -> Ending | None:
    """Return the ending that follows from an exit without a device; None if the guest continues."""
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
    return Ending(f"an exit that this machine does not support: {name} ({reason})")
