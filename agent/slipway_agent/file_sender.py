"""Files of a job that the host requested, on their way to the host."""

from __future__ import annotations

import os
import stat

from slipway_agent.files import open_for_reading
from slipway_protocol import messages as m
from slipway_protocol.joining import FileJoiner
from slipway_protocol.schema import MAX_DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class FileError(Exception):
    """Failure to send a file; the text is the reason."""


class OutgoingFile:
    """File that the host has requested."""

    def __init__(self, root: str, path: str, max_bytes: int) -> None:
        """Open the file, which may come from a hostile program.

        Raises:
            FileError: the file is missing, not a regular file, or larger than ``max_bytes``.
        """
        try:
            self._fd = open_for_reading(root, path)
        except OSError as error:
            raise FileError(_explain_failure(root, path, error)) from None
        status = os.fstat(self._fd)
        self.mode = stat.S_IMODE(status.st_mode) & 0o777
        self.size = self.left = status.st_size
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise FileError("not a regular file")
        if self.size > max_bytes:
            os.close(self._fd)
            raise FileError(f"{self.size} bytes are more than the disk has")

    def read(self) -> bytes:
        """Return the next piece; empty at the end.

        Raises:
            FileError: the file was truncated while it was sent.
        """
        data = os.read(self._fd, min(MAX_DATA, self.left))
        if self.left and not data:
            raise FileError("the file was truncated while it was sent")
        self.left -= len(data)
        return data

    def read_all(self) -> bytes:
        """Return the data and close the file, also after an error; at most ``MAX_DATA`` bytes.

        Raises:
            FileError: the file was truncated while it was sent.
        """
        try:
            pieces = []
            while self.left:
                pieces.append(self.read())
            return b"".join(pieces)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class FileSender:
    """Sender of the files ``spec.outputs`` below ``root``, one step after the other.

    With ``joins_files`` small files travel together, which the host must understand.
    """

    def __init__(
        self,
        spec: m.Job,
        root: str,
        max_bytes: int,
        send: Callable[[m.Message], None],
        *,
        joins_files: bool,
    ) -> None:
        """``max_bytes``: the size of the disk, which no file of it exceeds."""
        self._job = spec.job
        self._bound = spec.outputs_bytes
        self._claimed = 0  # bytes of the files up to now
        self._root = root
        self._max_bytes = max_bytes
        self._send = send
        self._joiner = FileJoiner(spec.job) if joins_files else None
        self._paths = list(reversed(spec.outputs))
        self._file: OutgoingFile | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """Report the files that have not been opened yet as missing."""
        self._is_cancelled = True

    def send_next(self) -> bool:
        """Send a piece of a file, or open the next; return False when all have been sent."""
        if self._file is not None:
            self._send_piece(self._file)
        elif self._paths:
            self._begin_file(self._paths.pop())
        else:
            self._flush()
            return False
        return True

    def close(self) -> None:
        """Close the file that is being sent, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin_file(self, path: str) -> None:
        try:
            if self._is_cancelled:
                raise FileError("the job was cancelled")
            file = OutgoingFile(self._root, path, self._max_bytes)
            self._claim_room(file)
            if self._joiner is not None and self._joiner.accepts(path, file.size):
                whole = m.WholeFile(path, file.mode, file.read_all())
                self._send_all(self._joiner.add(whole))
                return
        except FileError as error:
            self._flush()
            self._send(m.FileMissing(self._job, path, str(error)))
            return
        self._flush()
        self._file = file
        self._send(m.File(self._job, path, file.mode, file.size))

    def _claim_room(self, file: OutgoingFile) -> None:
        """Claim room for ``file`` within the bound of all files of the job, or close the file.

        Raises:
            FileError: too little room is left.
        """
        room = self._bound - self._claimed
        if self._bound and file.size > room:
            file.close()
            raise FileError(
                f"it has {file.size} bytes, and {room} are left of the fetch_limit of {self._bound}"
            )
        self._claimed += file.size

    def _send_piece(self, file: OutgoingFile) -> None:
        if file.left:
            self._send(m.FileData(self._job, file.read()))
        else:
            self.close()

    def _flush(self) -> None:
        """Send the small files that wait: files are sent in the order of the request."""
        if self._joiner is not None:
            self._send_all(self._joiner.take())

    def _send_all(self, messages: list[m.Files]) -> None:
        for message in messages:
            self._send(message)


def _explain_failure(root: str, path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    here = root
    for part in path.split("/"):
        here = f"{here}/{part}"
        if os.path.islink(here):
            return "the path contains a symbolic link"
    return error.strerror or str(error)
