"""Runtime: runs and sessions in this process, within the capacity of the host."""

from __future__ import annotations

import asyncio
import math
import os
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._local.execution import LocalExecution, build_job
from slipway._local.machine_supply import MachineSupply
from slipway._local.session import LocalSession
from slipway._local.session_context import SessionContext, SessionSpec
from slipway._model.arguments import check_listener, open_stdin, read_source
from slipway._model.key import check_key
from slipway._model.options import build_options
from slipway._model.run_request import RunRequest
from slipway._model.runtime_options import (
    DEFAULT_QUEUE,
    MAX_MACHINES,
    SHARE_OF_MEMORY,
    RuntimeOptions,
)
from slipway._model.session import DEFAULT_IDLE_SECONDS, build_session_options, check_idle_seconds
from slipway._model.values import Bounds, check_value
from slipway._run.build_policy import BuildPolicy
from slipway._run.image_builds import ImageBuilds
from slipway._run.images import StoredImages
from slipway._run.languages import list_languages, select_language
from slipway._run.slot import Slot, SlotContext
from slipway._snapshots.pool_options import PoolOptions
from slipway._util.errors import Busy
from slipway._util.memory import read_free_memory
from slipway._util.public import public
from slipway._util.shares import Share

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from slipway._admission.ticket import Load
    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.language_info import LanguageInfo
    from slipway._model.result import Result
    from slipway._run.images import ImageProvider
    from slipway._run.launcher import Launcher
    from slipway._util.shares import Holdings
    from slipway_initramfs.languages.language import Language

_Seconds = Annotated[float, Bounds(0, math.inf)]


