"""``slipway man``: manual pages, made from the parsers."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from slipway._cli.parsers import Parser, verbs_of
from slipway._cli.program import VERBS
from slipway._cli.quantities import file_path
from slipway._cli.terminal import emit
from slipway._model.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTION = 1
# The name that the verb ``run`` has by itself.
_RUN = "vmm-run"


def parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog,
        description="Print a manual page: slipway man run | man -l -\n"
        "or write all of them: slipway man --output ~/.local/share/man/man1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    verbs = (*VERBS, _RUN)
    add("verb", nargs="?", choices=verbs, metavar="VERB", help=f"of this verb, or {_RUN}")
    add("--output", type=file_path, metavar="DIR", help="write all pages there")
    return parser


def command(arguments: list[str], prog: str) -> int:
    """Print a page or write all; 0.

    Raises:
        HostError: one cannot be written.
    """
    parsed = parser(prog).parse_args(arguments)
    if parsed.output is None:
        _show(page("run" if parsed.verb == _RUN else parsed.verb or ""))
        return 0
    try:
        parsed.output.mkdir(parents=True, exist_ok=True)
        for verb in ("", *VERBS):
            name = f"slipway-{verb}" if verb else "slipway"
            (parsed.output / f"{name}.{_SECTION}").write_text(page(verb), encoding="utf-8")
        link = parsed.output / f"{_RUN}.{_SECTION}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"slipway-run.{_SECTION}")
    except OSError as error:
        raise HostError(f"cannot write the pages to {parsed.output}: {error.strerror}") from None
    return 0


def _show(page: str) -> None:
    """Print the page; to a person it is shown, where that can be done."""
    if sys.stdout.isatty() and shutil.which("man"):
        shown = subprocess.run(["man", "-l", "-"], input=page.encode(), check=False)
        if shown.returncode == 0:
            return
    emit(page)


def page(verb: str) -> str:
    """Return the manual page of a verb, or that of ``slipway``, in the language of man(7)."""
    from slipway._cli.tree import slipway_parser, verb_parser
    from slipway_protocol import __version__

    parsed = verb_parser(verb) if verb else slipway_parser()
    name = f"slipway-{verb}" if verb else "slipway"
    summary = VERBS[verb] if verb else "run untrusted code in microVMs"
    lines = [
        f'.TH {_escape(name.upper())} {_SECTION} "" "slipway {__version__}"',
        *(".ad l", ".nh"),  # neither spread nor hyphenated: options are to be copied
        *(".SH NAME", f"{_escape(name)} \\- {_escape(summary)}"),
        *(".SH SYNOPSIS", *_synopsis(parsed)),
        *(".SH DESCRIPTION", *_paragraphs(parsed.description or "")),
        *(".SH OPTIONS", *_arguments(parsed)),
    ]
    verbs = verbs_of(parsed)
    if verbs:
        lines.append(".SH VERBS")
    for below, described in verbs.items():
        if verb:
            lines += [f".SS {_escape(described.prog)}", *_synopsis(described)]
            lines += [".PP", *_paragraphs(described.description or ""), *_arguments(described)]
        else:
            lines += [".TP", _bold(below), _escape(VERBS.get(below, "tell more of a verb"))]
    if parsed.epilog:
        lines += [".SH NOTES", *_paragraphs(parsed.epilog)]
    others = [f"slipway-{other}" if other else "slipway" for other in ("", *VERBS) if other != verb]
    lines += [".SH SEE ALSO", ", ".join(f"{_bold(other)}({_SECTION})" for other in others)]
    return "\n".join(lines) + "\n"


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Give each way of calling it in a paragraph of its own."""
    words = " ".join(parser.format_usage().removeprefix("usage: ").split())
    for number, rest in enumerate(words.split(f"{parser.prog} ")[1:]):
        yield from ((".br",) if number else ())
        yield f"{_bold(parser.prog)} {_escape(rest.strip())}"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        takes = "" if action.nargs == 0 else str(action.metavar or "")
        if not takes and action.choices is not None:
            takes = "{" + ",".join(map(str, action.choices)) + "}"
        shown = [_bold(option) for option in action.option_strings]
        yield ".TP"
        taken = f"\\fI{_escape(takes)}\\fR" if takes else ""
        yield " ".join(filter(None, (", ".join(shown), taken)))
        yield _escape(str(action.help or "") % {"prog": parser.prog})


def _paragraphs(text: str) -> Iterator[str]:
    """Give text to be filled; indented lines stay as they are."""
    for line in text.splitlines():
        text = _escape(line.strip())
        yield from (".RS", ".nf", text, ".fi", ".RE") if line.startswith(" ") else (text,)


def _bold(text: str) -> str:
    return f"\\fB{_escape(text)}\\fR"


def _escape(text: str) -> str:
    """Return ``text`` so that it means itself."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped
