"""One run from request to result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from slipway._assets import find_assets, find_language, start_machine, verify
from slipway._errors import ImageError, InputError, UnknownOutcome
from slipway._request import Options, check_source

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._assets import Assets, Progress
    from slipway._conversation import JobReport
    from slipway._guest import Guest
    from slipway._result import Result
    from slipway_initramfs.languages import Language
    from slipway_protocol.messages import Phase, Stream

    Capture = dict[tuple[Phase, Stream], bytearray]

OnOutput = Callable[[str, str, bytes], Awaitable[None]]


def run(source: str | bytes, language: str, **arguments: Any) -> Result:
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
    request, stdin = _request(source, language, **arguments)
    # Here and not in a thread of a loop's: making an image takes long, and Ctrl-C is to end it.
    request.prepare()
    return asyncio.run(request.execute(stdin, on_output))


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
    request, chunks = _request(
        source, language, stdin=stdin, store=store, progress=progress, **options
    )
    await asyncio.to_thread(request.prepare)
    return await request.execute(chunks, on_output)


def _request(
    source: str | bytes,
    language: str,
    *,
    stdin: bytes | AsyncIterator[bytes] = b"",
    store: Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Run, AsyncIterator[bytes]]:
    """Check what a caller asks for. Raises InputError."""
    try:
        checked = Options(**options)
    except TypeError as error:
        raise InputError(f"no such option: {error}", "See slipway.Options.") from None
    if not isinstance(stdin, bytes | AsyncIterator):
        raise InputError(
            f"stdin is of type {type(stdin).__name__}", "Give bytes, or an async iterator of them."
        )
    from slipway_initramfs.store import ImageStore

    request = Run(
        find_language(language, ImageStore(store)),
        # What is no UTF-8 is for the check to tell, with its line.
        source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source,
        checked,
        store=store,
        progress=progress,
    )
    return request, _chunks(stdin) if isinstance(stdin, bytes) else stdin


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
        try:
            options.check(language.source)
        except InputError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"an option has a value of the wrong type: {error}", "See slipway.Options."
            ) from None
        self._language = language
        self._source = source
        self._options = options
        self._store = ImageStore(store)
        self._progress: Progress = progress or (lambda line: None)
        self._assets: Assets | None = None
        self._reason = ""
        self._seconds: dict[str, float] = {}
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
        captured: Capture = {}

        async def sink(phase: Phase, stream: Stream, data: bytes) -> None:
            if on_output is None:
                captured.setdefault((phase, stream), bytearray()).extend(data)
            else:
                await on_output(phase.name.lower(), stream.name.lower(), data)

        machine, self._reason = await start_machine(assets, self._options)
        self._seconds = {"prepare": self._lap()}
        try:
            # Imported while the guest boots; nothing before it needs them.
            from slipway._guest import Guest

            guest = Guest(machine)
            await self._boot(guest, assets)
            report = await guest.run(assets.language, self._source, self._options, sink, stdin)
        except UnknownOutcome as error:
            for (phase, stream), data in captured.items():
                if phase.name == "RUN":
                    setattr(error, stream.name.lower(), bytes(data))
            raise
        finally:
            self._lap()
            await machine.stop()
        self._seconds["teardown"] = self._lap()
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
        self._seconds |= {"boot": guest.boot_seconds, "ready": guest.ready_seconds}

    def _result(
        self,
        assets: Assets,
        guest: Guest,
        report: JobReport,
        captured: Capture,
    ) -> Result:
        from slipway._guest import output_files, phase_results
        from slipway._result import Provenance, Result, Timing
        from slipway_protocol.messages import Phase

        assert guest.ready is not None
        phases = phase_results(report, captured)
        for phase, told in report.phases.items():
            self._seconds[phase.name.lower()] = told.seconds
        return Result(
            language=self._language.name,
            build=phases.get(Phase.BUILD),
            run=phases.get(Phase.RUN),
            files=output_files(report, self._options.outputs),
            timing=Timing(**self._seconds),
            provenance=Provenance(
                machine=guest.machine.name,
                kernel=guest.ready.kernel,
                image=assets.image.name,
                image_digest=assets.image.digest,
                agent=guest.ready.agent_version,
                memory=assets.memory,
                cpus=self._options.cpus,
                machine_reason=self._reason,
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
