"""Command-line arguments of declared options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._cli.network_options import add_network_options
from slipway._cli.quantities import (
    parse_count,
    parse_duration,
    parse_path,
    parse_seconds,
    parse_size,
)
from slipway._model.option import Group
from slipway._model.options import OPTIONS
from slipway._util.units import MIB

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from slipway._model.option import Option
    from slipway._model.values import Bounds

# Reader and placeholder of a value, by its type and unit.
_READERS: dict[tuple[type, str], tuple[Any, str]] = {
    (float, "s"): (parse_seconds, "TIME"),
    (int, "bytes"): (parse_size, "SIZE"),
    (int, ""): (parse_count, "N"),
    (Path, ""): (parse_path, "PATH"),
    (str, ""): (str, "TEXT"),
}


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add an argument for each run option, in a section for each group."""
    for group in Group:
        section = parser.add_argument_group(group.value)
        for option in OPTIONS.values():
            if option.group is not group:
                continue
            if option.name == "network":
                add_network_options(section.add_argument, option.command_phrase)
            # The program's arguments come after "--", and argparse does not see them.
            elif option.name != "arguments":
                add_option(section, option)


def add_option(section: argparse._ActionsContainer, option: Option) -> None:
    """Add the argument of ``option`` to a parser or a section of its help."""
    section.add_argument(*option.command_flags, dest=option.name, **_describe_value(option))


def _describe_value(option: Option) -> dict[str, Any]:
    """Return the keyword arguments of ``add_argument`` for one option."""
    if option.is_flag:
        return {"action": "store_true", "help": _escape(option.command_phrase)}
    if option.default == ():
        help_text = _escape(f"{option.command_phrase} (repeatable)")
        metavar = option.metavar or "TEXT"
        return {"action": "append", "default": [], "metavar": metavar, "help": help_text}
    notes = ", ".join(filter(None, (_describe_bounds(option), describe_default(option))))
    phrase = f"{option.command_phrase} ({notes})" if notes else option.command_phrase
    described = {"default": option.default, "help": _escape(phrase)}
    if option.choices:
        return {**described, "choices": option.choices}
    bounds = option.bounds
    read, metavar = _READERS[option.type, bounds.unit if bounds else ""]
    if read is parse_seconds and bounds is not None and not bounds.above:
        read = parse_duration
    if option.names:
        read = _make_name_reader(option.names, read)
    return {**described, "type": read, "metavar": option.metavar or metavar}


def _make_name_reader(names: tuple[str, ...], read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of one of ``names``, or of a value by ``read``."""
    return lambda text: text if text in names else read(text)


def _describe_bounds(option: Option) -> str:
    bounds: Bounds | None = option.bounds
    if bounds is None or option.default is None or math.isinf(bounds.most):
        return ""
    return f"{bounds.least:g} to {bounds.most:g}"


def describe_default(option: Option) -> str:
    """Return the default as it is typed, or in words; empty if the help says it."""
    if option.default is None:
        return f"default: {option.default_help}" if option.default_help else ""
    unit = option.bounds.unit if option.bounds else ""
    if unit == "bytes":
        return f"default: {option.default / MIB:g}M"
    return f"default: {option.default:g}" if unit == "s" else f"default: {option.default}"


def _escape(text: str) -> str:
    """Return ``text`` for argparse, which replaces ``%(name)s`` in a help."""
    return text.replace("%", "%%")
