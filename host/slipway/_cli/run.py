"""``slipway run``: one program in a machine of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._cli import BEGAN
from slipway._cli.terminal import (
    EXIT_TIMEOUT,
    DescriptorWorker,
    Progress,
    emit,
    run_interruptible,
    say,
    split_arguments,
    write_all,
)
from slipway._errors import HostError, InputError, SlipwayError, UnknownOutcome
from slipway._request import MAX_FILE_BYTES, MAX_SOURCE, MIB, InputFile, Options, read_local

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._result import Result
    from slipway._run import Run
    from slipway_initramfs.languages import Language

READ_SIZE = 64 * 1024

EXIT_CODES = """\
exit codes: the program's own; 128+N when signal N ended it; 124 when its time was over;
1 with the compiler's output when the build fails; 2 for a wrong call; 125 when Slipway failed.
--json tells them apart where a program's own code is one of these.
"""


def command(arguments: list[str]) -> int:
    """Run and return the exit code.

    Raises:
        SlipwayError: nothing could be run.
    """
    ours, program_arguments = split_arguments(arguments)
    parsed = _parser().parse_args(ours)
    try:
        return _command(parsed, tuple(program_arguments))
    except SlipwayError as error:
        if parsed.json:
            emit(json.dumps(_error_record(error)) + "\n")
        raise


def _command(parsed: argparse.Namespace, program_arguments: tuple[str, ...]) -> int:
    language, source = _source(parsed)
    wanted = [_pair(text, "--get", "NAME or A:B") for text in parsed.get]
    outputs = dict(wanted)
    if len(set(outputs.values())) < len(outputs):
        raise InputError("two files are to be fetched into one", "Write --get GUEST:LOCAL.")
    for local in outputs.values():
        _check_destination(local)
    options = Options(
        arguments=program_arguments,
        environment=tuple(_environment(text) for text in parsed.env),
        files=tuple(_input_file(text) for text in parsed.file),
        outputs=tuple(guest for guest, _ in wanted),
        timeout=parsed.timeout,
        build_timeout=parsed.build_timeout,
        memory=parsed.memory,
        output_limit=parsed.output_limit,
        cpus=parsed.cpus,
        machine=parsed.machine,
        kernel=parsed.kernel,
        boot_log=parsed.boot_log,
    )
    from slipway._run import Run

    if parsed.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="slipway: %(name)s: %(message)s")
    progress = Progress()
    run = Run(language, source, options, store=parsed.store, progress=progress, began=BEGAN)
    try:
        run.prepare()
    finally:
        progress.done()
    result: Result = run_interruptible(lambda: _execute(run, parsed))
    for file in result.files:
        if file.data is None:
            say(f"no file {file.path}: {file.missing}")
        else:
            _save(outputs[file.path], file.mode, file.data)
    if parsed.json:
        emit(json.dumps(result.record()) + "\n")
    else:
        _report(result, parsed.verbose)
    return exit_code(result)


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slipway run",
        usage="slipway run [options] FILE [-- ARGS]",
        description="Run a program in a virtual machine of its own. Its stdin is yours.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="FILE", help="the source file, or - for standard input")
    add("--language", metavar="NAME", help="instead of by the suffix; also NAME@VERSION")
    add("--timeout", type=_seconds, metavar="S", help="wall-clock time of the program")
    add("--build-timeout", type=_seconds, metavar="S", help="wall-clock time of the build")
    add("--memory", type=_size, metavar="MIB", help="of the machine (also 512M, 2G)")
    add("--cpus", type=int, default=1, metavar="N", help="of the machine, 1 to 8")
    add("--output-limit", type=_size, metavar="MIB", help="of each stream (also 64K, 1G)")
    add("--env", action="append", default=[], metavar="K=V", help="for build and program")
    add("--file", action="append", default=[], metavar="LOCAL[:GUEST]", help="put a file beside it")
    add("--get", action="append", default=[], metavar="GUEST[:LOCAL]", help="fetch a file after it")
    add("--json", action="store_true", help="print one record instead of the output")
    add("--machine", default="auto", metavar="NAME", help="auto (default), kvm or qemu")
    add("--kernel", type=Path, metavar="PATH", help="another kernel, a vmlinux or bzImage")
    add("--store", type=Path, metavar="DIR", help="the image store")
    add("--boot-log", action="store_true", help="show the guest's console on stderr")
    add("-v", "--verbose", action="store_true", help="show where the time went, on stderr")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None


_UNITS = {"K": 1024, "M": MIB, "G": 1024 * MIB}


def _size(text: str) -> int:
    """Bytes, from a number of MiB or one with a unit."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "M")
    try:
        return round(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64K, 512 or 2G") from None


def _source(parsed: argparse.Namespace) -> tuple[Language, bytes]:
    from slipway._assets import find_language, language_of_file
    from slipway_initramfs.store import ImageStore

    store = ImageStore(parsed.store)
    if parsed.source == "-":
        if parsed.language is None:
            raise InputError("the source on stdin has no suffix", "Name its --language.")
        language = find_language(parsed.language, store)
        try:
            return language, sys.stdin.buffer.read(MAX_SOURCE + 1)
        except OSError as error:
            raise InputError(f"cannot read the source on stdin: {error.strerror}") from None
    path = Path(parsed.source)
    if parsed.language is None:
        language = language_of_file(path, store)
    else:
        language = find_language(parsed.language, store)
    return language, read_local(path, MAX_SOURCE, "source")


def _environment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--env {text!r} has no '='", "Write --env NAME=VALUE.")
    return name, value


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    """``A:B``, or ``A`` for both."""
    first, colon, second = text.partition(":")
    if not first or (colon and not second):
        raise InputError(f"{option} {text!r} lacks a name", f"Write {option} {form}.")
    return first, second or first


def _input_file(text: str) -> InputFile:
    # Where no name is given, a file keeps the one that was written: --file ../x is an error.
    local, guest = _pair(text, "--file", "LOCAL or LOCAL:GUEST")
    path = Path(local)
    data = read_local(path, MAX_FILE_BYTES, "input")
    return InputFile(guest, data, path.stat().st_mode & 0o777)


async def _stdin(parsed: argparse.Namespace) -> AsyncIterator[bytes]:
    if parsed.source == "-":
        return
    worker = DescriptorWorker()
    while True:
        try:
            data = await worker.call(lambda: os.read(0, READ_SIZE))
        except OSError:  # closed, or a directory: to the program that is an empty stdin
            return
        if not data:
            return
        yield data


async def _execute(run: Run, parsed: argparse.Namespace) -> Result:
    stdin = _stdin(parsed)
    if parsed.json:
        return await run.execute(stdin, None)
    workers = {"stdout": (1, DescriptorWorker()), "stderr": (2, DescriptorWorker())}

    async def write(_phase: str, stream: str, data: bytes) -> None:
        descriptor, worker = workers[stream]
        try:
            await worker.call(lambda: write_all(descriptor, data))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"cannot write to {stream}: {error.strerror}") from None

    return await run.execute(stdin, write)


