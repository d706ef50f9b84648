"""One run from request to result."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from slipway._arguments import (
    check_listener,
    language_of,
    open_stdin,
    read_source,
    source_bytes,
    tell,
)
from slipway._errors import InputError, UnknownOutcome
from slipway._launch import ColdLauncher, DamagedImage
from slipway._outlet import Watcher
from slipway._request import check_source, options_of
from slipway._sizing import check_room
from slipway._sources import check_source_names
from slipway._threads import call_in_daemon, uninterrupted
from slipway._values import take

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from slipway._arguments import OnOutput, Source, Stdin
    from slipway._assets import Assets, Progress
    from slipway._conversation import JobReport
    from slipway._guest import Guest
    from slipway._launch import Launcher
    from slipway._request import Options, Tty
    from slipway._result import Result
    from slipway_initramfs.languages import Language
    from slipway_protocol.messages import Phase, Stream

    Capture = dict[tuple[Phase, Stream], bytearray]


def run(source: Source, language: str | None = None, **arguments: Any) -> Result:
    """Run ``source`` in a new machine and wait for its end.

    ``arguments`` are those of :func:`run_async`.

    Raises:
        InputError: the request cannot be run as it stands; nothing was started.
        HostError: this host lacks something.
        UnknownOutcome: the machine was lost under the program.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise InputError(
            "run() would block the event loop that it is called in",
            "Use: await slipway.run_async(...)",
        )
    on_output = arguments.pop("on_output", None)
    check_listener(on_output)
    request, stdin = _request(source, source_bytes(source), language, **arguments)
    # Here and not in a thread of a loop's: making an image takes long, and Ctrl-C is to end it.
    request.prepare()
    return asyncio.run(request.execute(stdin, on_output))


