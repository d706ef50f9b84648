"""Ticket of a run, the run's needs, and the capacity that all runs share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._util.errors import Busy
    from slipway._util.shares import Share


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bounds on the machines, bytes of memory and vCPUs at once, and on the length of the queue."""

    machines: int
    memory: int
    cpus: int
    queue: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of one run: bytes of memory, overhead of the machine included, and vCPUs."""

    memory: int
    cpus: int


@public
@dataclass(frozen=True, slots=True)
class Load:
    """Part of a capacity that is in use now."""

    capacity: Capacity
    machines: int
    waiting: int
    memory: int
    cpus: int


@dataclass(eq=False, slots=True)
class Ticket:
    """Ticket of one run, from its arrival to its end.

    ``decided`` is set when the run is admitted, or has lost its place in the queue to another user;
    ``refusal`` is then the reason.
    """

    share: Share
    number: int
    needs: Needs | None = None
    position: int | None = None
    on_position: Callable[[int], None] | None = None
    is_admitted: bool = False
    refusal: Busy | None = None
    decided: asyncio.Event = field(default_factory=asyncio.Event)
