"""Options that ``slipway serve`` and ``slipway mcp`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._cli.quantities import parse_count
from slipway._model.options import OPTIONS

if TYPE_CHECKING:
    import argparse


def add_machines(parser: argparse.ArgumentParser) -> None:
    """Add the options for the hypervisor and the number of machines."""
    parser.add_argument(
        "--machine",
        default="auto",
        choices=OPTIONS["machine"].choices,
        help="hypervisor of the machines (default: auto)",
    )
    parser.add_argument(
        "--max-machines",
        type=parse_count,
        metavar="N",
        help="machines at once (default: as CPUs and memory allow)",
    )
