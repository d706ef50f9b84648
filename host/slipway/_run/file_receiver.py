"""Receiver of the files that a job hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._model.bounds import MAX_FILE_BYTES
from slipway._util.errors import UnknownOutcome

if TYPE_CHECKING:
    from slipway._run.job_report import JobReport
    from slipway_protocol.messages import File, Job, WholeFile


# FileData messages of a file: so many, and one more for each of so many bytes.
MIN_PIECES = 16
PIECE_BYTES = 1024


class FileReceiver:
    """Receiver of the output files of ``job``, each of which comes once or is missing.

    The files are kept in memory. The job bounds their bytes, and the agent knows that bound. All
    methods raise UnknownOutcome when the guest breaks these rules.
    """

    def __init__(self, job: Job, report: JobReport) -> None:
        self._wanted = set(job.outputs)
        self._most = job.outputs_bytes or MAX_FILE_BYTES
        self._report = report
        self._incoming: tuple[File, bytearray] | None = None
        self._pieces = 0
        self._fetched = 0

    def begin_file(self, file: File) -> None:
        """Begin with ``file``, whose data follows."""
        self._claim_path(file.path)
        self._count_bytes(file.size)
        self._incoming = (file, bytearray())
        self._pieces = 0
        self.take_data(b"")

    def take_data(self, data: bytes) -> None:
        """Add ``data`` to the file; report the file when it is complete."""
        if self._incoming is None:
            raise UnknownOutcome("file content came without a file")
        file, content = self._incoming
        content += data
        self._pieces += 1
        if self._pieces > MIN_PIECES + file.size // PIECE_BYTES:
            raise UnknownOutcome(f"the pieces of {file.path!r} are too small")
        if len(content) > file.size:
            raise UnknownOutcome(f"{file.path!r} has more bytes than were announced")
        if len(content) == file.size:
            self._report.files[file.path] = (file.mode, bytes(content))
            self._incoming = None

    def take_files(self, files: tuple[WholeFile, ...]) -> None:
        """Report ``files``, which came with their data."""
        for file in files:
            self._claim_path(file.path)
            self._count_bytes(len(file.data))
            self._report.files[file.path] = (file.mode, file.data)

    def note_missing(self, path: str, reason: str) -> None:
        """Report that the file ``path`` does not exist."""
        self._claim_path(path)
        self._report.missing[path] = reason

    def check_complete(self) -> None:
        """Check that all files came, or were reported as missing."""
        if self._wanted or self._incoming is not None:
            raise UnknownOutcome("the job ended without all of its files")

    def _count_bytes(self, size: int) -> None:
        self._fetched += size
        if self._fetched > self._most:
            raise UnknownOutcome(f"the files fetched back have more than {self._most} bytes")

    def _claim_path(self, path: str) -> None:
        if path not in self._wanted or self._incoming is not None:
            raise UnknownOutcome(f"the guest sent a file that was not asked for: {path!r}")
        self._wanted.remove(path)
