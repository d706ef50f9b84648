"""``slipway run --api-sock``: run one program on a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.port_report import report_ports
from slipway._cli.progress import Progress
from slipway._cli.run_arguments import read_source
from slipway._cli.run_streams import StandardOutput, read_nothing, read_stdin
from slipway._cli.terminal import run_interruptible
from slipway._model.events import (
    Ended,
    Output,
    PhaseEnded,
    PhaseStarted,
    Preparing,
    Queued,
    Started,
)
from slipway._model.options import OPTIONS
from slipway._remote.client import AsyncClient, find_language_by_suffix
from slipway._util.errors import InputError

if TYPE_CHECKING:
    import argparse

    from slipway._cli.run_terminal import LocalTerminal
    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from slipway._model.options import Options, Tty
    from slipway._model.result import Result


def run_on_server(parsed: argparse.Namespace, options: Options) -> Result:
    """Run a program on the server at ``--api-sock``.

    Raises:
        SlipwayError: the program could not be run.
    """
    local = [option.name for option in OPTIONS.values() if option.local]
    for name in ("store", "cold", *local):
        if getattr(parsed, name):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} is not available with --api-sock",
                f"Leave out {flag} or --api-sock.",
            )
    source = read_source(parsed)
    result: Result = run_interruptible(lambda: _run_source(parsed, source, options))
    return result


async def _run_source(parsed: argparse.Namespace, source: bytes, options: Options) -> Result:
    async with AsyncClient(parsed.api_sock) as client:
        language = parsed.language or find_language_by_suffix(
            Path(parsed.source), await client.languages()
        )
        fields = {name: getattr(options, name) for name in OPTIONS}
        stdin = read_nothing() if parsed.source == "-" else read_stdin()
        async with await client.start(source, language, stdin=stdin, **fields) as execution:
            if not parsed.tty or parsed.json:
                return await _follow_events(execution, streaming=not parsed.json)
            return await _follow_in_terminal(execution)


async def _follow_in_terminal(execution: AsyncExecution) -> Result:
    """Follow the events, and lend the terminal to the program while it runs."""
    from slipway._cli.run_terminal import LocalTerminal

    async def resize(size: Tty) -> None:
        await execution.resize(size.rows, size.columns)

    with LocalTerminal(resize).follow_size() as terminal:
        return await _follow_events(execution, streaming=True, terminal=terminal)


async def _follow_events(
    execution: AsyncExecution, *, streaming: bool, terminal: LocalTerminal | None = None
) -> Result:
    progress = Progress()
    output = StandardOutput()
    try:
        async for event in execution:
            _show_event(progress, event)
            if terminal is not None:
                _lend_terminal(terminal, event)
            if isinstance(event, Output):
                await output.write(event.phase, event.stream, event.data)
            elif isinstance(event, Ended):
                return event.result
            elif isinstance(event, Started) and not streaming:
                break
        return await execution.wait()
    finally:
        progress.clear()


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
