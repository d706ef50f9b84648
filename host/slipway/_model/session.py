"""One machine for several runs. The same in process and remote."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._model.arguments import check_listener
from slipway._model.errors import InputError
from slipway._model.options import MACHINE_OPTIONS, build_options
from slipway._model.values import Bounds, check_value
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._model.options import Options
    from slipway._model.result import Result

DEFAULT_IDLE_SECONDS = 600.0
# A day: a machine that nobody has used for so long has been forgotten.
MAX_IDLE_SECONDS = 86_400.0
_IDLE = Annotated[float, Bounds(0, MAX_IDLE_SECONDS, above=True)]


@public
class AsyncSession(abc.ABC):
    """A machine that takes runs, one after the other.

    Files stay from one run to the next, in the working directory and in ``/tmp``; processes do not.
    Each run has its own limits, arguments, environment and files. As a context manager it opens at
    its beginning and closes at its end.
    """

    def __init__(self, identifier: str, language: str) -> None:
        self.id = identifier
        self.language = language
        self._state = "opening"

    @property
    def state(self) -> str:
        """One of opening, open, lost, ended.

        ``lost``: the machine ended, or broke the rules. ``ended``: it was closed, or had no run for
        too long.
        """
        return self._state

    @abc.abstractmethod
    async def open(self) -> None:
        """Wait for room, and then for the machine; an open session is left as it is.

        Cancelled, it leaves nothing, and the session has ended.

        Raises:
            Busy: there is no room in the queue, or the runtime is being closed.
            InputError: the session has ended, or needs more than there is in all.
            HostError: this host lacks something.
        """

    @abc.abstractmethod
    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> AsyncExecution:
        """Start ``source``, or queue it behind the session's other runs.

        Args:
            source: the program's text, or the Path of its file.
            stdin: what the program reads; with None it is open, for the handle's ``stdin``.
            options: the fields of :class:`slipway.Options` without those that make a machine.

        Raises:
            InputError: the request cannot be run as it stands, or the session is not open.
            Busy: too many runs wait already, or the runtime is being closed.
            HostError: the session's machine was lost, or had no run for too long.
        """

    async def run(
        self,
        source: Source,
        *,
        stdin: Stdin = b"",
        on_output: OnOutput | None = None,
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; the arguments are those of :meth:`start`.

        ``on_output`` is as in :meth:`slipway.AsyncRuntime.run`. Where the caller is cancelled, so
        is the run, and the session goes on.

        Raises:
            InputError: the request cannot be run as it stands, or the session is not open.
            HostError: the session's machine was lost before, or had no run for too long.
            UnknownOutcome: the machine was lost under the program; the session is lost with it.
        """
        check_listener(on_output)
        execution = await self.start(source, stdin=stdin, **options)
        return await execution.collect(on_output)

    @abc.abstractmethod
    async def fork(self) -> AsyncSession:
        """Another open session, which begins as this one is now: files and all.

        It waits for room, as :meth:`open` does, and then for the runs of this session that came
        before; both go on apart. Cancelled, it leaves nothing, and this session goes on.

        Raises:
            Busy: there is no room in the queue, or the runtime is being closed.
            InputError: the session is not open, or there can never be room for two.
            HostError: it cannot be cloned; this one goes on where its machine can.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """End the session and what runs in it, and wait until nothing is left.

        May be called again.
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
    """The options of a session that a caller names.

    Raises:
        InputError: one is a run's, is no option at all, or is out of its bounds.
    """
    options = build_options(given)
    if foreign := sorted(given.keys() - set(MACHINE_OPTIONS)):
        raise InputError(
            f"{foreign[0]} is an option of a run, not of a session", "Give it to each run."
        )
    options.check(source_name)
    return options


def check_run_options(given: Mapping[str, Any]) -> None:
    """Check that the options of a run in a session have none of the machine's.

    Raises:
        InputError: one is.
    """
    for name in MACHINE_OPTIONS:
        if name in given:
            raise InputError(
                f"{name} is an option of the session's machine, which has been made",
                f"Give {name} to the session, at its beginning.",
            )


def check_idle_seconds(seconds: object) -> float:
    """How long a session may go without a run.

    Raises:
        InputError: it is no number of seconds, or out of bounds.
    """
    taken: float = check_value("idle_seconds", _IDLE, seconds)
    return taken
