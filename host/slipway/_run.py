"""One run from request to result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slipway._assets import find_assets, find_language, verify
from slipway._errors import ImageError, InputError, UnknownOutcome
from slipway._guest import Guest, output_files, phase_results
from slipway._request import Options, check_source
from slipway._result import Provenance, Result, Timing
from slipway_protocol.messages import Phase, Stream

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._assets import Assets, Progress
    from slipway._session import JobReport
    from slipway_initramfs.languages import Language

OnOutput = Callable[[str, str, bytes], Awaitable[None]]


def run(source: str | bytes, language: str, **options: Any) -> Result:
    """Run ``source`` in a new machine and wait for its end.

    ``options`` are those of :func:`run_async`.

    Raises:
        InputError: the request cannot be run as it stands; nothing was started.
        HostError: this host lacks something.
        UnknownOutcome: the machine was lost under the program.
    """
    return asyncio.run(run_async(source, language, **options))


async def run_async(
    source: str | bytes,
    language: str,
    *,
    stdin: bytes | AsyncIterator[bytes] = b"",
    on_output: OnOutput | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run ``source`` in a new machine.

    Args:
        source: the program's text.
        language: a language's name, for example ``python``.
        stdin: what the program reads on its stdin.
        on_output: called as ``await on_output(phase, stream, data)`` with ``build`` or ``run`` and
            ``stdout`` or ``stderr`` while the output comes. While it waits, so does the program.
            The result holds the output only where this is not given.
        store: the directory of the image store.
        progress: called with a line for people when an image has to be made first.
        options: the fields of :class:`slipway.Options`.

    Raises:
        InputError: the request cannot be run as it stands; nothing was started.
        HostError: this host lacks something.
        UnknownOutcome: the machine was lost under the program.
    """
    try:
        checked = Options(**options)
    except TypeError as error:
        raise InputError(f"no such option: {error}", "See slipway.Options.") from None
    run = Run(
        find_language(language),
        source.encode("utf-8") if isinstance(source, str) else source,
        checked,
        store=store,
        progress=progress,
    )
    await asyncio.to_thread(run.prepare)
    return await run.execute(_chunks(stdin) if isinstance(stdin, bytes) else stdin, on_output)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


class Run:
    """A checked request and the steps to its result."""

    def __init__(
        self,
        language: Language,
        source: bytes,
        options: Options,
        *,
        store: Path | None = None,
        progress: Progress | None = None,
        began: float | None = None,
    ) -> None:
        from slipway_initramfs.store import ImageStore

        check_source(source)
        options.check(language.source)
        self._language = language
        self._source = source
        self._options = options
        self._store = ImageStore(store)
        self._progress: Progress = progress or (lambda line: None)
        self._assets: Assets | None = None
        self._timing = Timing()
        self._mark = time.monotonic() if began is None else began

    async def execute(self, stdin: AsyncIterator[bytes], on_output: OnOutput | None) -> Result:
        """Boot, run, and tear down, whatever happens; :meth:`prepare` comes first."""
        try:
            return await self._in_guest(self.prepare(), stdin, on_output)
        except _Corrupted:
            # Nothing of the program has run: the image is checked before the job is sent.
            self._progress("the stored image is damaged; making it again")
            await asyncio.to_thread(self._repair)
            return await self._in_guest(self.prepare(), stdin, on_output)

    def prepare(self) -> Assets:
        """Find what to boot; where the image is not there yet, make it, which takes its time.

        Raises:
            ImageError: it cannot be made.
            InputError: the machine would have too little memory.
        """
        if self._assets is None:
            self._assets = find_assets(self._language, self._options, self._store, self._progress)
        return self._assets

    def _repair(self) -> None:
        self._assets = find_assets(
            self._language, self._options, self._store, self._progress, repair=True
        )

    async def _in_guest(
        self, assets: Assets, stdin: AsyncIterator[bytes], on_output: OnOutput | None
    ) -> Result:
        captured: dict[tuple[Phase, Stream], bytearray] = {}

        async def sink(phase: Phase, stream: Stream, data: bytes) -> None:
            if on_output is None:
                captured.setdefault((phase, stream), bytearray()).extend(data)
            else:
                await on_output(phase.name.lower(), stream.name.lower(), data)

        guest = await Guest.start(assets, self._options)
        self._timing.prepare = self._lap()
        try:
            await self._boot(guest, assets)
            report = await guest.run(self._language, self._source, self._options, sink, stdin)
        except UnknownOutcome as error:
            error.stdout = bytes(captured.get((Phase.RUN, Stream.STDOUT), b""))
            error.stderr = bytes(captured.get((Phase.RUN, Stream.STDERR), b""))
            raise
        finally:
            self._lap()
            await guest.stop()
        self._timing.teardown = self._lap()
        return self._result(assets, guest, report, captured)

    async def _boot(self, guest: Guest, assets: Assets) -> None:
        """Wait for the agent while the bytes that boot are checked against their digests."""
        from slipway_initramfs.errors import ImageCorrupted

        check = asyncio.create_task(asyncio.to_thread(verify, assets, self._store))
        try:
            await guest.wait_ready()
        finally:
            # A damaged image is the better explanation of a guest that did not boot.
            try:
                await check
            except ImageCorrupted:
                raise _Corrupted from None
        self._timing.boot = guest.boot_seconds
        self._timing.ready = guest.ready_seconds
        self._mark = time.monotonic()

    def _result(
        self,
        assets: Assets,
        guest: Guest,
        report: JobReport,
        captured: dict[tuple[Phase, Stream], bytearray],
    ) -> Result:
        assert guest.ready is not None
        phases = phase_results(report, captured)
        for phase, told in report.phases.items():
            setattr(self._timing, phase.name.lower(), told.seconds)
        return Result(
            language=self._language.name,
            build=phases.get(Phase.BUILD),
            run=phases.get(Phase.RUN),
            files=output_files(report, self._options.outputs),
            timing=replace(self._timing),
            provenance=Provenance(
                machine=guest.machine.name,
                kernel=guest.ready.kernel,
                image=assets.image.name,
                image_digest=assets.image.digest,
                agent=guest.ready.agent_version,
                memory=assets.memory,
                cpus=self._options.cpus,
            ),
        )

    def _lap(self) -> float:
        now = time.monotonic()
        elapsed, self._mark = now - self._mark, now
        return elapsed


class _Corrupted(ImageError):
    def __init__(self) -> None:
        super().__init__(
            "the stored image is damaged and was damaged again after it had been made anew",
            "Check the disk of the image store: slipway doctor",
        )
