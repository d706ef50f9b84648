"""Group of commands that work on the image store: ``slipway image``, ``slipway snapshot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._cli.parser import Parser, add_store
from slipway._run.image_errors import translated_image_errors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore


class CommandGroup:
    """Group of commands with one ``parser``.

    The function of a command is called with the parsed arguments and the image store.
    """

    def __init__(self, prog: str, description: str) -> None:
        self._common = Parser(add_help=False)
        add_store(self._common)
        self._common.add_argument(
            "--debug", action="store_true", help="show the traceback of an error"
        )
        self.parser = Parser(prog=prog, description=description)
        self._commands = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, function: Callable[..., int], text: str) -> Parser:
        """Add a command, and return its parser for arguments of its own."""
        parser = self._commands.add_parser(
            name, parents=[self._common], help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        parser.set_defaults(function=function)
        return parser

    def run(self, arguments: list[str]) -> int:
        """Run the command that ``arguments`` name, and return its exit code.

        Raises:
            SlipwayError: the command failed.
        """
        from slipway_initramfs.store.image_store import ImageStore

        parsed = self.parser.parse_args(arguments)
        function: Callable[[argparse.Namespace, ImageStore], int] = parsed.function
        with translated_image_errors():
            return function(parsed, ImageStore(parsed.store))
