"""The parsers of all verbs: argparse, whose errors become one sentence and a hint."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from slipway._cli.quantities import duration, file_path, seconds, size
from slipway._model.errors import InputError
from slipway._model.options import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError, knows near names, and takes no abbreviations.

    ``stray_hint`` says what to do with an option that is not known here. Arguments too many are
    refused, unless this one ``takes_strays`` and has them returned.
    """

    def __init__(self, *, takes_strays: bool = False, stray_hint: str = "", **given: Any) -> None:
        given["allow_abbrev"] = False
        super().__init__(**given, exit_on_error=False)
        self._takes_strays = takes_strays
        self._stray_hint = stray_hint

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse ``args``; an unknown option is told before anything else.

        Raises:
            InputError: an argument is missing, unknown or has not its form.
        """
        if self._subparsers is None:
            self._check_options(args)
        else:
            self._check_order(args)
        try:
            parsed, strays = super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            raise self._argument_error(error) from None
        if strays and not self._takes_strays:
            raise InputError(f"{strays[0]!r:.80} is an argument too many", self._see_help())
        return parsed, strays

    def error(self, message: str) -> NoReturn:
        """Tell what the standard library's parser has found.

        Raises:
            InputError: always.
        """
        missing = message.partition("are required: ")[2]
        if not missing:
            raise InputError(message, self._see_help())
        verbs = verbs_of(self)
        raise InputError(
            f"{missing} is missing" if ", " not in missing else f"{missing} are missing",
            f"Verbs: {', '.join(verbs)}. {self._see_help()}" if verbs else self._see_help(),
        )

    def _argument_error(self, error: argparse.ArgumentError) -> InputError:
        name, said = error.argument_name, error.message
        if name is None:
            try:
                self.error(said)
            except InputError as raised:
                return raised
        if said.startswith("expected "):
            hint = f" A value that begins with '-' is written {name}=VALUE."
            return InputError(f"{name} needs a value", self._see_help() + "." + hint)
        if said.startswith("ignored explicit argument"):
            return InputError(f"{name} takes no value", self._see_help())
        return InputError(f"{name}: {said}", self._see_help())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Check a value against the choices, which argparse asks for here."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            said, listing = f"unknown verb {value!r:.80}", f"Verbs: {', '.join(choices)}."
        else:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            said = f"{name} is {value!r:.80}, and must be one of: {', '.join(choices)}"
            listing = self._see_help()
        raise InputError(said, mean(str(value), choices) or listing)

    def _check_options(self, args: Sequence[str] | None) -> None:
        known = self._option_string_actions
        for text in sys.argv[1:] if args is None else args:
            if text == "--":
                return
            # A text with a space is no option to argparse either: it may be code, or a sentence.
            if text[:1] != "-" or text == "-" or " " in text or _begins_number(text[1:]):
                continue
            name = text.partition("=")[0]
            if name not in known and (text.startswith("--") or text[:2] not in known):
                near = mean(name, known)
                hint = " ".join(filter(None, (near, self._stray_hint))) or self._see_help()
                raise InputError(f"unknown option {name[:80]!r}", hint)

    def _check_order(self, args: Sequence[str] | None) -> None:
        """Tell what comes before the verb and is an option of verbs."""
        for text in sys.argv[1:] if args is None else args:
            name = text.partition("=")[0]
            if text[:1] != "-" or name in self._option_string_actions:
                return
            if any(name in verb._option_string_actions for verb in verbs_of(self).values()):
                raise InputError(
                    f"{name} is an option of verbs, and comes after the verb",
                    f"Write: {self.prog} VERB {name}",
                )
            raise InputError(f"unknown option {name[:80]!r}", self._see_help())

    def _see_help(self) -> str:
        return f"See: {self.prog} --help"

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version, which argparse does here."""
        from slipway._cli.terminal import emit

        emit(message)


def _begins_number(text: str) -> bool:
    return text.removeprefix(".")[:1].isdecimal()


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs that ``parser`` has, by their names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the image store."""
    parser.add_argument(
        "--store", type=file_path, metavar="DIR", help="the image store (default: ~/.cache/slipway)"
    )


@contextmanager
def options_named(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Name options in errors as they are typed: the library's ``max_vms`` is ``--max-vms``."""
    try:
        yield
    except InputError as error:
        name = error.message.partition(" ")[0]
        for action in parser._actions:
            if action.dest == name and action.option_strings:
                word = re.compile(rf"(?<![-\w]){name}(?!\w)")
                said = _with_units(error.message, action)
                error.message = word.sub(action.option_strings[-1], said)
                error.hint = word.sub(action.option_strings[-1], error.hint)
        raise


def _with_units(message: str, action: argparse.Action) -> str:
    """Give the library's seconds and bytes the units in which a person writes them."""
    if action.type in (seconds, duration):
        return re.sub(r"-?\d+(\.\d+)?", lambda found: f"{float(found[0]):g} s", message)
    if action.type is size:
        return re.sub(r"\d{7,}", lambda found: f"{int(found[0]) / MIB:.12g} MiB", message)
    return message


def mean(text: str, known: Iterable[str]) -> str:
    """Ask whether one of ``known`` was meant, by a likely beginning or a slip; else nothing."""
    import difflib

    bare = text.lstrip("-").lower()
    names = {name.lstrip("-"): name for name in known}
    near = [name for name in names if len(bare) > 1 and name.startswith(bare)]
    near = near or difflib.get_close_matches(bare, names, n=3, cutoff=0.7)
    return f"Did you mean {' or '.join(names[name] for name in near[:3])}?" if near else ""


def typed_name() -> str:
    """Name the program as it was typed: slipway, vmm-run, or python -m slipway."""
    path = sys.argv[0]
    if path.endswith("__main__.py"):
        return "python -m slipway"
    return path.rpartition("/")[2] or "slipway"
