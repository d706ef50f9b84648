"""States of a session in this process: opening, open, or closed for a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from slipway._run.start_info import StartInfo

if TYPE_CHECKING:
    from slipway._run.guest import Guest
    from slipway._util.errors import HostError, InputError, SlipwayError


@dataclass(frozen=True, slots=True)
class Opening:
    """State of a session without a machine; runs are not accepted yet."""

    name: ClassVar[str] = "opening"


@dataclass(frozen=True, slots=True)
class Open:
    """State of a session with a machine. ``start_info`` is that of the next run."""

    name: ClassVar[str] = "open"

    guest: Guest
    start_info: StartInfo

    def count_run(self) -> Open:
        """Return the state after a run was started: later runs find a used machine."""
        return replace(self, start_info=StartInfo("session", "", self.start_info.machine_reason))


@dataclass(frozen=True, slots=True)
class Closed:
    """State of a session that takes no more runs, with the reason.

    ``name`` is ``lost`` or ``ended``. ``cause`` is the error of a session that could not be opened.
    """

    name: str
    kind: type[HostError | InputError]
    message: str
    hint: str = "Open another."
    cause: Exception | None = None

    def build_error(self) -> SlipwayError:
        """Build an error for one caller; tasks cannot share a traceback."""
        return self.kind(self.message, self.hint)


SessionState = Opening | Open | Closed
