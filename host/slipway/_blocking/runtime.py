"""The synchronous forms: the same runtimes and handles for programs without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from slipway._blocking.handles import Session, started
from slipway._blocking.loop_thread import LoopThread
from slipway._local.runtime import DEFAULT_QUEUE, AsyncRuntime
from slipway._model.arguments import check_blocking_listener, open_blocking_stdin
from slipway._model.session import DEFAULT_IDLE_SECONDS
from slipway._model.values import check_value
from slipway._util.public import public

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from types import TracebackType

    from slipway._admission import Load
    from slipway._blocking.handles import Execution, OnOutput
    from slipway._model.arguments import BlockingStdin, Source
    from slipway._model.language_info import LanguageInfo
    from slipway._model.result import Result
    from slipway._remote.client import AsyncClient, Health
    from slipway._run.images import ImageProvider
    from slipway._run.launcher import Launcher

_Runs = TypeVar("_Runs", bound="AsyncRuntime | AsyncClient")


class _Blocking(Generic[_Runs]):
    """What :class:`Runtime` and :class:`Client` share: ``runs`` in a thread of its own."""

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
            source: the program's text, or the Path of its file.
            language: a language's name, for example ``python`` or ``rust@1.80``; where it is left
                out, the suffix of the Path tells it.
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
        opened = open_blocking_stdin(stdin)
        return started(
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
            source: the program's text, or the Path of its file.
            language: a language's name, where the suffix of the Path does not tell it.
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
        """A machine for several runs; it opens as a context manager does.

        See :meth:`slipway.AsyncRuntime.session`, also for what it raises.
        """
        made = self._runs.session(language, key=key, idle_seconds=idle_seconds, **options)
        return Session(made, self._thread, self)

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


@public
class Runtime(_Blocking["AsyncRuntime"]):
    """Runs programs in machines of their own, in this process; see :class:`slipway.AsyncRuntime`.

    Its methods may be called from several threads at once. Machines end with :meth:`close`, or
    with the process. The arguments are those of :class:`slipway.AsyncRuntime`.
    """

    def __init__(  # noqa: PLR0913  # keywords, each with a default
        self,
        *,
        store: str | os.PathLike[str] | None = None,
        machine: str = "auto",
        max_vms: int | None = None,
        memory_budget: int | None = None,
        cpus: int | None = None,
        queue: int = DEFAULT_QUEUE,
        pool: int = 0,
        cold: bool = False,
        warm: Iterable[str] = (),
        images: ImageProvider | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        languages = check_value("warm", tuple[str, ...], warm)
        super().__init__(
            AsyncRuntime(
                store=store,
                machine=machine,
                max_vms=max_vms,
                memory_budget=memory_budget,
                cpus=cpus,
                queue=queue,
                pool=pool,
                cold=cold,
                warm=languages,
                images=images,
                launcher=launcher,
            )
        )
        if languages:
            self._thread.call(self._begin)

    @property
    def load(self) -> Load:
        """What runs and waits now, and how much may."""
        return self._thread.call(self._load)

    @property
    def idle(self) -> int:
        """How many clones wait for runs."""
        return self._thread.call(self._idle)

    def drain(self, seconds: float) -> None:
        """Start nothing more, wait up to ``seconds`` for what there is, and cancel the rest."""
        self._thread.call(lambda: self._runs.drain(seconds))

    async def _begin(self) -> None:
        self._runs.begin()

    async def _idle(self) -> int:
        return self._runs.idle

    async def _load(self) -> Load:
        return self._runs.load


@public
class Client(_Blocking["AsyncClient"]):
    """Runs programs on the server that listens at ``path``; see :class:`slipway.AsyncClient`.

    Its methods may be called from several threads at once.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, key: str = "", timeout: float = 30.0
    ) -> None:
        # It brings httpx, which a Runtime has no need of.
        from slipway._remote.client import AsyncClient

        super().__init__(AsyncClient(path, key=key, timeout=timeout))

    def health(self) -> Health:
        """How the server does; raises HostError where none listens, Busy where it ends."""
        return self._thread.call(self._runs.health)
