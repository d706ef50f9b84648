"""Runs in this process: as many at once as the host can take, the others in a queue."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from slipway._admission import Admission, Capacity
from slipway._assets import find_language
from slipway._errors import Busy, InputError
from slipway._events import Output
from slipway._launch import ColdLauncher
from slipway._local_execution import OVERHEAD, LocalExecution
from slipway._making import Makings
from slipway._request import options_of
from slipway._run import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from slipway._admission import Load
    from slipway._launch import Launcher
    from slipway._result import Result
    from slipway._run import OnOutput

# What is left to the host itself and to other programs, of what is free when we start.
SHARE_OF_MEMORY = 0.8
DEFAULT_QUEUE = 64
# Not a bound of ours: memory and CPUs are what runs out. It keeps descriptors and processes finite.
MAX_VMS = 256
MAX_KEY = 128


@dataclass(frozen=True, slots=True)
class LanguageInfo:
    """A language that can be run.

    ``built`` says whether its image is there; ``versions`` are the others that have one.
    """

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    versions: tuple[str, ...]
    built: bool


class AsyncRuntime:
    """Runs programs in machines of their own, in this process and without a server.

    Args:
        store: the directory of the image store.
        machine: ``auto``, ``kvm`` or ``qemu``, where a run does not say.
        max_vms: how many machines there may be at once; None: as many as CPUs and memory allow.
        memory_budget: bytes that all machines may have together; None: most of what is free now.
        cpus: vCPUs that all machines may have together; None: as many as this process has.
        queue: how many runs may wait for room.
        launcher: where machines come from; None: each run boots its own.

    Raises:
        InputError: one of them is out of its bounds.
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
        from slipway_initramfs.store import ImageStore

        self._store = ImageStore(store)
        self._machine = machine
        capacity = Capacity(
            vms=_bounded("max_vms", MAX_VMS if max_vms is None else max_vms, 1),
            memory=_bounded(
                "memory_budget",
                int(_free_memory() * SHARE_OF_MEMORY) if memory_budget is None else memory_budget,
                OVERHEAD,
            ),
            cpus=_bounded("cpus", len(os.sched_getaffinity(0)) if cpus is None else cpus, 1),
            queue=_bounded("queue", queue, 0),
        )
        self._admission = Admission(capacity)
        self._launcher = launcher or ColdLauncher(self._store)
        self._makings = Makings(self._launcher)
        self._executions: set[LocalExecution] = set()
        self._closing = ""

    @property
    def load(self) -> Load:
        """What runs and waits now, and how much may."""
        return self._admission.load

    async def start(
        self,
        source: str | bytes,
        language: str,
        *,
        stdin: bytes | AsyncIterator[bytes] | None = b"",
        key: str = "",
        **options: Any,
    ) -> LocalExecution:
        """Start ``source``, or queue it.

        Args:
            source: the program's text.
            language: a language's name, for example ``python`` or ``rust@1.80``.
            stdin: what the program reads; with None it is open, for the handle's ``stdin``.
            key: whose run it is, for fairness among those who share this runtime.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            Busy: there is no room in the queue, or the runtime is being closed.
            HostError: this host lacks something.
        """
        if self._closing:
            raise Busy(self._closing, "Try again when it has started anew.", 10.0)
        if len(key) > MAX_KEY:
            raise InputError(f"the key has {len(key)} characters, and at most {MAX_KEY} may be")
        options.setdefault("machine", self._machine)
        run = self._checked(source, language, options)
        execution = LocalExecution(run, self._admission, self._makings, key, stdin)
        # An image that has to be made is made behind the handle, which tells of it.
        await asyncio.to_thread(self._prepare_if_built, run)
        if self._closing:
            raise Busy(self._closing, "Try again when it has started anew.", 10.0)
        execution.begin()
        self._executions.add(execution)
        execution.when_over(self._executions.discard)
        return execution

    async def run(
        self,
        source: str | bytes,
        language: str,
        *,
        stdin: bytes | AsyncIterator[bytes] = b"",
        on_output: OnOutput | None = None,
        key: str = "",
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; the arguments are those of :meth:`start`.

        Where there is ``on_output``, it is called as ``await on_output(phase, stream, data)`` while
        the output comes, and the result does not hold the output.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        execution = await self.start(source, language, stdin=stdin, key=key, **options)
        async with execution:
            if on_output is not None:
                async for event in execution:
                    if isinstance(event, Output):
                        await on_output(event.phase, event.stream, event.data)
            return await execution.wait()

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """What can be run here."""
        return await asyncio.to_thread(self._languages)

    async def drain(self, seconds: float) -> None:
        """Start nothing more; wait up to ``seconds`` for what there is, then cancel the rest."""
        self._closing = "the runtime is about to end"
        waiting = [asyncio.ensure_future(e.over()) for e in self._executions]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        await self.aclose()
        await asyncio.gather(*waiting)

    async def aclose(self) -> None:
        """Cancel what runs, and wait until nothing of it is left."""
        self._closing = self._closing or "the runtime has been closed"
        await asyncio.gather(*(execution.cancel() for execution in list(self._executions)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _prepare_if_built(self, run: Run) -> None:
        if self._launcher.is_built(run.language):
            run.prepare()

    def _checked(self, source: str | bytes, language: str, options: dict[str, Any]) -> Run:
        checked = options_of(options)
        text = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
        return Run(find_language(language, self._store), text, checked, self._launcher)

    def _languages(self) -> tuple[LanguageInfo, ...]:
        from slipway_initramfs.languages import known_languages

        built: dict[str, list[str]] = {}
        for image in self._store.images():
            name, _, version = image.name.partition("@")
            built.setdefault(name, []).append(version)
        return tuple(
            LanguageInfo(
                language.name,
                language.aliases,
                language.suffixes,
                tuple(sorted(set(built.get(language.name, ())) - {""})),
                "" in built.get(language.name, ()),
            )
            for language in sorted(known_languages(self._store).values(), key=lambda x: x.name)
        )


def _bounded(name: str, value: int, least: int) -> int:
    if value < least:
        raise InputError(f"{name} is {value}, and must be at least {least}")
    return value


def _free_memory() -> int:
    """Bytes that machines can have now: what the host has free, within our cgroups' limits."""
    import psutil

    free: int = psutil.virtual_memory().available
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        # cgroup v2 is hierarchy 0; the limit of each level holds for all below it (cgroups(7)).
        if line.startswith("0::/"):
            group = Path("/sys/fs/cgroup") / line[4:]
            for level in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max", or no such file: no limit here
                    limit = int((level / "memory.max").read_text("ascii"))
                    used = int((level / "memory.current").read_text("ascii"))
                    free = min(free, max(limit - used, 0))
    return free