async def run_async(
    source: Source,
    language: str | None = None,
    *,
    stdin: Stdin = b"",
    on_output: OnOutput | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run ``source`` in a new machine.

    Args:
        source: the program's text, or the Path of its file.
        language: a language's name, for example ``python``; where it is left out, the suffix of
            the Path tells it.
        stdin: what the program reads on its stdin.
        on_output: called as ``on_output(phase, stream, data)`` with ``build`` or ``run`` and
            ``stdout`` or ``stderr`` while the output comes, and awaited where it can be. While it
            waits, so does the program. The result holds the output only where this is not given.
        store: the directory of the image store.
        progress: called with a line for people when an image has to be made first.
        options: the fields of :class:`slipway.Options`.

    Raises:
        InputError: the request cannot be run as it stands; nothing was started.
        HostError: this host lacks something.
        UnknownOutcome: the machine was lost under the program.
    """
    check_listener(on_output)
    text = await read_source(source)
    request, chunks = _request(
        source, text, language, stdin=stdin, store=store, progress=progress, **options
    )
    await asyncio.to_thread(request.prepare)
    return await request.execute(chunks, on_output)


def _request(
    source: Source,
    text: bytes,
    language: str | None,
    *,
    stdin: Stdin = b"",
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Run, AsyncIterator[bytes]]:
    """Check what a caller asks for; ``text`` is what was read of ``source``. Raises InputError."""
    checked = options_of(options)
    opened = open_stdin(stdin)
    if opened is None:
        raise InputError(
            "stdin is None, and there is no handle to write to", "Give it, or use a Runtime."
        )
    if progress is not None and not callable(progress):
        raise InputError("progress is no function", "It takes a line of text.")
    from slipway_initramfs.store import ImageStore

    images = ImageStore(take("store", Path | None, store))
    language_found = language_of(language, source, images)
    request = Run(language_found, text, checked, ColdLauncher(images), progress=progress)
    return request, chunks(opened) if isinstance(opened, bytes) else opened


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    """``data`` as a stream."""
    if data:
        yield data


class RunWatcher(Watcher, Protocol):
    """Hears of a run's steps as well; no method may wait."""

    def booted(self, machine: str) -> None:
        """The machine, ``kvm`` or ``qemu``, has booted and its agent is ready."""


class Run:
    """A checked request and the steps to its result."""

    def __init__(
        self,
        language: Language,
        source: bytes,
        options: Options,
        launcher: Launcher,
        *,
        progress: Progress | None = None,
        began: float | None = None,
        keep: bool = False,
    ) -> None:
        """``keep``: its files stay for the next run in the same guest."""
        check_source(source)
        options.check(language.source)
        check_source_names(language, options.files)
        self.language = language
        self._source = source
        self.options = options
        self._launcher = launcher
        self._keep = keep
        self.progress: Progress = progress or (lambda line: None)
        self.assets: Assets | None = None
        self._guest: Guest | None = None
        self._seconds: dict[str, float] = {}
        self._mark = time.monotonic() if began is None else began

    async def execute(
        self,
        stdin: AsyncIterator[bytes],
        on_output: OnOutput | None,
        watcher: RunWatcher | None = None,
    ) -> Result:
        """Boot, run, and tear down, whatever happens; :meth:`prepare` comes first.

        Where there is a ``watcher``, stdout and stderr come in the order in which they were
        written, as nearly as the agent knows it.
        """
        try:
            return await self._in_guest(self.prepare(), stdin, on_output, watcher)
        except DamagedImage:
            # Nothing of the program has run: the image is checked before the job is sent.
            self.progress("the stored image is damaged; making it again")
            await call_in_daemon(lambda: self._find(repair=True))
            return await self._in_guest(self.prepare(), stdin, on_output, watcher)

    @property
    def footprint(self) -> int:
        """Bytes that its machine takes of the host at most; known when it is prepared."""
        assert self.assets is not None
        return self.assets.memory + self._launcher.overhead(self.options)

    def prepare(self) -> Assets:
        """Find what to boot; where the image is not there yet, make it, which takes its time.

        Raises:
            ImageError: it cannot be made.
            InputError: the machine would have too little memory for it.
        """
        return self.assets or self._find(repair=False)

    def _find(self, *, repair: bool) -> Assets:
        assets = self._launcher.find(self.language, self.options, self.progress, repair=repair)
        check_room(assets.image, self.language, assets.memory, self.options, len(self._source))
        self.assets = assets
        return assets

    def forget(self) -> None:
        """Drop the source and the files; it cannot be executed again."""
        self._source = b""
        self.options = replace(self.options, files=())

    def waited(self) -> None:
        """The time since the last step was spent waiting for room."""
        self._seconds["queue"] = self._lap()

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program, if there is a machine with one.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._guest is not None:
            await self._guest.signal(number)

    async def resize(self, size: Tty) -> None:
        """Give the program's terminal another size, now or from its beginning.

        Raises:
            InputError: it has none.
            UnknownOutcome: the machine has ended.
        """
        from slipway._jobs import terminal_size

        if not self.options.tty:
            raise InputError("the program has no terminal", "Start it with tty=True.")
        self.options = replace(self.options, tty=size)
        if self._guest is not None:
            await self._guest.resize(terminal_size(size))

    async def cancel(self) -> None:
        """Have the agent end the job, if there is a machine with one.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        if self._guest is not None:
            await self._guest.cancel()

    async def _in_guest(
        self,
        assets: Assets,
        stdin: AsyncIterator[bytes],
        on_output: OnOutput | None,
        watcher: RunWatcher | None,
    ) -> Result:
        captured: Capture = {}

        async def sink(phase: Phase, stream: Stream, data: bytes) -> None:
            if on_output is None:
                captured.setdefault((phase, stream), bytearray()).extend(data)
            else:
                await tell(on_output, phase.name.lower(), stream.name.lower(), data)

        guest = await self._launcher.launch(assets, self.options)
        self._guest = guest
        self._seconds |= {
            "prepare": guest.began - self._mark,
            "boot": guest.boot_seconds,
            "ready": guest.ready_seconds,
            "restore": guest.restore_seconds,
        }
        try:
            if watcher is not None:
                watcher.booted(guest.machine.name)
            report = await guest.run(
                assets.language, self._source, self.options, sink, stdin, watcher, keep=self._keep
            )
        except UnknownOutcome as error:
            for (phase, stream), data in captured.items():
                if phase.name == "RUN":
                    setattr(error, stream.name.lower(), bytes(data))
            raise
        finally:
            self._guest = None
            self._lap()
            await uninterrupted(self._launcher.release(guest))
        self._seconds["teardown"] = self._lap()
        return self._result(assets, guest, report, captured)

    def _result(
        self,
        assets: Assets,
        guest: Guest,
        report: JobReport,
        captured: Capture,
    ) -> Result:
        from slipway._reports import output_files, phase_results
        from slipway._result import Provenance, Result, Timing
        from slipway_protocol.messages import Phase

        assert guest.ready is not None
        phases = phase_results(report, captured)
        for phase, told in report.phases.items():
            self._seconds[phase.name.lower()] = told.seconds
        return Result(
            language=self.language.name,
            build=phases.get(Phase.BUILD),
            run=phases.get(Phase.RUN),
            files=output_files(report, self.options.outputs),
            tty=bool(self.options.tty),
            timing=Timing(**self._seconds),
            provenance=Provenance(
                machine=guest.machine.name,
                kernel=guest.ready.kernel,
                image=assets.image.name,
                image_digest=assets.image.digest,
                agent=guest.ready.agent_version,
                memory=assets.memory,
                cpus=self.options.cpus,
                machine_reason=guest.origin.machine_reason,
                start=guest.origin.start,
                start_reason=guest.origin.start_reason,
            ),
        )

    def _lap(self) -> float:
        now = time.monotonic()
        elapsed, self._mark = now - self._mark, now
        return elapsed
