"""``slipway man``: print manual pages, made from the parsers."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from slipway._cli.parser import Parser, find_subparsers
from slipway._cli.program import COMMANDS
from slipway._cli.quantities import parse_path
from slipway._cli.terminal import print_text
from slipway._util.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTION = 1
# The program for the command ``run`` alone.
_RUN = "vmm-run"


def build_parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog,
        description="Print a manual page: slipway man run | man -l -\n"
        "or write all pages: slipway man --output ~/.local/share/man/man1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = (*COMMANDS, _RUN)
    add("name", nargs="?", choices=names, metavar="COMMAND", help=f"a command, or {_RUN}")
    add("--output", type=parse_path, metavar="DIR", help="directory to write all pages to")
    return parser


def run_command(arguments: list[str], prog: str) -> int:
    """Print a page or write all pages; return 0.

    Raises:
        HostError: a page cannot be written.
    """
    parsed = build_parser(prog).parse_args(arguments)
    if parsed.output is None:
        _show_page(format_page("run" if parsed.name == _RUN else parsed.name or ""))
        return 0
    try:
        parsed.output.mkdir(parents=True, exist_ok=True)
        for command in ("", *COMMANDS):
            name = f"slipway-{command}" if command else "slipway"
            path = parsed.output / f"{name}.{_SECTION}"
            path.write_text(format_page(command), encoding="utf-8")
        link = parsed.output / f"{_RUN}.{_SECTION}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"slipway-run.{_SECTION}")
    except OSError as error:
        raise HostError(f"cannot write the pages to {parsed.output}: {error.strerror}") from None
    return 0


def _show_page(page: str) -> None:
    """Print the page; on a terminal, display it with man(1) if possible."""
    if sys.stdout.isatty() and shutil.which("man"):
        shown = subprocess.run(["man", "-l", "-"], input=page.encode(), check=False)
        if shown.returncode == 0:
            return
    print_text(page)


def format_page(command: str) -> str:
    """Return the manual page of a command, or of ``slipway`` for "", in man(7) format."""
    from slipway._cli.parser_tree import build_command_parser, build_slipway_parser
    from slipway_protocol import __version__

    parser = build_command_parser(command) if command else build_slipway_parser()
    name = f"slipway-{command}" if command else "slipway"
    summary = COMMANDS[command] if command else "run untrusted code in microVMs"
    lines = [
        f'.TH {_escape(name.upper())} {_SECTION} "" "slipway {__version__}"',
        *(".ad l", ".nh"),  # ragged right, no hyphens: options can be copied
        *(".SH NAME", f"{_escape(name)} \\- {_escape(summary)}"),
        *(".SH SYNOPSIS", *_format_synopsis(parser)),
        *(".SH DESCRIPTION", *_format_paragraphs(parser.description or "")),
        *(".SH OPTIONS", *_format_arguments(parser)),
    ]
    subparsers = find_subparsers(parser)
    if subparsers:
        lines.append(".SH COMMANDS")
    for below, subparser in subparsers.items():
        if command:
            lines += [f".SS {_escape(subparser.prog)}", *_format_synopsis(subparser), ".PP"]
            lines += _format_paragraphs(subparser.description or "")
            lines += _format_arguments(subparser)
        else:
            text = COMMANDS.get(below, "show the options of a command")
            lines += [".TP", _format_bold(below), _escape(text)]
    if parser.epilog:
        lines += [".SH NOTES", *_format_paragraphs(parser.epilog)]
    others = ["slipway", *(f"slipway-{other}" for other in COMMANDS)]
    others.remove(name)
    lines += [".SH SEE ALSO", ", ".join(f"{_format_bold(other)}({_SECTION})" for other in others)]
    return "\n".join(lines) + "\n"


def _format_synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of each usage."""
    words = " ".join(parser.format_usage().removeprefix("usage: ").split())
    for number, rest in enumerate(words.split(f"{parser.prog} ")[1:]):
        yield from ((".br",) if number else ())
        yield f"{_format_bold(parser.prog)} {_escape(rest.strip())}"


def _format_arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        takes = "" if action.nargs == 0 else str(action.metavar or "")
        if not takes and action.choices is not None:
            takes = "{" + ",".join(map(str, action.choices)) + "}"
        shown = [_format_bold(option) for option in action.option_strings]
        yield ".TP"
        taken = f"\\fI{_escape(takes)}\\fR" if takes else ""
        yield " ".join(filter(None, (", ".join(shown), taken)))
        yield _escape(str(action.help or "") % {"prog": parser.prog})


def _format_paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a text; indented lines are not filled."""
    for line in text.splitlines():
        text = _escape(line.strip())
        yield from (".RS", ".nf", text, ".fi", ".RE") if line.startswith(" ") else (text,)


def _format_bold(text: str) -> str:
    return f"\\fB{_escape(text)}\\fR"


def _escape(text: str) -> str:
    """Return ``text`` without special characters of man(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped
