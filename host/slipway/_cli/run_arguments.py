"""What ``slipway run`` is told: its options, and what they name on this host."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from slipway._cli.parsers import Parser, add_store
from slipway._cli.program import version
from slipway._cli.run_inputs import input_files
from slipway._cli.run_options import add_run_options
from slipway._model.bounds import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    MAX_ENVIRONMENT_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_OUTPUTS,
    MAX_VARIABLES,
)
from slipway._model.errors import InputError
from slipway._model.options import MAX_SOURCE, MIB, OPTIONS, Options, read_local_file

EXIT_CODES = """\
exit codes: the program's own; 128+N when signal N ended it; 124 when its time was over;
123 when it ended well without a file that --get names; 1 with the compiler's output when the build
fails; 2 for a wrong call; 125 when Slipway failed.
--json tells them apart where a program's own code is one of these.
"""
BOUNDS = f"""\
A run may have {MAX_ARGUMENTS} arguments of {MAX_ARGUMENT_BYTES // 1024} KiB together, \
{MAX_VARIABLES} variables of {MAX_ENVIRONMENT_BYTES // 1024} KiB, {MAX_FILES} files of
{MAX_FILE_BYTES // MIB} MiB, a source of {MAX_SOURCE // MIB} MiB, and {MAX_OUTPUTS} files to
fetch. See docs/sdk.md.

"""
FILES = """\
All C, C++ and Go sources among the files are compiled with FILE, but of C and C++ those that
another one includes, and of Go those that go build leaves out. See docs/languages.md.

"""


def parser(prog: str) -> Parser:
    """Return the parser of the options, without the program's arguments."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [options] FILE [-- ARGS]\n"
        f"       {prog} [options] --language NAME -c CODE [-- ARGS]",
        description="Run a program in a virtual machine of its own. Its stdin is yours.\n"
        "Times, sizes and counts that are not given are the language's. A time is a number of\n"
        "seconds, or 500ms, 5s, 2m; a size a number of MiB, or 64K, 512MiB, 2G.",
        epilog=FILES + BOUNDS + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        takes_strays=True,
        stray_hint=f"What is for the program comes after '--': {prog} FILE -- ARGS",
    )
    add = parser.add_argument
    add("source", nargs="?", metavar="FILE", help="the source file, or - for standard input")
    add("-c", dest="code", metavar="CODE", help="the source itself, instead of a file")
    add("--language", metavar="LANGUAGE", help="instead of by the suffix; also rust@1.80")
    add_run_options(parser)
    add("--json", action="store_true", help="print one record instead of the output")
    add("--api-sock", metavar="PATH", help="run it on the server that listens there")
    add("--cold", action="store_true", help="boot the machine, even where it could be cloned")
    add_store(parser)
    add("-v", "--verbose", action="store_true", help="show where the time went, on stderr")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--version", action="version", version=version().rstrip(), help="show which this is")
    return parser


def options_of(
    parsed: argparse.Namespace, program_arguments: tuple[str, ...], outputs: tuple[str, ...]
) -> Options:
    """What is asked for, with the files of ``--file`` read.

    Raises:
        InputError: one of them cannot be read, or a value has not its form.
    """
    given = {name: value for name, value in vars(parsed).items() if name in OPTIONS}
    if parsed.tty:
        from slipway._cli.run_terminal import local_size

        given["tty"] = local_size()
    given |= {
        "arguments": program_arguments,
        "environment": tuple(_environment(text) for text in parsed.environment),
        "files": input_files(parsed.files, parsed.source),
        "outputs": outputs,
    }
    return Options(**given)


def read_source(parsed: argparse.Namespace) -> bytes:
    """The bytes of the source file, of standard input, or of ``-c``.

    Raises:
        InputError: it cannot be read.
    """
    if parsed.code is not None:
        return os.fsencode(parsed.code)
    if parsed.source != "-":
        return read_local_file(Path(parsed.source), MAX_SOURCE, "source")
    try:
        return sys.stdin.buffer.read(MAX_SOURCE + 1)
    except OSError as error:
        raise InputError(
            f"cannot read the source on stdin: {error.strerror}", "Name a file instead of -."
        ) from None


def parse(arguments: list[str], described: Parser) -> argparse.Namespace:
    """Parse what is ours of a command line that ``described`` describes.

    Raises:
        InputError: something is missing, unknown or has not its form.
    """
    parsed: argparse.Namespace
    parsed, strays = described.parse_known_args(arguments)
    prog = described.prog
    _check_source_named(parsed, prog)
    if strays:
        import shlex

        source = "-c CODE" if parsed.source is None else shlex.quote(parsed.source)
        raise InputError(
            f"{strays[0]!r:.80} is an argument too many",
            f"What is for the program comes after '--': {prog} {source} -- {shlex.join(strays)}",
        )
    return parsed


def _check_source_named(parsed: argparse.Namespace, prog: str) -> None:
    """Check that one source is named, and its language or a suffix that tells it.

    Raises:
        InputError: none or two are, or the language is unknown.
    """
    if parsed.code is not None and parsed.source is not None:
        raise InputError(
            f"two sources are given: -c and {parsed.source!r:.80}",
            f"Leave one out. What is for the program comes after '--': {prog} -c CODE -- ARGS",
        )
    if parsed.code is None and parsed.source is None:
        raise InputError("FILE is missing", f"Name a source file: {prog} FILE. See: {prog} --help")
    if parsed.source == "":
        raise InputError("FILE is ''", f"Name a source file: {prog} FILE")
    if parsed.source is not None and os.path.isdir(parsed.source):  # noqa: PTH112 - as in _named
        import shlex

        named = shlex.quote(parsed.source.rstrip("/") or "/")
        raise InputError(
            f"{parsed.source} is a directory",
            f"Name a source file in it, and bring the others: {prog} --file {named}:. {named}/FILE",
        )
    if parsed.language is None and (parsed.code is not None or parsed.source == "-"):
        where = "on stdin" if parsed.code is None else "of -c"
        raise InputError(f"the source {where} has no suffix", "Name its --language.")


def _environment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--env {text!r} has no '='", "Write --env NAME=VALUE.")
    return name, value
