"""What ``slipway run`` is told: its options, and what they name on this host."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from slipway._errors import InputError
from slipway._request import MAX_FILE_BYTES, MAX_SOURCE, MIB, InputFile, Options, read_local

EXIT_CODES = """\
exit codes: the program's own; 128+N when signal N ended it; 124 when its time was over;
1 with the compiler's output when the build fails; 2 for a wrong call; 125 when Slipway failed.
--json tells them apart where a program's own code is one of these.
"""


def parser() -> argparse.ArgumentParser:
    """The options, without the program's arguments."""
    parser = argparse.ArgumentParser(
        prog="slipway run",
        usage="slipway run [options] FILE [-- ARGS]",
        description="Run a program in a virtual machine of its own. Its stdin is yours.\n"
        "Times, sizes and counts that are not given are the language's.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="FILE", help="the source file, or - for standard input")
    add("--language", metavar="NAME", help="instead of by the suffix; also NAME@VERSION")
    add("--timeout", type=_seconds, metavar="S", help="wall-clock time of the program")
    add("--build-timeout", type=_seconds, metavar="S", help="wall-clock time of the build")
    add("--cpu-time", type=_seconds, metavar="S", help="CPU time of the program")
    add("--memory", type=_size, metavar="MIB", help="of the machine (also 512M, 2G)")
    add("--memory-limit", type=_size, metavar="MIB", help="of the program, less than the machine's")
    add("--processes", type=int, metavar="N", help="processes and threads of the program")
    add("--cpus", type=int, default=1, metavar="N", help="of the machine, 1 to 8 (default: 1)")
    add("--output-limit", type=_size, metavar="MIB", help="of each stream (also 64K, 1G)")
    add("--kill-on-output", action="store_true", help="end a program that reaches that limit")
    add("--env", action="append", default=[], metavar="K=V", help="for build and program")
    add("--file", action="append", default=[], metavar="LOCAL[:GUEST]", help="put a file beside it")
    add("--get", action="append", default=[], metavar="GUEST[:LOCAL]", help="fetch a file after it")
    add("--json", action="store_true", help="print one record instead of the output")
    add("--api-sock", metavar="PATH", help="run it on the server that listens there")
    add("--machine", default="auto", metavar="NAME", help="auto (default), kvm or qemu")
    add("--cold", action="store_true", help="boot the machine, even where it could be cloned")
    add("--kernel", type=Path, metavar="PATH", help="another kernel, a vmlinux or bzImage")
    add("--store", type=Path, metavar="DIR", help="the image store (default: ~/.cache/slipway)")
    add("--boot-log", action="store_true", help="show the guest's console on stderr")
    add("-v", "--verbose", action="store_true", help="show where the time went, on stderr")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def options_of(
    parsed: argparse.Namespace, program_arguments: tuple[str, ...], outputs: tuple[str, ...]
) -> Options:
    """What is asked for, with the files of ``--file`` read.

    Raises:
        InputError: one of them cannot be read, or a value has not its form.
    """
    return Options(
        arguments=program_arguments,
        environment=tuple(_environment(text) for text in parsed.env),
        files=tuple(_input_file(text) for text in parsed.file),
        outputs=outputs,
        timeout=parsed.timeout,
        build_timeout=parsed.build_timeout,
        cpu_time=parsed.cpu_time,
        memory=parsed.memory,
        memory_limit=parsed.memory_limit,
        processes=parsed.processes,
        output_limit=parsed.output_limit,
        kill_on_output=parsed.kill_on_output,
        cpus=parsed.cpus,
        machine=parsed.machine,
        kernel=parsed.kernel,
        boot_log=parsed.boot_log,
    )


def read_source(parsed: argparse.Namespace) -> bytes:
    """The source file's bytes, or those of standard input.

    Raises:
        InputError: it cannot be read.
    """
    if parsed.source != "-":
        return read_local(Path(parsed.source), MAX_SOURCE, "source")
    try:
        return sys.stdin.buffer.read(MAX_SOURCE + 1)
    except OSError as error:
        raise InputError(f"cannot read the source on stdin: {error.strerror}") from None


def check_language_known(parsed: argparse.Namespace) -> None:
    """Check that there is a name of the language, or a suffix that tells it.

    Raises:
        InputError: there is neither.
    """
    if parsed.source == "-" and parsed.language is None:
        raise InputError("the source on stdin has no suffix", "Name its --language.")


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    """``A:B``, or ``A`` for both.

    Raises:
        InputError: one of them is empty.
    """
    first, colon, second = text.partition(":")
    if not first or (colon and not second):
        raise InputError(f"{option} {text!r} lacks a name", f"Write {option} {form}.")
    return first, second or first


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


def _environment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--env {text!r} has no '='", "Write --env NAME=VALUE.")
    return name, value


def _input_file(text: str) -> InputFile:
    # Where no name is given, a file keeps the one that was written: --file ../x is an error.
    local, guest = pair(text, "--file", "LOCAL or LOCAL:GUEST")
    path = Path(local)
    data = read_local(path, MAX_FILE_BYTES, "input")
    return InputFile(guest, data, path.stat().st_mode & 0o777)
