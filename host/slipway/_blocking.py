"""The synchronous forms: the same runtimes and handles for programs without an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from slipway._errors import InputError
from slipway._events import Output
from slipway._loop_thread import LoopThread
from slipway._runtime import DEFAULT_QUEUE, AsyncRuntime
from slipway._threads import call_in_daemon

if TYPE_CHECKING:
    import os
    from pathlib import Path
    from types import TracebackType

    from slipway._admission import Load
    from slipway._client import AsyncClient, Health
    from slipway._events import Event
    from slipway._execution import AsyncExecution
    from slipway._launch import Launcher
    from slipway._result import OutputFile, Result
    from slipway._runtime import LanguageInfo

OnOutput = Callable[[str, str, bytes], object]

_Runs = TypeVar("_Runs", bound="AsyncRuntime | AsyncClient")


class Stdin:
    """The program's standard input, where it was left open."""

    def __init__(self, execution: AsyncExecution, thread: LoopThread) -> None:
        self._stdin = execution.stdin
        self._thread = thread

    def write(self, data: bytes) -> None:
        """Give ``data`` to the program; see :meth:`slipway.AsyncStdin.write`.

        Raises:
            InputError: stdin was given with the run, or has been closed.
        """
        self._thread.call(lambda: self._stdin.write(data))

    def close(self) -> None:
        """End of file; may be called again."""
        self._thread.call(self._stdin.close)


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
        return self._thread.call(self._execution.wait, timeout)

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


class _Blocking(Generic[_Runs]):
    """What :class:`Runtime` and :class:`Client` share: ``runs`` in a thread of its own."""

    def __init__(self, runs: _Runs) -> None:
        self._runs = runs
        self._thread = LoopThread(self, runs.aclose)

    def start(
        self,
        source: str | bytes,
        language: str,
        *,
        stdin: bytes | Iterable[bytes] | None = b"",
        key: str = "",
        **options: Any,
    ) -> Execution:
        """Start ``source``, or queue it.

        Args:
            source: the program's text.
            language: a language's name, for example ``python`` or ``rust@1.80``.
            stdin: what the program reads, at once or piece by piece; with None it is open, for the
                handle's ``stdin``. An iterator is asked in other threads than this one.
            key: whose run it is, for fairness.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            Busy: there is no room in the queue.
            HostError: this host lacks something, or no server listens.
            UnknownOutcome: the server went away before it had told what it did.
        """
        started: list[AsyncExecution] = []

        async def begin() -> None:
            given = _pieces(stdin)
            started.append(
                await self._runs.start(source, language, stdin=given, key=key, **options)
            )

        try:
            self._thread.call(begin)
        except BaseException:
            # An interrupt may come when there is a run already, and nobody would know of it.
            if started:
                self._thread.call(started[0].cancel)
            raise
        return Execution(started[0], self._thread, self)

    def run(
        self,
        source: str | bytes,
        language: str,
        *,
        stdin: bytes | Iterable[bytes] = b"",
        on_output: OnOutput | None = None,
        key: str = "",
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; see :meth:`start`.

        Args:
            source: the program's text.
            language: a language's name.
            stdin: what the program reads.
            on_output: called as ``on_output(phase, stream, data)`` in this thread while the output
                comes. The result holds the output only where this is not given.
            key: whose run it is.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            HostError: this host lacks something, or no server listens.
            UnknownOutcome: the machine or the server was lost under the program.
        """
        with self.start(source, language, stdin=stdin, key=key, **options) as execution:
            if on_output is not None:
                for event in execution:
                    if isinstance(event, Output):
                        on_output(event.phase, event.stream, event.data)
            return execution.wait()

    def languages(self) -> tuple[LanguageInfo, ...]:
        """What can be run; raises HostError."""
        return self._thread.call(self._runs.languages)

    def close(self) -> None:
        """Cancel what runs, and leave nothing behind; may be called again."""
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Runtime(_Blocking["AsyncRuntime"]):
    """Runs programs in machines of their own, in this process; see :class:`slipway.AsyncRuntime`.

    Its methods may be called from several threads at once. Machines end with :meth:`close`, or
    with the process. The arguments are those of :class:`slipway.AsyncRuntime`.
    """

    def __init__(
        self,
        *,
        store: Path | None = None,
        machine: str = "auto",
        max_vms: int | None = None,
        memory_budget: int | None = None,
        cpus: int | None = None,
        queue: int = DEFAULT_QUEUE,
        launcher: Launcher | None = None,
    ) -> None:
        super().__init__(
            AsyncRuntime(
                store=store,
                machine=machine,
                max_vms=max_vms,
                memory_budget=memory_budget,
                cpus=cpus,
                queue=queue,
                launcher=launcher,
            )
        )

    @property
    def load(self) -> Load:
        """What runs and waits now, and how much may."""
        return self._thread.call(self._load)

    def drain(self, seconds: float) -> None:
        """Start nothing more, wait up to ``seconds`` for what there is, and cancel the rest."""
        self._thread.call(lambda: self._runs.drain(seconds))

    async def _load(self) -> Load:
        return self._runs.load


class Client(_Blocking["AsyncClient"]):
    """Runs programs on the server that listens at ``path``; see :class:`slipway.AsyncClient`.

    Its methods may be called from several threads at once.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, key: str = "", timeout: float = 30.0
    ) -> None:
        # It brings httpx, which a Runtime has no need of.
        from slipway._client import AsyncClient

        super().__init__(AsyncClient(path, key=key, timeout=timeout))

    def health(self) -> Health:
        """How the server does; raises HostError where none listens, Busy where it ends."""
        return self._thread.call(self._runs.health)


def _pieces(
    stdin: bytes | Iterable[bytes] | None,
) -> bytes | AsyncIterator[bytes] | None:
    if stdin is None or isinstance(stdin, bytes):
        return stdin
    if isinstance(stdin, str | bytearray | memoryview) or not isinstance(stdin, Iterable):
        raise InputError(
            f"stdin is of type {type(stdin).__name__}", "Give bytes, or an iterable of them."
        )
    return _pulled(iter(stdin))


async def _pulled(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    # Not in the loop's thread: what somebody types is waited for.
    while (piece := await call_in_daemon(lambda: next(pieces, None))) is not None:
        yield piece
