"""Session: one machine for several runs, in this process or on a server."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._model.arguments import check_listener
from slipway._model.options import MACHINE_OPTIONS, build_options
from slipway._model.values import Bounds, check_value
from slipway._util.errors import InputError
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._model.options import Options
    from slipway._model.published_ports import PublishedPort
    from slipway._model.result import Result

DEFAULT_IDLE_SECONDS = 600.0
# A day: a session without runs for so long has been forgotten.
MAX_IDLE_SECONDS = 86_400.0
_IDLE = Annotated[float, Bounds(0, MAX_IDLE_SECONDS, above=True)]


@public
class AsyncSession(abc.ABC):
    """Machine that takes runs, one after the other.

    Files in the working directory and in ``/tmp`` stay from one run to the next; processes do not.
    Each run has its own limits, arguments, environment and files. As a context manager, the session
    opens at the beginning of the block and closes at the end.
    """

    def __init__(self, identifier: str, language: str) -> None:
        self.id = identifier
        self.language = language
        self._ports: tuple[PublishedPort, ...] = ()

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Published ports of an open session."""
        return self._ports

    @property
    @abc.abstractmethod
    def state(self) -> str:
        """State: opening, open, lost or ended.

        ``lost``: the machine ended or broke the protocol. ``ended``: the session was closed, or had
        no run for too long.
        """

    @abc.abstractmethod
    async def open(self) -> None:
        """Wait in the queue, and then for the machine; no effect on an open session.

        A cancelled call ends the session.

        Raises:
            Busy: the queue is full, or the runtime is being closed.
            InputError: the session has ended, or needs more than the whole host.
            HostError: a part of this host is missing.
        """

    @abc.abstractmethod
    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> AsyncExecution:
        """Start ``source``, or queue it behind other runs of the session.

        Args:
            source: the program's text, or the Path of its file.
            stdin: input of the program; None leaves stdin open for ``stdin`` of the handle.
            options: fields of :class:`slipway.Options`, except those of the machine.

        Raises:
            InputError: the request is invalid, or the session is not open.
            Busy: too many runs wait, or the runtime is being closed.
            HostError: the machine was lost, or the session had no run for too long.
        """

    async def run(
        self,
        source: Source,
        *,
        stdin: Stdin = b"",
        on_output: OnOutput | None = None,
        **options: Any,
    ) -> Result:
        """Run ``source`` and return its result; arguments as for :meth:`start`.

        ``on_output`` is as in :meth:`slipway.AsyncRuntime.run`. A cancelled call cancels the run;
        the session stays open.

        Raises:
            InputError: the request is invalid, or the session is not open.
            HostError: the machine was lost before, or the session had no run for too long.
            UnknownOutcome: the machine was lost under the program; the session is lost too.
        """
        check_listener(on_output)
        execution = await self.start(source, stdin=stdin, **options)
        return await execution.collect(on_output)

    @abc.abstractmethod
    async def fork(self) -> AsyncSession:
        """Return a new open session with the files of this session.

        The call waits in the queue like :meth:`open`, and then for earlier runs of this session.
        Both sessions then continue independently. A cancelled call has no effect.

        Raises:
            Busy: the queue is full, or the runtime is being closed.
            InputError: the session is not open, or the host is too small for two.
            HostError: the machine cannot be cloned; this session stays open if possible.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """End the session and its runs, and wait until the machine has ended.

        A second call has no effect.
        """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def build_session_options(given: Mapping[str, Any], source_name: str) -> Options:
    """Return the options of a session.

    Raises:
        InputError: an option is unknown, belongs to runs, or is out of bounds.
    """
    options = build_options(given)
    if foreign := sorted(given.keys() - set(MACHINE_OPTIONS)):
        raise InputError(
            f"{foreign[0]} is an option of a run, not of a session",
            f"Pass {foreign[0]} to each run.",
        )
    options.check(source_name)
    return options


def check_run_options(given: Mapping[str, Any]) -> None:
    """Check that the options of a run in a session do not belong to the machine.

    Raises:
        InputError: an option belongs to the machine.
    """
    for name in MACHINE_OPTIONS:
        if name in given:
            raise InputError(
                f"{name} is an option of the session, not of its runs",
                f"Pass {name} to session().",
            )


def check_idle_seconds(seconds: object) -> float:
    """Return the checked time that a session may be without a run, in seconds.

    Raises:
        InputError: the value is not a number, or out of bounds.
    """
    checked: float = check_value("idle_seconds", _IDLE, seconds)
    return checked
