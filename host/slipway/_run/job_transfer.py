"""Messages that bring a job to the agent: its announcement, its files and Start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway_protocol import messages as m
from slipway_protocol.joining import FileJoiner
from slipway_protocol.schema import MAX_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.input_file import InputFile
    from slipway_protocol.messages import HostMessage

# A job whose files have at most so many bytes, names included, is posted in one write. A larger one
# has a task, which waits while the guest does not read.
MAX_POSTED = 32 * 1024
# Estimate of the bytes that a file needs besides its name and content.
_FILE_HEADER = 64


def build_job_messages(
    job: m.Job, files: tuple[InputFile, ...], *, joins_files: bool
) -> Iterator[HostMessage]:
    """Build the messages of ``job``, whose number is set, and of its ``files`` in their order.

    With ``joins_files`` small files share a message, which the agent must understand.
    """
    yield job
    joiner = FileJoiner(job.job)
    for file in files:
        if joins_files and joiner.accepts(file.path, len(file.data)):
            yield from joiner.add(m.WholeFile(file.path, file.mode, file.data))
            continue
        yield from joiner.take()
        yield m.File(job.job, file.path, file.mode, len(file.data))
        for start in range(0, len(file.data), MAX_DATA):
            yield m.FileData(job.job, file.data[start : start + MAX_DATA])
    yield from joiner.take()
    yield m.Start(job.job)


def is_small(files: tuple[InputFile, ...]) -> bool:
    """Tell if a job with ``files`` is posted."""
    return sum(_FILE_HEADER + len(file.path) + len(file.data) for file in files) <= MAX_POSTED
