"""Blocking handles of runs and sessions, for programs without an event loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._model.arguments import check_blocking_listener, open_blocking_stdin
from slipway._model.events import Output
from slipway._model.values import Bounds, check_value
from slipway._util.errors import InputError
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from types import TracebackType

    from slipway._blocking.loop_thread import LoopThread
    from slipway._model.arguments import BlockingStdin, Source
    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from slipway._model.published_ports import PublishedPort
    from slipway._model.result import OutputFile, Result
    from slipway._model.session import AsyncSession

OnOutput = Callable[[str, str, bytes], object]
_SECONDS = Annotated[float, Bounds(0, math.inf)] | None


@public
class Stdin:
    """Standard input of the program, if it was left open."""

    def __init__(self, execution: AsyncExecution, thread: LoopThread) -> None:
        self._stdin = execution.stdin
        self._thread = thread

    def write(self, data: bytes | str) -> None:
        """Write ``data`` to the program; see :meth:`slipway.AsyncStdin.write`.

        Raises:
            InputError: stdin was given with the run, or is closed.
        """
        self._thread.call(lambda: self._stdin.write(data))

    def close(self) -> None:
        """Close stdin: the program reads end of file. Idempotent."""
        self._thread.call(self._stdin.close)


@public
class Execution:
    """Handle of a run under way; see :class:`slipway.AsyncExecution`.

    Iteration yields the events. As a context manager, the execution is cancelled at the end of the
    block if the run has not ended.
    """

    def __init__(self, execution: AsyncExecution, thread: LoopThread, owner: object) -> None:
        self.id = execution.id
        self.language = execution.language
        self.stdin = Stdin(execution, thread)
        self._execution = execution
        self._thread = thread
        # A reference, so that the runtime or session lives as long as the handle.
        self._owner = owner

    @property
    def state(self) -> str:
        """State: queued, preparing, booting, building, running or ended."""
        return self._execution.state

    @property
    def position(self) -> int | None:
        """Number of runs that start before this one, while this one is queued; else None."""
        return self._execution.position

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Published ports of the machine; empty before the event ``Started``."""
        return self._execution.ports

    def signal(self, number: int) -> None:
        """Send signal ``number`` to the program of the current phase.

        Raises:
            InputError: no phase is running, or the number is not that of a signal.
            UnknownOutcome: the machine was lost.
        """
        self._thread.call(lambda: self._execution.signal(number))

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the program's terminal; the program gets SIGWINCH.

        Without effect after the end of the program.

        Raises:
            InputError: the program has no terminal, or the size is out of bounds.
            UnknownOutcome: the machine was lost.
        """
        self._thread.call(lambda: self._execution.resize(rows, columns))

    def cancel(self) -> None:
        """Cancel the run and wait until its machine is gone. Without effect after its end."""
        self._thread.call(self._execution.cancel)

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the result, which has the output that was not taken as events before.

        Args:
            timeout: longest wait in seconds. The run continues after a time-out.

        Raises:
            TimeoutError: the run has not ended within ``timeout``.
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        seconds = check_value("timeout", _SECONDS, timeout)
        return self._thread.call(self._execution.wait, seconds)

    def collect(self, on_output: OnOutput | None = None) -> Result:
        """Wait for the result, and pass each piece of output to ``on_output``, in this thread.

        Without ``on_output`` the result has the output. An exception cancels the run.

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
        """Wait for the end, and return the requested files.

        Raises:
            SlipwayError: as :meth:`wait`.
        """
        return self._thread.call(self._execution.files)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._thread.call(self._take_event)
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

    async def _take_event(self) -> Event | None:
        # A StopAsyncIteration cannot leave a coroutine.
        return await anext(self._execution, None)


@public
class Session:
    """Machine that takes several runs; see :class:`slipway.AsyncSession`.

    As a context manager the session opens at the beginning of the block and closes at its end.
    Several threads may call the methods at once.
    """

    def __init__(self, session: AsyncSession, thread: LoopThread, owner: object) -> None:
        self._session = session
        self._thread = thread
        # A reference, so that the runtime lives as long as the session.
        self._owner = owner

    @property
    def id(self) -> str:
        """Identifier of the session."""
        return self._session.id

    @property
    def language(self) -> str:
        """Language of all runs of the session."""
        return self._session.language

    @property
    def state(self) -> str:
        """State: opening, open, lost or ended; see :attr:`slipway.AsyncSession.state`."""
        return self._session.state

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Published ports of an open session."""
        return self._session.ports

    def open(self) -> None:
        """Wait for room, and then for the machine; see :meth:`slipway.AsyncSession.open`.

        Raises:
            Busy: the queue is full.
            InputError: the session has ended, or needs more than the whole capacity.
            HostError: this host lacks something, or no server listens.
        """
        with ExitStack() as stack:
            # An interrupt may arrive when the session is open already.
            stack.callback(self._close_if_open)
            self._thread.call(self._session.open)
            stack.pop_all()

    def start(
        self, source: Source, *, stdin: BlockingStdin | None = b"", **options: Any
    ) -> Execution:
        """Start ``source``, or queue the run behind earlier runs of the session.

        Args:
            source: text of the program, or the Path of its file.
            stdin: as for :meth:`slipway.Runtime.start`.
            options: the fields of :class:`slipway.Options`, except those of the machine.

        Raises:
            InputError: the request cannot be run as it stands, or the session is not open.
            Busy: the queue of the session is full.
            HostError: the session was lost, or was idle for too long.
        """
        opened = open_blocking_stdin(stdin)
        return start_execution(
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
            HostError: the session was lost before, or was idle for too long.
            UnknownOutcome: the machine was lost under the program, and with it the session.
        """
        check_blocking_listener(on_output)
        return self.start(source, stdin=stdin, **options).collect(on_output)

    def fork(self) -> Session:
        """Return a fork: another open session that continues from the present state of this one.

        See :meth:`slipway.AsyncSession.fork` for the exceptions.
        """
        fork = self._thread.acquire(self._session.fork, release=lambda fork: fork.close())
        return Session(fork, self._thread, self._owner)

    def close(self) -> None:
        """End the session and its runs. Idempotent."""
        try:
            self._thread.call(self._session.close)
        except InputError:  # closed with its runtime, or called in an event loop
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

    def _close_if_open(self) -> None:
        if self._session.state == "open":
            self._thread.call(self._session.close)


def start_execution(
    thread: LoopThread, start: Callable[[], Coroutine[Any, Any, AsyncExecution]], owner: object
) -> Execution:
    """Start a run by ``start`` in the loop of ``thread``, and return its handle.

    ``owner`` is kept alive by the handle.
    """
    # An interrupt may arrive when the run has started already: it would have no handle.
    execution = thread.acquire(start, release=lambda execution: execution.cancel())
    return Execution(execution, thread, owner)
