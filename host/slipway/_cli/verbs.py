"""Commands that have verbs of their own and work on the image store: image, snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._cli.parsers import Parser, add_store
from slipway._run.image_errors import errors_told_to_callers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore


class Verbs:
    """The ``parser`` of a command; each verb takes what was parsed, and the store."""

    def __init__(self, prog: str, description: str) -> None:
        self._common = Parser(add_help=False)
        add_store(self._common)
        self._common.add_argument(
            "--debug", action="store_true", help="show the traceback of an error"
        )
        self.parser = Parser(prog=prog, description=description)
        self._verbs = self.parser.add_subparsers(required=True, metavar="VERB")

    def add(self, name: str, verb: Callable[..., int], text: str) -> Parser:
        """Add a verb; its own arguments are the caller's to add."""
        made = self._verbs.add_parser(name, parents=[self._common], help=text, description=text)
        made.set_defaults(verb=verb)
        return made

    def run(self, arguments: list[str]) -> int:
        """Run the verb that ``arguments`` name.

        Raises:
            SlipwayError: it could not be done.
        """
        from slipway_initramfs.store.image_store import ImageStore

        parsed = self.parser.parse_args(arguments)
        verb: Callable[[argparse.Namespace, ImageStore], int] = parsed.verb
        with errors_told_to_callers():
            return verb(parsed, ImageStore(parsed.store))
