"""Single runs without a runtime: ``slipway.run`` and ``slipway.run_async``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._model.arguments import (
    check_listener,
    load_source,
    open_input,
    open_stdin,
    read_source,
)
from slipway._model.options import build_options
from slipway._model.values import check_value
from slipway._run.images import StoredImages
from slipway._run.job_request import JobRequest
from slipway._run.languages import select_language
from slipway._run.run import Run
from slipway._run.slot import Slot, SlotContext
from slipway._snapshots.launcher import SnapshotLauncher
from slipway._util.errors import InputError
from slipway._util.public import public

if TYPE_CHECKING:
    import os

    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.result import Result
    from slipway._run.assets import Progress


@public
def run(source: Source, language: str | None = None, **arguments: Any) -> Result:
    """Run ``source`` in a new machine, a clone if the store has a snapshot; wait for the end.

    ``arguments`` are those of :func:`run_async`.

    Raises:
        InputError: an argument is invalid; nothing was started.
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
    job, slot = _request_job(source, load_source(source), language, **arguments)
    single = Run(job, slot)
    # In this thread, not in one of a loop: an image build takes minutes, and Ctrl-C is to end it.
    slot.find()
    return asyncio.run(single.collect(on_output))


@public
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
    """Run ``source`` in a new machine, which is a clone if the store has a snapshot.

    Args:
        source: the program's text, or the Path of its file.
        language: name of the language, for example ``python``. Default: by the suffix of a Path.
        stdin: input of the program.
        on_output: called as ``on_output(phase, stream, data)`` with ``build`` or ``run`` and
            ``stdout`` or ``stderr`` while output comes; an awaitable result is awaited, and the
            program waits meanwhile. Without ``on_output`` the result has the output.
        store: directory of the image store.
        progress: called with a line for people while a missing image is built.
        options: fields of :class:`slipway.Options`.

    Raises:
        InputError: an argument is invalid; nothing was started.
        HostError: this host lacks something.
        UnknownOutcome: the machine was lost under the program.
    """
    check_listener(on_output)
    text = await read_source(source)
    job, slot = _request_job(
        source, text, language, stdin=stdin, store=store, progress=progress, **options
    )
    single = Run(job, slot)
    await asyncio.to_thread(slot.find)
    return await single.collect(on_output)


def _request_job(
    source: Source,
    text: bytes,
    language: str | None,
    *,
    stdin: Stdin = b"",
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[JobRequest, Slot]:
    """Check the arguments of a run, and build its job and slot.

    ``text`` is the content of ``source``.

    Raises:
        InputError: an argument is invalid.
    """
    checked = build_options(options)
    opened = open_stdin(stdin)
    if opened is None:
        raise InputError(
            "stdin is None, and a single run has no handle to write to",
            "Give stdin, or use a Runtime.",
        )
    if progress is not None and not callable(progress):
        raise InputError("progress is not a function", "Give a function of one line of text.")
    from slipway_initramfs.store.image_store import ImageStore

    image_store = ImageStore(check_value("store", Path | None, store))
    found = select_language(language, source, image_store)
    stream = open_input(opened, checked) if isinstance(opened, bytes) else opened
    job = JobRequest(found, text, checked, stream)
    job.check()
    context = SlotContext(StoredImages(image_store), SnapshotLauncher(image_store))
    slot = Slot(context, found, checked, check=job.check_room)
    if progress is not None:
        slot.progress = progress
    return job, slot
