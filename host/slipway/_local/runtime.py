"""Runs in this process: as many at once as the host can take, the others in a queue."""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._admission import Admission, Capacity
from slipway._local.execution import LocalExecution, request_job
from slipway._local.machine_supply import MachineSupply
from slipway._local.session import LocalSession
from slipway._local.session_context import SessionContext, SessionSpec
from slipway._model.arguments import check_listener, open_stdin, read_source
from slipway._model.errors import Busy
from slipway._model.key import check_key
from slipway._model.options import build_options
from slipway._model.session import DEFAULT_IDLE_SECONDS, build_session_options, check_idle_seconds
from slipway._model.values import Bounds, check_value, convert
from slipway._run.image_builds import ImageBuilds
from slipway._run.images import StoredImages
from slipway._run.languages import list_languages, select_language
from slipway._run.slot import Slot, SlotContext
from slipway._util.memory import read_free_memory
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from slipway._admission import Load
    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.language_info import LanguageInfo
    from slipway._model.result import Result
    from slipway._run.images import ImageProvider
    from slipway._run.launcher import Launcher

# What is left to the host itself and to other programs, of what is free when we start.
SHARE_OF_MEMORY = 0.8
DEFAULT_QUEUE = 64
# Not a bound of ours: memory and CPUs are what runs out. It keeps descriptors and processes finite.
MAX_VMS = 256
_Some = Annotated[int, Bounds(1, math.inf)]
_Maybe = Annotated[int, Bounds(0, math.inf)]
# Less is room for no machine.
_Budget = Annotated[int, Bounds(128 << 20, math.inf)]
_Seconds = Annotated[float, Bounds(0, math.inf)]


@public
class AsyncRuntime:
    """Runs programs in machines of their own, in this process and without a server.

    Args:
        store: the directory of the image store.
        machine: ``auto``, ``kvm`` or ``qemu``, where a run does not say.
        max_vms: how many machines there may be at once; None: as many as CPUs and memory allow.
        memory_budget: bytes that all machines may have together; None: most of what is free now.
        cpus: vCPUs that all machines may have together; None: as many as this process has.
        queue: how many runs may wait for room.
        pool: how many clones of a language's machine may wait for runs; 0: none waits, and
            snapshots are used where there are some, but not made.
        cold: boot a machine for each run, whatever snapshots there are.
        warm: languages whose clones are to wait before their first run.
        images: the source of images, in place of the store.
        launcher: the supplier of machines, in place of pool, cold and warm.

    Raises:
        InputError: one of them is out of its bounds.
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
        from slipway_initramfs.store.image_store import ImageStore

        self._store = ImageStore(check_value("store", Path | None, store))
        self._machine = convert("machine", str, machine)
        vms = check_value("max_vms", _Some | None, max_vms)
        memory = check_value("memory_budget", _Budget | None, memory_budget)
        vcpus = check_value("cpus", _Some | None, cpus)
        capacity = Capacity(
            vms=MAX_VMS if vms is None else vms,
            memory=int(read_free_memory() * SHARE_OF_MEMORY) if memory is None else memory,
            cpus=len(os.sched_getaffinity(0)) if vcpus is None else vcpus,
            queue=check_value("queue", _Maybe, queue),
        )
        warm_names = check_value("warm", tuple[str, ...], warm)
        pool, cold = check_value("pool", _Maybe, pool), check_value("cold", bool, cold)
        self._admission = Admission(capacity)
        if launcher is not None:
            self._supply = MachineSupply.from_launcher(launcher)
        else:
            self._supply = MachineSupply.from_store(
                self._store, self._admission, pool=pool, cold=cold, warm=warm_names
            )
        images = images or StoredImages(self._store)
        self._slots = SlotContext(
            images, self._supply.launcher, self._admission, ImageBuilds(images)
        )
        self._executions: set[LocalExecution] = set()
        self._home = SessionContext(self._slots, set(), self._check_open)
        self._closing = ""

    @property
    def load(self) -> Load:
        """What runs and waits now, and how much may."""
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
            language: a language's name, for example ``python`` or ``rust@1.80``; where it is left
                out, the suffix of the Path tells it.
            stdin: what the program reads; with None it is open, for the handle's ``stdin``.
            key: whose run it is, for fairness among those who share this runtime.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            Busy: there is no room in the queue, or the runtime is being closed.
            HostError: this host lacks something.
        """
        self._check_open()
        self.begin()
        key = check_key(key)
        checked = build_options({"machine": self._machine, **options})
        opened = open_stdin(stdin)
        text = await read_source(source)
        found = select_language(language, source, self._store)
        job, pipe = request_job(found, text, checked, opened)
        slot = Slot(self._slots, found, checked, key, check=job.check_room)
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
        """Run ``source`` and wait for its end; the arguments are those of :meth:`start`.

        Where there is ``on_output``, it is called as ``on_output(phase, stream, data)`` while the
        output comes, and awaited where it can be; the result does not hold the output then.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
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
        """A machine for several runs, which keeps their files; it opens as a context manager does.

        It has its place among the runs from its opening to its end.

        Args:
            language: a language's name, for example ``python`` or ``rust@1.80``.
            key: whose session it is, for fairness.
            idle_seconds: without a run for so long, it ends by itself.
            options: ``memory``, ``cpus``, ``machine``, ``kernel`` and ``boot_log`` of
                :class:`slipway.Options`; the others belong to its runs.

        Raises:
            InputError: it cannot be as it stands.
        """
        key = check_key(key)
        idle_seconds = check_idle_seconds(idle_seconds)
        found = select_language(language, None, self._store)
        checked = build_session_options({"machine": self._machine, **options}, found.source)
        return LocalSession(self._home, SessionSpec(found, checked, key, idle_seconds))

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """What can be run here."""
        return await asyncio.to_thread(list_languages, self._store)

    async def drain(self, seconds: float) -> None:
        """Start nothing more; wait up to ``seconds`` for what there is, then cancel the rest."""
        seconds = check_value("seconds", _Seconds, seconds)
        self._closing = "the runtime is about to end"
        waiting = [asyncio.ensure_future(e.over()) for e in self._executions]
        waiting += [asyncio.ensure_future(session.drain()) for session in self._home.sessions]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        await self.aclose()
        await asyncio.gather(*waiting)

    async def aclose(self) -> None:
        """Cancel what runs, and wait until nothing of it is left."""
        self._closing = self._closing or "the runtime has been closed"
        await asyncio.gather(
            *(execution.cancel() for execution in list(self._executions)),
            *(session.close() for session in list(self._home.sessions)),
        )
        await self._supply.close()

    @property
    def idle(self) -> int:
        """How many clones wait for runs."""
        return self._supply.idle

    def begin(self) -> None:
        """Begin to make what is to be warm; the first run does so as well."""
        if not self._closing:
            self._supply.begin(self._slots, self._machine)

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
        """Check that it is not being closed. Raises Busy."""
        if self._closing:
            raise Busy(self._closing, "Try again when it has started anew.", 10.0)
