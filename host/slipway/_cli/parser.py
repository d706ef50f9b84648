"""Argument parser of all commands: argparse with errors of one sentence and a hint."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from slipway._cli.quantities import parse_duration, parse_path, parse_seconds, parse_size
from slipway._util.errors import InputError
from slipway._util.units import KIB, MIB, format_mib, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Parser(argparse.ArgumentParser):
    """Argument parser that raises InputError, suggests names, and takes no abbreviations.

    ``stray_hint`` is the hint for an unknown option. Unexpected arguments are an error, unless the
    parser ``takes_strays`` and returns them.
    """

    def __init__(self, *, takes_strays: bool = False, stray_hint: str = "", **given: Any) -> None:
        given["allow_abbrev"] = False
        super().__init__(**given, exit_on_error=False)
        self._takes_strays = takes_strays
        self._stray_hint = stray_hint

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse ``args``; an unknown option is reported before other errors.

        Raises:
            InputError: an argument is missing, unknown or malformed.
        """
        if self._subparsers is None:
            self._check_options(args)
        else:
            self._check_order(args)
        try:
            parsed, strays = super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            raise self._translate_error(error) from None
        if strays and not self._takes_strays:
            raise InputError(f"unexpected argument {strays[0]!r:.80}", self._make_help_hint())
        return parsed, strays

    def error(self, message: str) -> NoReturn:
        """Raise an error that argparse has found.

        Raises:
            InputError: always.
        """
        missing = message.partition("are required: ")[2]
        if not missing:
            raise InputError(message, self._make_help_hint())
        commands = find_subparsers(self)
        raise InputError(
            f"missing {missing}",
            f"Commands: {', '.join(commands)}. {self._make_help_hint()}"
            if commands
            else self._make_help_hint(),
        )

    def _translate_error(self, error: argparse.ArgumentError) -> InputError:
        name, said = error.argument_name, error.message
        if name is None:
            try:
                self.error(said)
            except InputError as raised:
                return raised
        if said.startswith("expected "):
            hint = f" Write a value that begins with '-' as {name}=VALUE."
            return InputError(f"{name} needs a value", self._make_help_hint() + "." + hint)
        if said.startswith("ignored explicit argument"):
            return InputError(f"{name} takes no value", self._make_help_hint())
        return InputError(f"{name}: {said}", self._make_help_hint())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Check a value against the choices of its argument; argparse calls this."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            said, listing = f"unknown command {value!r:.80}", f"Commands: {', '.join(choices)}."
        else:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            said = f"{name} is {value!r:.80}; use one of {', '.join(choices)}"
            listing = self._make_help_hint()
        raise InputError(said, suggest_names(str(value), choices) or listing)

    def _check_options(self, args: Sequence[str] | None) -> None:
        known = self._option_string_actions
        for text in sys.argv[1:] if args is None else args:
            if text == "--":
                return
            # argparse takes a text with a space for a value as well: it may be code.
            if text[:1] != "-" or text == "-" or " " in text or _begins_number(text[1:]):
                continue
            name = text.partition("=")[0]
            if name not in known and (text.startswith("--") or text[:2] not in known):
                near = suggest_names(name, known)
                hint = " ".join(filter(None, (near, self._stray_hint))) or self._make_help_hint()
                raise InputError(f"unknown option {name[:80]!r}", hint)

    def _check_order(self, args: Sequence[str] | None) -> None:
        """Report an option that stands before the command and belongs after it."""
        for text in sys.argv[1:] if args is None else args:
            name = text.partition("=")[0]
            if text[:1] != "-" or name in self._option_string_actions:
                return
            if any(name in sub._option_string_actions for sub in find_subparsers(self).values()):
                raise InputError(
                    f"{name} belongs after the command",
                    f"Write: {self.prog} COMMAND {name}",
                )
            raise InputError(f"unknown option {name[:80]!r}", self._make_help_hint())

    def _make_help_hint(self) -> str:
        return f"See: {self.prog} --help"

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version; argparse calls this."""
        from slipway._cli.terminal import print_text

        print_text(message)


def _begins_number(text: str) -> bool:
    return text.removeprefix(".")[:1].isdecimal()


def find_subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands of ``parser``, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the option for the directory of the image store."""
    parser.add_argument(
        "--store",
        type=parse_path,
        metavar="DIR",
        help="image store (default: ~/.cache/slipway)",
    )


@contextmanager
def rename_options_in_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Replace names of the library in errors by those of the command line: ``--max-machines``."""
    try:
        yield
    except InputError as error:
        # An error of the library begins with the names of its arguments.
        names = re.match(r"(\w+)(?: and (\w+) exclude)?", error.message)
        for action in parser._actions:
            if names and action.dest in names.groups() and action.option_strings:
                word = re.compile(rf"(?<![-\w]){action.dest}(?!\w)")
                said = _add_units(error.message, action)
                error.message = word.sub(action.option_strings[-1], said)
                error.hint = word.sub(action.option_strings[-1], error.hint)
        error.message = _rename_values(error.message, parser)
        error.hint = _rename_values(error.hint, parser)
        raise


def _rename_values(text: str, parser: argparse.ArgumentParser) -> str:
    """Return ``text`` with ``--pool 1`` in place of ``pool=1``."""
    for action in parser._actions:
        if action.option_strings:
            text = re.sub(rf"(?<![-\w]){action.dest}=", f"{action.option_strings[-1]} ", text)
    return text


def _add_units(message: str, action: argparse.Action) -> str:
    """Return ``message`` with units: ``s`` after seconds, MiB or KiB in place of bytes."""
    if action.type in (parse_seconds, parse_duration):
        return re.sub(r"-?\d+(\.\d+)?", lambda found: f"{float(found[0]):g} s", message)
    if action.type is parse_size:
        bare = r"(?<![\d.])\d{4,}(?![\d.]| [KM]iB)"
        return re.sub(bare, lambda found: _add_size_unit(found[0]), message)
    return message


def _add_size_unit(digits: str) -> str:
    size = int(digits)
    if size >= MIB:
        return format_mib(size)
    return digits if size % KIB else format_size(size)


def suggest_names(text: str, known: Iterable[str]) -> str:
    """Return a question that suggests near names of ``known``, or an empty text."""
    from slipway._util.near_names import find_near_names

    bare = text.lstrip("-").lower()
    names = {name.lstrip("-"): name for name in known}
    near = [name for name in names if len(bare) > 1 and name.startswith(bare)]
    near = near or find_near_names(bare, names, 3)
    return f"Did you mean {' or '.join(names[name] for name in near[:3])}?" if near else ""
