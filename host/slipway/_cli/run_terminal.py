"""Our terminal while a program with ``slipway run --tty`` has it."""

from __future__ import annotations

import os
import signal
import termios
import tty
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from slipway._cli.port_report import report_ports
from slipway._model.options import Tty
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway._model.published_ports import PublishedPort
    from slipway._run.job_report import PhaseReport
    from slipway_protocol.messages import Phase


def read_terminal_size() -> Tty:
    """Return the size of our terminal, or the default size if it is unknown."""
    for descriptor in range(3):
        try:
            size = os.get_terminal_size(descriptor)
            return Tty(size.lines, size.columns)
        except (OSError, InputError):  # not a terminal, or of unknown size
            continue
    return Tty()


class SignalHandlers(Protocol):
    """Handlers of signals: an event loop, or the gate of a command without one."""

    def add_signal_handler(self, sig: int, callback: Callable[[], object], /) -> None:
        """Call ``callback`` at the signal ``sig``."""
        ...

    def remove_signal_handler(self, sig: int, /) -> object:
        """Restore the default effect of the signal ``sig``."""
        ...


class LocalTerminal:
    """Terminal of the caller on stdin: in raw mode while it is lent to the program.

    Each typed byte, Ctrl-C included, then goes to the program's terminal, which echoes and edits.
    ``resize`` is called with each new size, as ``signals`` report it.
    """

    def __init__(self, resize: Callable[[Tty], object], signals: SignalHandlers) -> None:
        self._resize = resize
        self._signals = signals
        self._saved: list[Any] | None = None

    @contextmanager
    def follow_size(self) -> Iterator[LocalTerminal]:
        """Follow the size of the terminal, and restore its mode at the end."""
        self._signals.add_signal_handler(signal.SIGWINCH, self._on_resize)
        self._signals.add_signal_handler(signal.SIGTSTP, self._suspend)
        try:
            yield self
        finally:
            self.give_back()
            self._signals.remove_signal_handler(signal.SIGTSTP)
            self._signals.remove_signal_handler(signal.SIGWINCH)

    def take(self) -> None:
        """Lend the terminal to the program: set raw mode."""
        if self._saved is None and os.isatty(0):
            with suppress(termios.error):
                saved = termios.tcgetattr(0)
                tty.setraw(0, termios.TCSADRAIN)
                self._saved = saved

    def give_back(self) -> None:
        """Restore the mode of the terminal; a second call has no effect."""
        if self._saved is not None:
            saved, self._saved = self._saved, None
            with suppress(termios.error):  # hung up
                termios.tcsetattr(0, termios.TCSADRAIN, saved)

    def _on_resize(self) -> None:
        self._resize(read_terminal_size())

    def _suspend(self) -> None:
        """Stop this process, with the terminal in its normal mode."""
        had = self._saved is not None
        self.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        if had:
            self.take()


class PhaseObserver:
    """Observer of a run that lends ``terminal`` to the program while it runs.

    During boot and build, Ctrl-C ends this command.
    """

    def __init__(self, terminal: LocalTerminal) -> None:
        self._terminal = terminal

    def on_booted(self, hypervisor: str, ports: tuple[PublishedPort, ...]) -> None:
        """Report the published ports; no program runs yet."""
        report_ports(ports)

    def on_phase_started(self, phase: Phase) -> None:
        """Lend the terminal to a program that has begun; its build gets none."""
        if phase.name == "RUN":
            self._terminal.take()

    def on_phase_ended(self, phase: Phase, report: PhaseReport) -> None:
        """Take it back: the phase has ended, and all of its output has been written."""
        self._terminal.give_back()

    def on_job_done(self) -> None:
        """Do nothing: output may still have to be written."""
