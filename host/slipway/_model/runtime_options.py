"""Options of a runtime, each declared once, and their validation."""

# Not "from __future__ import annotations": the types of options are read at each start.
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slipway._model.bounds import check_choice
from slipway._model.option import Option, read_options
from slipway._model.options import KERNEL_NAMES, OPTIONS
from slipway._model.values import Bounds, check_value, read_field_types
from slipway._util.units import GIB, MIB

# Share of the free memory that machines get by default; the rest is for the host.
SHARE_OF_MEMORY = 0.8
# Bound on descriptors and processes. Memory and CPUs usually run out before.
MAX_MACHINES = 256
# Largest default disk space for snapshots, in bytes: those of all languages take about 2 GiB.
MAX_SNAPSHOTS = 8 * GIB

_Positive = Annotated[int, Bounds(1, math.inf)]
_Count = Annotated[int, Bounds(0, math.inf)]
_Space = Annotated[int, Bounds(0, math.inf, unit="bytes")]
# The smallest machine needs this much.
_Budget = Annotated[int, Bounds(128 * MIB, math.inf, unit="bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Options of a runtime: its bounds, and its ready machines.

    The arguments of :class:`slipway.AsyncRuntime`, the options of ``slipway serve`` and ``slipway
    mcp``, and the tables of the docs follow from this.

    Raises:
        InputError: a value is of another type than its field, out of bounds, or not a choice.
    """

    store: Annotated[
        Path | None,
        Option("directory of the image store", default_help="~/.cache/slipway", metavar="DIR"),
    ] = None
    machine: Annotated[
        str, Option("hypervisor of the machines", choices=OPTIONS["machine"].choices)
    ] = "auto"
    arch: Annotated[
        str,
        Option(
            "architecture of the machines; auto is that of the host",
            choices=OPTIONS["arch"].choices,
        ),
    ] = "auto"
    kernel: Annotated[
        str | None,
        Option(
            "kernel of the machines",
            choices=KERNEL_NAMES,
            default_help=OPTIONS["kernel"].default_help,
        ),
    ] = None
    max_machines: Annotated[
        _Positive | None, Option("machines at once", default_help="as CPUs and memory allow")
    ] = None
    memory_budget: Annotated[
        _Budget | None,
        Option("memory of all machines", default_help=f"{SHARE_OF_MEMORY:.0%} of the free memory"),
    ] = None
    cpus: Annotated[
        _Positive | None, Option("CPUs of all machines", default_help="those of this host")
    ] = None
    queue: Annotated[_Count, Option("runs that may wait")] = 64
    pool: Annotated[
        _Count,
        Option("idle clones kept ready for each language; with 0, snapshots are not created"),
    ] = 0
    cold: Annotated[bool, Option("boot a machine for each run, without snapshots and pool")] = False
    snapshot_budget: Annotated[
        _Space | None,
        Option(
            "disk space of all snapshots in the store; the least recently used go first",
            default_help=f"{MAX_SNAPSHOTS // GIB} GiB, at most a quarter of the free space;"
            " commands read SLIPWAY_SNAPSHOT_BUDGET first",
        ),
    ] = None
    warm: Annotated[
        tuple[str, ...],
        Option(
            "languages to prewarm: the pool has their clones before the first run",
            metavar="LANGUAGE",
        ),
    ] = ()

    build: Annotated[
        str,
        Option(
            "images that runs may have made: none, listed ones, or any version of a language; auto"
            " is any for this user and root, and listed for other users",
            choices=("auto", "never", "listed", "any"),
        ),
    ] = "auto"
    listed: Annotated[
        tuple[str, ...],
        Option(
            "images that may be made besides default versions and those of the store, such as"
            " rust@1.80",
            metavar="LANGUAGE",
        ),
    ] = ()

    def __post_init__(self) -> None:
        for name, kind in read_field_types(RuntimeOptions).items():
            object.__setattr__(self, name, check_value(name, kind, getattr(self, name)))
        for name, option in RUNTIME_OPTIONS.items():
            value = getattr(self, name)
            if option.choices and value is not None:
                check_choice(name, value, option.choices)


# All runtime options by name, in the order of the fields of RuntimeOptions.
RUNTIME_OPTIONS = read_options(RuntimeOptions)
DEFAULT_QUEUE: int = RUNTIME_OPTIONS["queue"].default
