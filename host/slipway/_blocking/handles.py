"""A run under way, and a session, for programs without an event loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._model.arguments import check_blocking_listener, open_blocking_stdin
from slipway._model.errors import InputError
from slipway._model.events import Output
from slipway._model.values import Bounds, check_value
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from types import TracebackType

    from slipway._blocking.loop_thread import LoopThread
    from slipway._model.arguments import BlockingStdin, Source
    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from slipway._model.result import OutputFile, Result
    from slipway._model.session import AsyncSession

OnOutput = Callable[[str, str, bytes], object]
_SECONDS = Annotated[float, Bounds(0, math.inf)] | None


@public
class Stdin:
    """The program's standard input, where it was left open."""

    def __init__(self, execution: AsyncExecution, thread: LoopThread) -> None:
        self._stdin = execution.stdin
        self._thread = thread

    def write(self, data: bytes | str) -> None:
        """Give ``data`` to the program; see :meth:`slipway.AsyncStdin.write`.

        Raises:
            InputError: stdin was given with the run, or has been closed.
        """
        self._thread.call(lambda: self._stdin.write(data))

    def close(self) -> None:
        """End of file; may be called again."""
        self._thread.call(self._stdin.close)


@public
class Execution:
    """A run under way; see :class:`slipway.AsyncExecution`.

    It is an iterator over its events. As a context manager it cancels at its end what still runs.
    """

    def __init__(self, execution: AsyncExecution, thread: LoopThread, owner: object) -> None:
        self.id = execution.id
        self.language = execution.language
        self.stdin = Stdin(execution, thread)
        self._execution = execution
        self._thread = thread
        # As long as there is a handle, whoever started the run is not garbage.
        self._owner = owner

    @property
    def state(self) -> str:
        """One of queued, preparing, booting, building, running, ended."""
        return self._execution.state

    @property
    def position(self) -> int | None:
        """How many are started before this run, while it is queued."""
        return self._execution.position

    def signal(self, number: int) -> None:
        """Send signal ``number`` to the program of the phase that runs.

        Raises:
            InputError: no phase runs, or there is no such signal.
            UnknownOutcome: the machine was lost.
        """
        self._thread.call(lambda: self._execution.signal(number))

    def resize(self, rows: int, columns: int) -> None:
        """Give the program's terminal another size; it hears SIGWINCH. Nothing after its end.

        Raises:
            InputError: it has no terminal, or none can have that size.
            UnknownOutcome: the machine was lost.
        """
        self._thread.call(lambda: self._execution.resize(rows, columns))

    def cancel(self) -> None:
        """End the run, and wait until its machine is gone; one that has ended is left as it is."""
        self._thread.call(self._execution.cancel)

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the end. The result has the output that was not taken as events before.

        Args:
            timeout: seconds to wait at most. The run goes on, and may be waited for again.

        Raises:
            TimeoutError: it has not ended by then.
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        seconds = check_value("timeout", _SECONDS, timeout)
        return self._thread.call(self._execution.wait, seconds)

    def collect(self, on_output: OnOutput | None = None) -> Result:
        """Wait for the end, and pass the output to ``on_output`` as it comes, in this thread.

        Without ``on_output`` the result has the output. A run that is left early is cancelled.

        Raises:
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        with self:
            if on_output is not None:
                for event in self:
                    if isinstance(event, Output):
                        on_output(event.phase, event.stream, event.data)
            return self.wait()

    def files(self) -> tuple[OutputFile, ...]:
        """Wait for the end, and the files that were asked for. Raises what :meth:`wait` raises."""
        return self._thread.call(self._execution.files)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._thread.call(self._taken)
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def _taken(self) -> Event | None:
        # A StopAsyncIteration cannot leave a coroutine.
        return await anext(self._execution, None)


@public
class Session:
    """A machine for several runs; see :class:`slipway.AsyncSession`.

    As a context manager it opens at its beginning and closes at its end. Its methods may be called
    from several threads at once.
    """

    def __init__(self, session: AsyncSession, thread: LoopThread, owner: object) -> None:
        self._session = session
        self._thread = thread
        # As long as there is a session, whoever opened it is not garbage.
        self._owner = owner

    @property
    def id(self) -> str:
        """Which one it is."""
        return self._session.id

    @property
    def language(self) -> str:
        """The language of its runs."""
        return self._session.language

    @property
    def state(self) -> str:
        """One of opening, open, lost, ended; see :attr:`slipway.AsyncSession.state`."""
        return self._session.state

    def open(self) -> None:
        """Wait for room, and then for the machine; see :meth:`slipway.AsyncSession.open`.

        Raises:
            Busy: there is no room in the queue.
            InputError: the session has ended, or needs more than there is in all.
            HostError: this host lacks something, or no server listens.
        """
        try:
            self._thread.call(self._session.open)
        except BaseException:
            # An interrupt may come when it is open already.
            if self._session.state == "open":
                self._thread.call(self._session.close)
            raise

    def start(
        self, source: Source, *, stdin: BlockingStdin | None = b"", **options: Any
    ) -> Execution:
        """Start ``source``, or queue it behind the session's other runs.

        Args:
            source: the program's text, or the Path of its file.
            stdin: as for :meth:`slipway.Runtime.start`.
            options: the fields of :class:`slipway.Options` without those that make a machine.

        Raises:
            InputError: the request cannot be run as it stands, or the session is not open.
            Busy: too many runs wait already.
            HostError: the session's machine was lost, or had no run for too long.
        """
        opened = open_blocking_stdin(stdin)
        return started(
            self._thread, lambda: self._session.start(source, stdin=opened, **options), self
        )

    def run(
        self,
        source: Source,
        *,
        stdin: BlockingStdin = b"",
        on_output: OnOutput | None = None,
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; see :meth:`start`.

        ``on_output`` is as in :meth:`slipway.Runtime.run`.

        Raises:
            InputError: the request cannot be run as it stands, or the session is not open.
            HostError: the session's machine was lost before, or had no run for too long.
            UnknownOutcome: the machine was lost under the program; the session is lost with it.
        """
        check_blocking_listener(on_output)
        return self.start(source, stdin=stdin, **options).collect(on_output)

    def fork(self) -> Session:
        """Another open session, which begins as this one is now.

        See :meth:`slipway.AsyncSession.fork`, also for what it raises.
        """
        forked: list[AsyncSession] = []

        async def fork() -> None:
            forked.append(await self._session.fork())

        try:
            self._thread.call(fork)
        except BaseException:
            if forked:
                self._thread.call(forked[0].close)
            raise
        return Session(forked[0], self._thread, self._owner)

    def close(self) -> None:
        """End the session and what runs in it; may be called again."""
        try:
            self._thread.call(self._session.close)
        except InputError:  # it was closed with all else, or this is called in an event loop
            if self._session.state != "ended":
                raise

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def started(
    thread: LoopThread, start: Callable[[], Awaitable[AsyncExecution]], owner: object
) -> Execution:
    """The run that ``start`` starts in the loop of ``thread``."""
    begun: list[AsyncExecution] = []

    async def begin() -> None:
        begun.append(await start())

    try:
        thread.call(begin)
    except BaseException:
        # An interrupt may come when there is a run already, and nobody would know of it.
        if begun:
            thread.call(begun[0].cancel)
        raise
    return Execution(begun[0], thread, owner)
