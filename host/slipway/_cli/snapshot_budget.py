"""Disk space of all snapshots, as an option of commands and a variable of the environment."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from slipway._cli.quantities import parse_size
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from slipway._cli.parser import Parser

VARIABLE = "SLIPWAY_SNAPSHOT_BUDGET"


def add_snapshot_budget(parser: Parser) -> None:
    """Add the option ``--snapshot-budget``."""
    from slipway._cli.option_arguments import add_option
    from slipway._model.runtime_options import RUNTIME_OPTIONS

    add_option(parser, RUNTIME_OPTIONS["snapshot_budget"])


def read_snapshot_budget(parsed: argparse.Namespace) -> int | None:
    """Return the bytes of ``--snapshot-budget`` or of the environment; None for the default.

    Raises:
        InputError: the value is not a size, or negative.
    """
    budget: int | None = parsed.snapshot_budget
    if budget is None:
        return read_budget_variable()
    return _check_budget(budget, "--snapshot-budget")


def read_budget_variable() -> int | None:
    """Return the bytes of the variable ``SLIPWAY_SNAPSHOT_BUDGET``, or None.

    Raises:
        InputError: the value is not a size, or negative.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        return _check_budget(parse_size(text), VARIABLE)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{VARIABLE}: {error}", f"Correct or unset {VARIABLE}.") from None


def _check_budget(budget: int, name: str) -> int:
    if budget < 0:
        raise InputError(f"{name} is negative", "Use a size of 0 or more, such as 4G.")
    return budget
