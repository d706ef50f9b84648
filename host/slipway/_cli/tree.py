"""All parsers of the command line, for what is made from them: completion and manual pages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from slipway._cli.parsers import Parser, verbs_of
from slipway._cli.program import VERBS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def slipway_parser() -> Parser:
    """Return the parser of ``slipway``, which only describes: no verb is run by it."""
    parser = Parser(prog="slipway", description="Run untrusted code in microVMs.")
    parser.add_argument("-V", "--version", action="store_true", help="show which version this is")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb, text in VERBS.items():
        verbs.add_parser(verb, help=text)
        # The verb's own in place of that, which only has the line of help.
        verbs.choices[verb] = verb_parser(verb)
    helped = verbs.add_parser("help", help="tell more of a verb")
    helped.add_argument("verb", nargs="?", choices=tuple(VERBS), metavar="VERB", help="this one")
    return parser


def verb_parser(verb: str, prog: str = "") -> Parser:
    """Return the parser of one verb."""
    parser: Parser = import_module(f"slipway._cli.{verb}").parser(prog or f"slipway {verb}")
    return parser


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Give ``parser`` and all below it."""
    yield parser
    for verb in verbs_of(parser).values():
        yield from walk(verb)
