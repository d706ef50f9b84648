"""Arguments of ``slipway run``, and the local files that they name."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from slipway._cli.network_options import read_network
from slipway._cli.option_arguments import add_run_options
from slipway._cli.parser import Parser, add_store
from slipway._cli.program import format_version
from slipway._cli.run_inputs import read_input_files
from slipway._model.bounds import (
    MAX_ARGUMENT_BYTES,
    MAX_ARGUMENTS,
    MAX_ENVIRONMENT_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_OUTPUTS,
    MAX_VARIABLES,
)
from slipway._model.options import MAX_SOURCE, OPTIONS, Options, read_local_file
from slipway._util.errors import InputError
from slipway._util.units import format_size

EXIT_CODES = """\
exit codes:
  the program's own code
  128+N  signal N ended the program
  124    time limit reached
  123    the program succeeded, but a file of --get is missing
  1      the build failed; the compiler's output is on stderr
  2      invalid command line
  125    Slipway failed
With --json, "verdict" and "error" tell these apart from the program's own codes.
"""
BOUNDS = f"""\
bounds of a run:
  {MAX_ARGUMENTS} arguments, {format_size(MAX_ARGUMENT_BYTES)} in total
  {MAX_VARIABLES} environment variables, {format_size(MAX_ENVIRONMENT_BYTES)} in total
  {MAX_FILES} files, {format_size(MAX_FILE_BYTES)} in total; {MAX_OUTPUTS} files to fetch
  {format_size(MAX_SOURCE)} of source

"""
FILES = """\
C, C++ and Go sources of --file are compiled together with FILE, except sources that
another source includes, and files that go build leaves out. See docs/languages.md.

"""


def build_parser(prog: str) -> Parser:
    """Return the parser of all options; the program's arguments come after ``--``."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [options] FILE [-- ARGS]\n"
        f"       {prog} [options] --language NAME -c CODE [-- ARGS]",
        description="Run a program in a virtual machine of its own, with stdin of this command.\n"
        "The defaults of all limits come from the language.\n"
        "TIME is a number of seconds, or 500ms, 5s, 2m. SIZE is a number of MiB, or 64K, 512M, 2G.",
        epilog=FILES + BOUNDS + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        takes_strays=True,
        stray_hint=f"Arguments of the program come after '--': {prog} FILE -- ARGS",
    )
    add = parser.add_argument
    add("source", nargs="?", metavar="FILE", help="source file, or - for stdin")
    add("-c", dest="code", metavar="CODE", help="source text, instead of a file")
    add(
        "--language",
        metavar="LANGUAGE",
        help="language, such as rust or rust@1.80 (default: by the suffix)",
    )
    add_run_options(parser)
    add("--json", action="store_true", help="print one JSON record instead of the output")
    add("--api-sock", metavar="PATH", help="run on the server at this socket")
    add(
        "--no-server",
        action="store_true",
        help="run in a machine of this command, also if a server of this user is running",
    )
    add("--cold", action="store_true", help="boot the machine instead of cloning it")
    add_store(parser)
    add("-v", "--verbose", action="store_true", help="print the timing on stderr")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--version", action="version", version=format_version().rstrip(), help="show the version")
    return parser


def read_options(
    parsed: argparse.Namespace, program_arguments: tuple[str, ...], outputs: tuple[str, ...]
) -> Options:
    """Return the options of a run, with the contents of ``--file``.

    Raises:
        InputError: a file cannot be read, or a value is malformed.
    """
    given = {name: value for name, value in vars(parsed).items() if name in OPTIONS}
    if parsed.tty:
        from slipway._cli.run_terminal import read_terminal_size

        given["tty"] = read_terminal_size()
    given |= {
        "arguments": program_arguments,
        "environment": tuple(_parse_variable(text) for text in parsed.environment),
        "files": read_input_files(parsed.files, parsed.source),
        "outputs": outputs,
        "network": read_network(parsed),
    }
    return Options(**given)


def read_source(parsed: argparse.Namespace) -> bytes:
    """Return the source: of the file, of stdin, or of ``-c``.

    Raises:
        InputError: the source cannot be read.
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


def parse_arguments(arguments: list[str], parser: Parser) -> argparse.Namespace:
    """Parse the arguments before ``--``.

    Raises:
        InputError: an argument is missing, unknown or malformed.
    """
    parsed: argparse.Namespace
    parsed, strays = parser.parse_known_args(arguments)
    prog = parser.prog
    _check_source(parsed, prog)
    if strays:
        import shlex

        source = "-c CODE" if parsed.source is None else shlex.quote(parsed.source)
        raise InputError(
            f"unexpected argument {strays[0]!r:.80}",
            f"Arguments of the program come after '--': {prog} {source} -- {shlex.join(strays)}",
        )
    return parsed


def _check_source(parsed: argparse.Namespace, prog: str) -> None:
    """Check that the command line has one source, and a language or a suffix.

    Raises:
        InputError: a source or the language is missing, or two sources are given.
    """
    if parsed.code is not None and parsed.source is not None:
        raise InputError(
            f"two sources: -c and {parsed.source!r:.80}",
            f"Leave out one. Arguments of the program come after '--': {prog} -c CODE -- ARGS",
        )
    if parsed.code is None and parsed.source is None:
        raise InputError("missing FILE", f"Name a source file: {prog} FILE. See: {prog} --help")
    if parsed.source == "":
        raise InputError("FILE is empty", f"Name a source file: {prog} FILE")
    if parsed.source is not None and os.path.isdir(parsed.source):  # noqa: PTH112 - as in _named
        import shlex

        named = shlex.quote(parsed.source.rstrip("/") or "/")
        raise InputError(
            f"{parsed.source} is a directory",
            f"Name a source file in it, and add the others: {prog} --file {named}:. {named}/FILE",
        )
    if parsed.language is None and (parsed.code is not None or parsed.source == "-"):
        where = "on stdin" if parsed.code is None else "of -c"
        raise InputError(f"missing --language for a source {where}", "Name it: --language python")


def _parse_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"missing '=' in --env {text!r:.80}", "Write --env NAME=VALUE.")
    return name, value
