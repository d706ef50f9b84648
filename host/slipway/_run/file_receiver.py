"""Receiver of the files that a job hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._util.errors import UnknownOutcome
from slipway._util.units import MIB

if TYPE_CHECKING:
    from slipway._run.job_report import JobReport
    from slipway_protocol.messages import File, WholeFile

# Upper bound on the files of one job together, in bytes: they are kept in memory.
MAX_FETCHED = 256 * MIB


class FileReceiver:
    """Receiver of the files of ``outputs``, each of which comes once or is missing.

    All methods raise UnknownOutcome when the guest breaks that rule.
    """

    def __init__(self, outputs: tuple[str, ...], report: JobReport) -> None:
        self._wanted = set(outputs)
        self._report = report
        self._incoming: tuple[File, bytearray] | None = None
        self._fetched = 0

    def begin_file(self, file: File) -> None:
        """Begin with ``file``, whose data follows."""
        self._claim_path(file.path)
        self._count_bytes(file.size)
        self._incoming = (file, bytearray())
        self.take_data(b"")

    def take_data(self, data: bytes) -> None:
        """Add ``data`` to the file; report the file when it is complete."""
        if self._incoming is None:
            raise UnknownOutcome("file content came without a file")
        file, content = self._incoming
        content += data
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
        if self._fetched > MAX_FETCHED:
            raise UnknownOutcome(f"the files fetched back have more than {MAX_FETCHED} bytes")

    def _claim_path(self, path: str) -> None:
        if path not in self._wanted or self._incoming is not None:
            raise UnknownOutcome(f"the guest sent a file that was not asked for: {path!r}")
        self._wanted.remove(path)
