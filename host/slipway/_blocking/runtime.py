"""Blocking runtime and client, for programs without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from slipway._blocking.handles import Session, start_execution
from slipway._blocking.loop_thread import LoopThread
from slipway._blocking.signatures import take_signature
from slipway._local.runtime import AsyncRuntime
from slipway._model.arguments import check_blocking_listener, open_blocking_stdin
from slipway._model.session import DEFAULT_IDLE_SECONDS
from slipway._model.values import check_value
from slipway._util.public import public

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from slipway._admission.ticket import Load
    from slipway._blocking.handles import Execution, OnOutput
    from slipway._model.arguments import BlockingStdin, Source
    from slipway._model.health import Health
    from slipway._model.language_info import LanguageInfo
    from slipway._model.result import Result
    from slipway._remote.client import AsyncClient

_Runs = TypeVar("_Runs", bound="AsyncRuntime | AsyncClient")


class _BlockingRuns(Generic[_Runs]):
    """Common part of :class:`Runtime` and :class:`Client`: ``runs`` in an event loop thread."""

    def __init__(self, runs: _Runs) -> None:
        self._runs = runs
        self._thread = LoopThread(self, runs.aclose)

    def start(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: BlockingStdin | None = b"",
        key: str = "",
        **options: Any,
    ) -> Execution:
        """Start ``source``, or queue it.

        Args:
            source: text of the program, or the Path of its file.
            language: name of a language, for example ``python`` or ``rust@1.80``; optional for a
                Path, whose suffix names the language.
            stdin: input of the program, at once or as an iterator; None leaves stdin open for the
                handle's ``stdin``. Iterators are called in other threads than this one.
            key: name of the caller's share of the queue, for fairness.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            Busy: the queue is full.
            HostError: this host lacks something, or no server listens.
            UnknownOutcome: the server went away before it had answered.
        """
        opened = open_blocking_stdin(stdin)
        return start_execution(
            self._thread,
            lambda: self._runs.start(source, language, stdin=opened, key=key, **options),
            self,
        )

    def run(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: BlockingStdin = b"",
        on_output: OnOutput | None = None,
        key: str = "",
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; see :meth:`start`.

        Args:
            source: text of the program, or the Path of its file.
            language: name of a language; optional for a Path whose suffix names it.
            stdin: input of the program.
            on_output: called as ``on_output(phase, stream, data)`` in this thread for each piece
                of output. Without it, the result holds the output.
            key: name of the caller's share of the queue.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            HostError: this host lacks something, or no server listens.
            UnknownOutcome: the machine or the server was lost under the program.
        """
        check_blocking_listener(on_output)
        execution = self.start(source, language, stdin=stdin, key=key, **options)
        return execution.collect(on_output)

    def session(
        self,
        language: str,
        *,
        key: str = "",
        idle_seconds: float = DEFAULT_IDLE_SECONDS,
        **options: Any,
    ) -> Session:
        """Return a session, which opens as a context manager.

        See :meth:`slipway.AsyncRuntime.session` for arguments and exceptions.
        """
        session = self._runs.session(language, key=key, idle_seconds=idle_seconds, **options)
        return Session(session, self._thread, self)

    def languages(self) -> tuple[LanguageInfo, ...]:
        """List the languages that can run.

        Raises:
            HostError: the image store is unreadable, or no server listens.
        """
        return self._thread.call(self._runs.languages)

    def close(self) -> None:
        """Cancel all runs and leave nothing behind. Idempotent."""
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


@public
class Runtime(_BlockingRuns["AsyncRuntime"]):
    """Runtime of programs in machines of this process; see :class:`slipway.AsyncRuntime`.

    Several threads may call its methods at once. Machines end with :meth:`close`, or with the
    process. The arguments are those of :class:`slipway.AsyncRuntime`.
    """

    @take_signature(AsyncRuntime.__init__)
    def __init__(self, **arguments: Any) -> None:
        # The languages may be an iterator, which is read once.
        languages = check_value("warm", tuple[str, ...], arguments.get("warm", ()))
        super().__init__(AsyncRuntime(**{**arguments, "warm": languages}))
        if languages:
            self._thread.call(self._begin_prewarming)

    @property
    def load(self) -> Load:
        """Counts of running and waiting runs, and their capacity."""
        return self._thread.call(self._read_load)

    @property
    def idle(self) -> int:
        """Number of idle clones in the pool."""
        return self._thread.call(self._count_idle)

    def drain(self, seconds: float) -> None:
        """Start nothing more, wait up to ``seconds`` for current runs, and cancel the rest."""
        self._thread.call(lambda: self._runs.drain(seconds))

    async def _begin_prewarming(self) -> None:
        self._runs.begin()

    async def _count_idle(self) -> int:
        return self._runs.idle

    async def _read_load(self) -> Load:
        return self._runs.load


@public
class Client(_BlockingRuns["AsyncClient"]):
    """Client of the server that listens at ``path``; see :class:`slipway.AsyncClient`.

    Several threads may call its methods at once.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, key: str = "", timeout: float = 30.0
    ) -> None:
        # Modules that a Runtime does not need.
        from slipway._remote.client import AsyncClient

        super().__init__(AsyncClient(path, key=key, timeout=timeout))

    def health(self) -> Health:
        """Ask for the state of the server.

        Raises:
            HostError: no server listens.
            Busy: the server is about to end.
        """
        return self._thread.call(self._runs.health)