def _check_destination(local: str) -> None:
    """Check that a file fetched at the end can be written, before the program has run for it."""
    path = Path(local)
    try:
        directory, there = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(
            f"cannot write {local}: {error.strerror}", "Write --get GUEST:LOCAL."
        ) from None
    if directory:
        raise InputError(f"cannot write {local}: it is a directory", "Write --get GUEST:LOCAL.")
    if not os.access(path if there else path.parent, os.W_OK):
        raise InputError(
            f"cannot write {local}: it, or its directory, is not there to be written",
            "Write --get GUEST:LOCAL.",
        )


def _save(local: str, mode: int, data: bytes) -> None:
    path = Path(local)
    try:
        path.write_bytes(data)
        if path.is_file():  # /dev/null keeps its mode
            path.chmod(mode & 0o777 | 0o600)
    except OSError as error:
        raise HostError(f"cannot write {local}: {error.strerror}") from None


def _report(result: Result, verbose: bool) -> None:
    last = result.run or result.build
    assert last is not None
    for name, stream in (("stdout", last.stdout), ("stderr", last.stderr)):
        if stream.truncated:
            say(f"{name} was cut: {stream.dropped} bytes were over the limit (--output-limit)")
    if last.verdict not in {"ok", "failed"} or last.detail:
        say(result.summary())
    if verbose:
        timing = asdict(result.timing)
        parts = "  ".join(f"{name} {seconds:.3f}" for name, seconds in timing.items())
        say(f"{parts}  total {sum(timing.values()):.3f} s")


def exit_code(result: Result) -> int:
    """The exit code that tells ``result``; see EXIT_CODES."""
    from slipway._result import Verdict

    if result.verdict is Verdict.BUILD_FAILED:
        return 1
    codes = {
        Verdict.OK: 0,
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