@public
class AsyncRuntime:
    """Runtime in this process: runs and sessions, each in a machine, without a server.

    Args:
        store: directory of the image store.
        machine: default of the option ``machine``: ``auto``, ``kvm`` or ``qemu``.
        arch: default of the option ``arch``: ``auto``, ``amd64`` or ``arm64``.
        kernel: default of the option ``kernel``: ``small`` or ``debian``; None: the store's choice.
        max_machines: maximum number of machines; None: as CPUs and memory allow.
        memory_budget: memory for all machines together, in bytes; None: most of the free memory.
        cpus: vCPUs for all machines together; None: the number of this process's CPUs.
        queue: maximum number of runs that wait for room.
        pool: maximum number of idle clones per language and machine size. With 0 snapshots are
            used but never created.
        cold: boot a machine for each run, even if a snapshot exists.
        snapshot_budget: disk space of all snapshots in the store, in bytes, within which the pool
            creates some; None: 8 GiB, at most a quarter of the free space.
        warm: languages whose clones are prewarmed before the first run.
        build: images that runs may have made: ``never`` any, ``listed`` ones, ``any``; ``auto`` is
            any for callers in this process.
        listed: images that are listed besides the default versions of the languages.
        images: source of images, in place of the store.
        launcher: supplier of machines, in place of pool, cold and warm.

    Raises:
        InputError: an argument is invalid.
    """

    def __init__(  # noqa: PLR0913  # keywords, each with a default
        self,
        *,
        store: str | os.PathLike[str] | None = None,
        machine: str = "auto",
        arch: str = "auto",
        kernel: str | None = None,
        max_machines: int | None = None,
        memory_budget: int | None = None,
        cpus: int | None = None,
        queue: int = DEFAULT_QUEUE,
        pool: int = 0,
        cold: bool = False,
        snapshot_budget: int | None = None,
        warm: Iterable[str] = (),
        build: str = "auto",
        listed: Iterable[str] = (),
        images: ImageProvider | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        from slipway_initramfs.store.image_store import ImageStore

        # Of wider types than the fields, to which the values are converted.
        given: dict[str, Any] = {
            "store": store,
            "machine": machine,
            "arch": arch,
            "kernel": kernel,
            "max_machines": max_machines,
            "memory_budget": memory_budget,
            "cpus": cpus,
            "queue": queue,
            "pool": pool,
            "cold": cold,
            "snapshot_budget": snapshot_budget,
            "warm": warm,
            "build": build,
            "listed": listed,
        }
        options = RuntimeOptions(**given)
        self._store = ImageStore(options.store)
        self._defaults = {"machine": options.machine, "arch": options.arch}
        if options.kernel is not None:
            self._defaults["kernel"] = options.kernel
        pool_options = PoolOptions(
            options.pool, options.cold, options.warm, options.snapshot_budget
        )
        self._admission = Admission(_find_capacity(options))
        if launcher is not None:
            self._supply = MachineSupply(launcher)
        else:
            self._supply = MachineSupply.from_store(self._store, self._admission, pool_options)
        images = images or StoredImages(self._store)
        self._builds = ImageBuilds(images, BuildPolicy(options.build, options.listed))
        self._slots = SlotContext(images, self._supply.launcher, self._admission, self._builds)
        self._executions: set[LocalExecution] = set()
        self._context = SessionContext(self._slots, set(), self._check_open)
        self._closing = ""

    @property
    def defaults(self) -> Mapping[str, str]:
        """The defaults of the options ``machine``, ``arch`` and, if given, ``kernel``, by name."""
        return self._defaults

    @property
    def store(self) -> Path:
        """Absolute path of the image store."""
        return self._store.root.absolute()

    @property
    def load(self) -> Load:
        """Numbers of machines and waiting runs, and the resources in use, with their limits."""
        return self._admission.load

    async def start(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: Stdin | None = b"",
        key: str = "",
        **options: Any,
    ) -> LocalExecution:
        """Start ``source``, or queue it.

        Args:
            source: the program's text, or the Path of its file.
            language: name of the language, for example ``python`` or ``rust@1.80``. Default: by
                the suffix of a Path.
            stdin: input of the program. None keeps stdin open for ``stdin`` of the handle.
            key: share of the queue; shares of different keys are equal.
            options: fields of :class:`slipway.Options`.

        Raises:
            InputError: an argument is invalid; nothing was started.
            Busy: the queue is full, or the runtime is being closed.
            HostError: this host lacks something.
        """
        self._check_open()
        self.begin()
        key = check_key(key)
        checked = build_options({**self._defaults, **options})
        opened = open_stdin(stdin)
        text = await read_source(source)
        found = select_language(language, source, self._store)
        request = RunRequest(text, found.name, checked, opened)
        return await self._start_job(found, request, Share(key=key))

    async def start_request(self, request: RunRequest, share: Share) -> LocalExecution:
        """Start a request with checked options, or queue it; errors are those of :meth:`start`.

        The defaults of ``machine`` and ``arch`` are not applied: see :attr:`defaults`.
        """
        self._check_open()
        self.begin()
        found = select_language(request.language, None, self._store)
        return await self._start_job(found, request, share)

    async def _start_job(
        self, language: Language, request: RunRequest, share: Share
    ) -> LocalExecution:
        job, pipe = build_job(language, request)
        slot = Slot(self._slots, language, request.options, share, check=job.check_room)
        execution = LocalExecution(job, slot, pipe)
        # A missing image is built behind the handle, which reports the progress.
        await slot.find_if_built()
        self._check_open()
        execution.begin()
        self._executions.add(execution)
        execution.call_when_ended(self._executions.discard)
        return execution

    async def run(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: Stdin = b"",
        on_output: OnOutput | None = None,
        key: str = "",
        **options: Any,
    ) -> Result:
        """Run ``source``, and wait for the end; the arguments are those of :meth:`start`.

        ``on_output`` is called as ``on_output(phase, stream, data)`` while output comes, and an
        awaitable result is awaited. Without ``on_output`` the result has the output.

        Raises:
            InputError: an argument is invalid; nothing was started.
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        check_listener(on_output)
        execution = await self.start(source, language, stdin=stdin, key=key, **options)
        return await execution.collect(on_output)

    def session(
        self,
        language: str,
        *,
        key: str = "",
        idle_seconds: float = DEFAULT_IDLE_SECONDS,
        **options: Any,
    ) -> LocalSession:
        """Create a session: one machine for several runs, which share their files.

        The session opens as a context manager or by ``open()``, and has a slot from then to its
        end.

        Args:
            language: name of the language, for example ``python`` or ``rust@1.80``.
            key: share of the queue; shares of different keys are equal.
            idle_seconds: time without a run after which the session ends.
            options: ``memory``, ``cpus``, ``machine``, ``arch``, ``port``, ``network``, ``kernel``
                and ``boot_log`` of :class:`slipway.Options`; the other options belong to the runs.

        Raises:
            InputError: an argument is invalid.
        """
        share = Share(key=check_key(key))
        return self.create_session(language, share, idle_seconds, options)

    def create_session(
        self, language: str, share: Share, idle_seconds: float, options: Mapping[str, Any]
    ) -> LocalSession:
        """Create a session for ``share``; arguments and errors are those of :meth:`session`."""
        idle_seconds = check_idle_seconds(idle_seconds)
        found = select_language(language, None, self._store)
        checked = build_session_options({**self._defaults, **options}, found.source)
        return LocalSession(self._context, SessionSpec(found, checked, share, idle_seconds))

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """List the languages, with their images."""
        return await asyncio.to_thread(list_languages, self._store, self._defaults["arch"])

    async def drain(self, seconds: float) -> None:
        """Refuse new runs; wait up to ``seconds`` for those under way, then cancel the rest."""
        seconds = check_value("seconds", _Seconds, seconds)
        self._closing = "the runtime is about to end"
        waiting = [asyncio.ensure_future(e.wait_ended()) for e in self._executions]
        waiting += [asyncio.ensure_future(session.drain()) for session in self._context.sessions]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        await self.aclose()
        await asyncio.gather(*waiting)

    async def aclose(self) -> None:
        """Cancel all runs and sessions, and wait until their machines are gone."""
        self._closing = self._closing or "the runtime has been closed"
        await asyncio.gather(
            *(execution.cancel() for execution in list(self._executions)),
            *(session.close() for session in list(self._context.sessions)),
        )
        await self._supply.close()

    @property
    def shared(self) -> Mapping[str, Holdings]:
        """What users share: machines of runs and sessions, places in the queue, image builds."""
        return {
            "machines": self._admission.machines,
            "queue": self._admission.queue,
            "builds": self._builds.holdings,
        }

    @property
    def idle(self) -> int:
        """The number of idle clones."""
        return self._supply.idle

    def begin(self) -> None:
        """Begin to prewarm; the first run does so as well."""
        if not self._closing:
            self._supply.prewarm(self._slots, build_options(self._defaults))

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        """Check that the runtime is not being closed.

        Raises:
            Busy: the runtime is being closed, or has been closed.
        """
        if self._closing:
            raise Busy(self._closing, "Try again when it has restarted.", 10.0)


def _find_capacity(options: RuntimeOptions) -> Capacity:
    """Return the bounds of ``options``, with those of this host in the place of None."""
    memory = options.memory_budget
    return Capacity(
        machines=options.max_machines or MAX_MACHINES,
        memory=int(read_free_memory() * SHARE_OF_MEMORY) if memory is None else memory,
        cpus=options.cpus or len(os.sched_getaffinity(0)),
        queue=options.queue,
    )
