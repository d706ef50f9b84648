"""Parsers of all commands, for completion scripts and manual pages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from slipway._cli.parser import Parser, find_subparsers
from slipway._cli.program import COMMANDS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def build_slipway_parser() -> Parser:
    """Return a description of ``slipway`` as a parser; commands are not run by it."""
    parser = Parser(prog="slipway", description="Run untrusted code in microVMs.")
    parser.add_argument("-V", "--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
        # Replace the empty parser, which add_parser needs for the line of help.
        commands.choices[name] = build_command_parser(name)
    helper = commands.add_parser("help", help="show the options of a command")
    helper.add_argument(
        "command", nargs="?", choices=tuple(COMMANDS), metavar="COMMAND", help="the command"
    )
    return parser


def build_command_parser(name: str, prog: str = "") -> Parser:
    """Return the parser of one command."""
    module = import_module(f"slipway._cli.{name}")
    parser: Parser = module.build_parser(prog or f"slipway {name}")
    return parser


def walk_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield ``parser`` and all parsers below it."""
    yield parser
    for subparser in find_subparsers(parser).values():
        yield from walk_parsers(subparser)
