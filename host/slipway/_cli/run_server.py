"""``slipway run --api-sock``: run one program on a server, without an event loop."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.port_report import report_ports
from slipway._cli.progress import Progress
from slipway._cli.run_arguments import read_source
from slipway._cli.signal_gate import SignalGate
from slipway._model.events import (
    Ended,
    Output,
    PhaseEnded,
    PhaseStarted,
    Preparing,
    Queued,
    Started,
)
from slipway._model.options import OPTIONS, check_source
from slipway._model.run_request import RunRequest
from slipway._remote.answers import DEFAULT_TIMEOUT, decode_languages, find_language_by_suffix
from slipway._remote.blocking_api import BlockingApi
from slipway._remote.blocking_run import BlockingRun
from slipway._remote.run_stream import STDIN_PIECE
from slipway._util.errors import HostError, InputError, SlipwayError, UnknownOutcome

if TYPE_CHECKING:
    import argparse

    from slipway._cli.run_terminal import LocalTerminal
    from slipway._model.events import Event
    from slipway._model.options import Options, Tty
    from slipway._model.result import Result

_DESCRIPTORS = {"stdout": 1, "stderr": 2}


def run_on_server(parsed: argparse.Namespace, options: Options) -> Result:
    """Run a program on the server at ``--api-sock``.

    Raises:
        SlipwayError: the program could not be run.
    """
    flag = find_local_option(parsed)
    if flag:
        raise InputError(
            f"{flag} is not available with --api-sock",
            f"Leave out {flag} or --api-sock.",
        )
    source = read_source(parsed)
    with SignalGate() as gate:
        api = BlockingApi(parsed.api_sock, DEFAULT_TIMEOUT, gate)
        run = ServerRun(api, gate)
        return run.follow(run.start(build_request(api, parsed, source, options)), parsed)


def find_local_option(parsed: argparse.Namespace) -> str:
    """Return the first given option that exists only for machines of this process, or nothing."""
    given = [name for name in ("store", "cold") if getattr(parsed, name)]
    given += [name for name in OPTIONS if _is_local(name, parsed)]
    return f"--{given[0].replace('_', '-')}" if given else ""


def _is_local(name: str, parsed: argparse.Namespace) -> bool:
    option = OPTIONS[name]
    return option.local and option.is_local_value(getattr(parsed, name))


def build_request(
    api: BlockingApi, parsed: argparse.Namespace, source: bytes, options: Options
) -> RunRequest:
    """Return the checked request; asks the server for the language of a suffix.

    Raises:
        SlipwayError: the request is invalid, or the server does not answer.
    """
    check_source(source)
    options.check("")  # only the server knows the name of the source's file
    language = parsed.language
    if language is None:
        known = decode_languages(api.request("GET", "/v1/languages"))
        language = find_language_by_suffix(Path(parsed.source), known)
    return RunRequest(source, language, options, b"" if parsed.source == "-" else None)


@dataclass(frozen=True, slots=True)
class ServerRun:
    """Run of a program on the server behind ``api``, with our streams and signals."""

    api: BlockingApi
    gate: SignalGate

    def start(self, request: RunRequest) -> BlockingRun:
        """Start the run; stdin has not been read.

        Raises:
            SlipwayError: the server refused, or is gone.
        """
        return BlockingRun.start(self.api, request)

    def follow(self, run: BlockingRun, parsed: argparse.Namespace) -> Result:
        """Follow a run to its end, and return its result, with the output for ``--json``.

        Raises:
            SlipwayError: the run failed.
            Interrupted: a signal was received; the run is cancelled.
        """
        with run:
            if parsed.source != "-":
                threading.Thread(target=_feed_stdin, args=(run,), daemon=True).start()
            if parsed.json:
                return self._collect(run)
            if parsed.tty:
                return self._follow_in_terminal(run)
            return self._follow_events(run, None)

    def _follow_in_terminal(self, run: BlockingRun) -> Result:
        """Follow the events, and lend the terminal to the program while it runs."""
        from slipway._cli.run_terminal import LocalTerminal

        def resize(size: Tty) -> None:
            with suppress(SlipwayError):  # the run reports the error itself
                run.resize(size.rows, size.columns)

        with LocalTerminal(resize, self.gate).follow_size() as terminal:
            return self._follow_events(run, terminal)

    def _follow_events(self, run: BlockingRun, terminal: LocalTerminal | None) -> Result:
        progress = Progress()
        try:
            while True:
                event = run.read_event()
                _show_event(progress, event)
                if terminal is not None:
                    _lend_terminal(terminal, event)
                if isinstance(event, Output):
                    self._write(event)
                elif isinstance(event, Ended):
                    return event.result
        finally:
            progress.clear()

    def _collect(self, run: BlockingRun) -> Result:
        """Return the result with all output."""
        captured: dict[tuple[str, str], bytearray] = {}
        progress = Progress()
        try:
            while not isinstance(event := run.read_event(), Ended):
                _show_event(progress, event)
                if isinstance(event, Output):
                    captured.setdefault((event.phase, event.stream), bytearray()).extend(event.data)
        except UnknownOutcome as error:
            error.stdout = bytes(captured.get(("run", "stdout"), b""))
            error.stderr = bytes(captured.get(("run", "stderr"), b""))
            raise
        finally:
            progress.clear()
        return event.result.with_output({key: bytes(data) for key, data in captured.items()})

    def _write(self, event: Output) -> None:
        """Write output of the program to ours; the program waits while ours is blocked.

        Raises:
            BrokenPipeError: the reader has closed the stream.
            HostError: the stream cannot be written.
        """
        try:
            self.gate.write(_DESCRIPTORS[event.stream], event.data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"cannot write to {event.stream}: {error.strerror}") from None


def _feed_stdin(run: BlockingRun) -> None:
    """Send our stdin to the program, in a thread: a read of a terminal may never return."""
    while True:
        try:
            data = os.read(0, STDIN_PIECE)
        except OSError:  # closed, or a directory: an empty stdin for the program
            data = b""
        if not run.write_stdin(data) or not data:
            return


def _lend_terminal(terminal: LocalTerminal, event: Event) -> None:
    match event:
        case PhaseStarted(phase="run"):
            terminal.take()
        case PhaseEnded():
            terminal.give_back()


def _show_event(progress: Progress, event: Event) -> None:
    match event:
        case Queued(position=0):
            progress("waiting in the queue of the server: next")
        case Queued(position=position):
            progress(f"waiting in the queue of the server: {position} runs before this one")
        case Preparing(detail=detail):
            progress(detail)
        case Started(ports=ports):
            progress.clear()
            report_ports(ports)
