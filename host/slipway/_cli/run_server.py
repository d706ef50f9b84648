"""``slipway run --api-sock``: the same on a server, which has the machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.run_arguments import read_source
from slipway._cli.run_streams import StandardOutput, no_input, standard_input
from slipway._cli.terminal import Progress, run_interruptible
from slipway._model.errors import InputError
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
from slipway._remote.client import AsyncClient, language_of_suffix

if TYPE_CHECKING:
    import argparse

    from slipway._cli.run_terminal import LocalTerminal
    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from slipway._model.options import Options, Tty
    from slipway._model.result import Result


def run_on_server(parsed: argparse.Namespace, options: Options) -> Result:
    """Run it on the server at ``--api-sock``.

    Raises:
        SlipwayError: nothing could be run.
    """
    local = [option.name for option in OPTIONS.values() if option.local]
    for name in ("store", "cold", *local):
        if getattr(parsed, name):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} says nothing to a server, which has its own machines",
                f"Leave out {flag} or --api-sock.",
            )
    source = read_source(parsed)
    result: Result = run_interruptible(lambda: _run(parsed, source, options))
    return result


async def _run(parsed: argparse.Namespace, source: bytes, options: Options) -> Result:
    async with AsyncClient(parsed.api_sock) as client:
        language = parsed.language or language_of_suffix(
            Path(parsed.source), await client.languages()
        )
        fields = {name: getattr(options, name) for name in OPTIONS}
        stdin = no_input() if parsed.source == "-" else standard_input()
        async with await client.start(source, language, stdin=stdin, **fields) as execution:
            if not parsed.tty or parsed.json:
                return await _follow(execution, streaming=not parsed.json)
            return await _in_terminal(execution)


async def _in_terminal(execution: AsyncExecution) -> Result:
    """Follow it with our terminal lent to the program while that runs."""
    from slipway._cli.run_terminal import LocalTerminal

    async def resize(size: Tty) -> None:
        await execution.resize(size.rows, size.columns)

    with LocalTerminal(resize).lent() as terminal:
        return await _follow(execution, streaming=True, terminal=terminal)


async def _follow(
    execution: AsyncExecution, *, streaming: bool, terminal: LocalTerminal | None = None
) -> Result:
    progress = Progress()
    output = StandardOutput()
    try:
        async for event in execution:
            _show(progress, event)
            if terminal is not None:
                _lend(terminal, event)
            if isinstance(event, Output):
                await output.write(event.phase, event.stream, event.data)
            elif isinstance(event, Ended):
                return event.result
            elif isinstance(event, Started) and not streaming:
                break
        return await execution.wait()
    finally:
        progress.done()


def _lend(terminal: LocalTerminal, event: Event) -> None:
    match event:
        case PhaseStarted(phase="run"):
            terminal.take()
        case PhaseEnded():
            terminal.give_back()


def _show(progress: Progress, event: Event) -> None:
    match event:
        case Queued(position=0):
            progress("waiting for room on the server: this run is next")
        case Queued(position=position):
            progress(f"waiting for room on the server: {position} runs come before this one")
        case Preparing(detail=detail):
            progress(detail)
        case Started():
            progress.done()
