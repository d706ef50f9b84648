"""``slipway run``: run one program in a machine of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._cli.found_server import check_choice_of_server, run_on_found_server
from slipway._cli.parser import rename_options_in_errors
from slipway._cli.program import PROCESS_START
from slipway._cli.progress import Progress
from slipway._cli.run_arguments import build_parser, parse_arguments, read_options, read_source
from slipway._cli.run_files import plan_destinations, save_files
from slipway._cli.screen import is_screen
from slipway._cli.terminal import (
    EXIT_MISSING,
    EXIT_TIMEOUT,
    print_text,
    split_arguments,
    write_line,
)
from slipway._util.errors import InputError, SlipwayError, UnknownOutcome

__all__ = ["build_parser", "run_command"]

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from slipway._model.options import Options
    from slipway._model.result import Result
    from slipway._run.run import Run
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore


def run_command(arguments: list[str], prog: str) -> int:
    """Run a program and return the exit code.

    Raises:
        SlipwayError: the program could not be run.
    """
    ours, program_arguments = split_arguments(arguments)
    try:
        parser = build_parser(prog)
        with rename_options_in_errors(parser):
            return _run_parsed(parse_arguments(ours, parser), tuple(program_arguments))
    except SlipwayError as error:
        if "--json" in ours:
            print_text(json.dumps(_describe_error(error)) + "\n")
        raise


def _run_parsed(parsed: argparse.Namespace, program_arguments: tuple[str, ...]) -> int:
    check_choice_of_server(parsed)
    locals_of = plan_destinations(parsed.outputs)
    options = read_options(parsed, program_arguments, tuple(locals_of))
    if parsed.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="slipway: %(name)s: %(message)s")
    if parsed.api_sock is not None:
        from slipway._cli.run_server import run_on_server

        result = run_on_server(parsed, options)
    else:
        result = _run_without_choice(parsed, options)
    save_files(result.files, locals_of)
    if parsed.json:
        print_text(json.dumps(result.record()) + "\n")
    else:
        _report_result(result, parsed.verbose)
    return find_exit_code(result)


def _run_without_choice(parsed: argparse.Namespace, options: Options) -> Result:
    """Run a program on the server of this user, or else in a machine of this process."""

    @cache
    def read() -> bytes:
        return read_source(parsed)

    result = None if parsed.no_server else run_on_found_server(parsed, options, read)
    return _run_here(parsed, options, read) if result is None else result


def _run_here(parsed: argparse.Namespace, options: Options, read: Callable[[], bytes]) -> Result:
    """Run a program in a machine of this process; ``read`` returns its source."""
    from slipway._cli.event_loop import run_interruptible
    from slipway._cli.run_streams import read_nothing, read_stdin
    from slipway._run.images import StoredImages
    from slipway._run.job_request import JobRequest
    from slipway._run.launcher import ColdLauncher
    from slipway._run.run import Run
    from slipway._run.slot import Slot, SlotContext
    from slipway._snapshots.launcher import SnapshotLauncher
    from slipway_initramfs.store.image_store import ImageStore

    store = ImageStore(parsed.store)
    launcher = ColdLauncher(store) if parsed.cold else SnapshotLauncher(store)
    language, source = _find_language(parsed, store), read()
    stdin = read_nothing() if parsed.source == "-" else read_stdin()
    job = JobRequest(language, source, options, stdin)
    job.check()
    slot = Slot(SlotContext(StoredImages(store), launcher), language, options, check=job.check_room)
    slot.progress = progress = Progress()
    try:
        slot.find()
    finally:
        progress.clear()
    run = Run(job, slot, PROCESS_START)
    result: Result = run_interruptible(lambda: _execute(run, parsed))
    if not parsed.json and not parsed.cold and is_screen(sys.stderr):
        from slipway._cli.snapshot_hint import suggest_snapshot

        if hint := suggest_snapshot(slot.assets, options, store, result):
            write_line(hint)
    return result


def _find_language(parsed: argparse.Namespace, store: ImageStore) -> Language:
    from slipway._run.languages import find_language, find_language_of_file

    if parsed.language is None:
        return find_language_of_file(Path(parsed.source), store)
    return find_language(parsed.language, store)


async def _execute(run: Run, parsed: argparse.Namespace) -> Result:
    if parsed.json:
        return await run.collect(None)
    from slipway._cli.run_streams import StandardOutput

    output = StandardOutput()
    if not parsed.tty:
        if not parsed.publish:
            return await run.collect(output.write)
        from slipway._cli.port_report import PortObserver

        return await run.collect(output.write, PortObserver())
    import asyncio

    from slipway._cli.event_loop import start_as_task
    from slipway._cli.run_terminal import LocalTerminal, PhaseObserver

    local = LocalTerminal(start_as_task(run.resize), asyncio.get_running_loop())
    with local.follow_size() as terminal:
        return await run.collect(output.write, PhaseObserver(terminal))


def _describe_error(error: SlipwayError) -> dict[str, Any]:
    """Return the record of ``--json`` for an error; ``error`` is the name of its class."""
    record: dict[str, Any] = {
        "verdict": None if isinstance(error, InputError) else "internal_error",
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }
    if isinstance(error, UnknownOutcome):
        # Output up to the loss of the machine; the program may have run in part or whole.
        record["stdout"] = error.stdout.decode("utf-8", "replace")
        record["stderr"] = error.stderr.decode("utf-8", "replace")
    return record


def _report_result(result: Result, verbose: bool) -> None:
    last = result.run or result.build
    # A run that a server cancelled in its queue has no phase.
    for name in ("stdout", "stderr") if last is not None else ():
        stream = getattr(last, name)
        if stream.truncated:
            write_line(f"dropped {stream.dropped} bytes of {name} over --output-limit")
    if last is None or last.verdict not in {"ok", "failed"} or last.detail:
        write_line(result.summary())
    if result.network is not None:
        from slipway._cli.network_report import report_network

        report_network(result.network, verbose=verbose or not result.ok)
    if verbose:
        timing = asdict(result.timing)
        parts = "  ".join(f"{name} {seconds:.3f}" for name, seconds in timing.items())
        write_line(f"{parts}  total {sum(timing.values()):.3f} s")
        provenance = result.provenance
        start = f"start {provenance.start} on {provenance.machine}, port {provenance.port}"
        reason = provenance.start_reason
        write_line(f"{start}: {reason}" if reason else start)


def find_exit_code(result: Result) -> int:
    """Return the exit code for a result; see EXIT_CODES."""
    from slipway._model.result import Verdict

    if result.verdict is Verdict.BUILD_FAILED:
        return 1
    codes = {
        Verdict.OK: EXIT_MISSING if result.missing else 0,
        Verdict.FAILED: result.code,
        Verdict.SIGNALED: 128 + result.signal,
        Verdict.TIMED_OUT: EXIT_TIMEOUT,
        Verdict.CPU_EXCEEDED: EXIT_TIMEOUT,
        # As in a shell, when the kernel kills a program for lack of memory.
        Verdict.MEMORY_EXCEEDED: 137,
        Verdict.OUTPUT_EXCEEDED: 137,
        Verdict.CANCELLED: 130,
    }
    return codes.get(result.verdict, 125)
