"""``slipway run``: one program in a machine of its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._cli.parsers import options_named
from slipway._cli.program import BEGAN
from slipway._cli.run_arguments import options_of, parse, parser, read_source
from slipway._cli.run_files import destinations, save
from slipway._cli.run_streams import StandardOutput, no_input, standard_input
from slipway._cli.terminal import (
    EXIT_MISSING,
    EXIT_TIMEOUT,
    Progress,
    emit,
    run_interruptible,
    say,
    split_arguments,
)
from slipway._model.errors import InputError, SlipwayError, UnknownOutcome

__all__ = ["command", "parser"]

if TYPE_CHECKING:
    import argparse

    from slipway._model.options import Options
    from slipway._model.result import Result
    from slipway._run.run import Run
    from slipway_initramfs.languages.catalogue import Language
    from slipway_initramfs.store.image_store import ImageStore


def command(arguments: list[str], prog: str) -> int:
    """Run and return the exit code.

    Raises:
        SlipwayError: nothing could be run.
    """
    ours, program_arguments = split_arguments(arguments)
    try:
        described = parser(prog)
        with options_named(described):
            return _command(parse(ours, described), tuple(program_arguments))
    except SlipwayError as error:
        if "--json" in ours:
            emit(json.dumps(_error_record(error)) + "\n")
        raise


def _command(parsed: argparse.Namespace, program_arguments: tuple[str, ...]) -> int:
    locals_of = destinations(parsed.outputs)
    options = options_of(parsed, program_arguments, tuple(locals_of))
    if parsed.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="slipway: %(name)s: %(message)s")
    if parsed.api_sock is not None:
        from slipway._cli.run_server import run_on_server

        result = run_on_server(parsed, options)
    else:
        result = _run_here(parsed, options)
    save(result.files, locals_of)
    if parsed.json:
        emit(json.dumps(result.record()) + "\n")
    else:
        _report(result, parsed.verbose)
    return exit_code(result)


def _run_here(parsed: argparse.Namespace, options: Options) -> Result:
    """Run it in a machine that this process starts."""
    from slipway._run.images import StoredImages
    from slipway._run.job_request import JobRequest
    from slipway._run.launcher import ColdLauncher
    from slipway._run.run import Run
    from slipway._run.slot import Slot, SlotContext
    from slipway._snapshots.launcher import SnapshotLauncher
    from slipway_initramfs.store.image_store import ImageStore

    store = ImageStore(parsed.store)
    launcher = ColdLauncher(store) if parsed.cold else SnapshotLauncher(store)
    language, source = _language(parsed, store), read_source(parsed)
    stdin = no_input() if parsed.source == "-" else standard_input()
    job = JobRequest(language, source, options, stdin)
    job.check()
    slot = Slot(SlotContext(StoredImages(store), launcher), language, options, check=job.check_room)
    slot.progress = progress = Progress()
    try:
        slot.find()
    finally:
        progress.done()
    run = Run(job, slot, BEGAN)
    result: Result = run_interruptible(lambda: _execute(run, parsed))
    return result


def _language(parsed: argparse.Namespace, store: ImageStore) -> Language:
    from slipway._run.languages import find_language, language_of_file

    if parsed.language is None:
        return language_of_file(Path(parsed.source), store)
    return find_language(parsed.language, store)


async def _execute(run: Run, parsed: argparse.Namespace) -> Result:
    if parsed.json:
        return await run.execute(None)
    output = StandardOutput()
    if not parsed.tty:
        return await run.execute(output.write)
    from slipway._cli.run_terminal import LocalTerminal, PhaseWatcher

    with LocalTerminal(run.resize).lent() as terminal:
        return await run.execute(output.write, PhaseWatcher(terminal))


def _error_record(error: SlipwayError) -> dict[str, Any]:
    """What there is to say where there is no result; ``error`` is a name in the tree of errors."""
    record: dict[str, Any] = {
        "verdict": None if isinstance(error, InputError) else "internal_error",
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }
    if isinstance(error, UnknownOutcome):
        # What the program had written until then; it may have run in part or whole.
        record["stdout"] = error.stdout.decode("utf-8", "replace")
        record["stderr"] = error.stderr.decode("utf-8", "replace")
    return record


def _report(result: Result, verbose: bool) -> None:
    last = result.run or result.build
    # A run that a server cancelled while it waited has no phase at all.
    for name in ("stdout", "stderr") if last is not None else ():
        stream = getattr(last, name)
        if stream.truncated:
            say(f"{name} was cut: {stream.dropped} bytes were over the limit (--output-limit)")
    if last is None or last.verdict not in {"ok", "failed"} or last.detail:
        say(result.summary())
    if verbose:
        timing = asdict(result.timing)
        parts = "  ".join(f"{name} {seconds:.3f}" for name, seconds in timing.items())
        say(f"{parts}  total {sum(timing.values()):.3f} s")
        start, reason = result.provenance.start, result.provenance.start_reason
        say(f"start {start}: {reason}" if reason else f"start {start}")


def exit_code(result: Result) -> int:
    """The exit code that tells ``result``; see EXIT_CODES."""
    from slipway._model.result import Verdict

    if result.verdict is Verdict.BUILD_FAILED:
        return 1
    codes = {
        Verdict.OK: EXIT_MISSING if result.missing else 0,
        Verdict.FAILED: result.code,
        Verdict.SIGNALED: 128 + result.signal,
        Verdict.TIMED_OUT: EXIT_TIMEOUT,
        Verdict.CPU_EXCEEDED: EXIT_TIMEOUT,
        # As a shell shows a program that the kernel killed for want of memory.
        Verdict.MEMORY_EXCEEDED: 137,
        Verdict.OUTPUT_EXCEEDED: 137,
        Verdict.CANCELLED: 130,
    }
    return codes.get(result.verdict, 125)
