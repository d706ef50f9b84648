"""Command-line arguments of the run options, made from their declarations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._cli.quantities import parse_count, parse_path, parse_seconds, parse_size
from slipway._model.option import Group
from slipway._model.options import OPTIONS

if TYPE_CHECKING:
    import argparse

    from slipway._model.option import Option

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
            # The program's arguments come after "--", and argparse does not see them.
            if option.group is group and option.name != "arguments":
                value = _describe_value(option)
                section.add_argument(*option.command_flags, dest=option.name, **value)


def _describe_value(option: Option) -> dict[str, Any]:
    """Return the keyword arguments of ``add_argument`` for one option."""
    if option.is_flag:
        return {"action": "store_true", "help": option.command_phrase}
    if option.default == ():
        help_text = f"{option.command_phrase} (repeatable)"
        metavar = option.metavar or "TEXT"
        return {"action": "append", "default": [], "metavar": metavar, "help": help_text}
    described: dict[str, Any] = {"default": option.default, "help": option.command_phrase}
    bounds = option.bounds
    if option.default is not None:
        limits = f"{bounds.least:g} to {bounds.most:g}, " if bounds else ""
        described["help"] += f" ({limits}default: {option.default})"
    if option.choices:
        return {**described, "choices": option.choices}
    read, metavar = _READERS[option.type, bounds.unit if bounds else ""]
    return {**described, "type": read, "metavar": option.metavar or metavar}
