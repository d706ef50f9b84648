"""Files that a guest boots from.

Files are read by position and never mapped: a file that is shortened meanwhile is then an error,
while a mapping would cause a SIGBUS.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, contextmanager

from slipway._util.errors import HostError, InputError
from slipway._util.units import MIB, format_mib
from slipway.vmm.pages import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slipway.vmm.memory import GuestMemory

_AGAIN = "Copy or build it again."


@contextmanager
def open_files(paths: Sequence[str]) -> Iterator[list[tuple[int, int]]]:
    """Open regular files to read; yield descriptor and size in bytes of each.

    Raises:
        HostError: a file is missing, or not a regular file.
    """
    with ExitStack() as cleanup:
        files = []
        for path in paths:
            try:
                # O_NONBLOCK: to open a FIFO would wait for its writer.
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError as error:
                raise HostError(f"cannot open {path}: {error.strerror}") from None
            except ValueError as error:  # a NUL in the path
                raise HostError(f"cannot open {path!r}: {error}") from None
            cleanup.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise HostError(f"{path} is not a file")
            files.append((descriptor, status.st_size))
        yield files


def place_initramfs(
    memory: GuestMemory, archives: Sequence[str], start: int, end: int
) -> tuple[int, int]:
    """Load ``archives`` one after the other to the end of the memory from ``start`` to ``end``.

    Each begins on a new page; the kernel skips the zeros between them. Return address and size, in
    bytes.

    Raises:
        InputError: the memory has too little room.
        HostError: an archive cannot be read.
    """
    base = memory.regions[0].address
    with open_files(archives) as files:
        sizes = [-(-size // PAGE) * PAGE for _, size in files]
        total = sum(sizes)
        address = (end - total) // PAGE * PAGE
        if address < start:
            needed = format_mib(((start - base + total) // MIB + 1) * MIB)
            raise InputError(
                f"kernel and initramfs need {needed} of memory to be loaded,"
                f" and the machine has {format_mib(end - base)}",
                "Give it more: --memory.",
            )
        at = address
        for (descriptor, size), room in zip(files, sizes, strict=True):
            memory.load(at, descriptor, size)
            at += room
    return address, total


class KernelFile:
    """Kernel in a regular file, read by position; ``wanted`` is the hint of its errors."""

    __slots__ = ("_fd", "path", "size")

    def __init__(self, path: str | os.PathLike[str], wanted: str) -> None:
        """Open ``path``.

        Raises:
            InputError: the file cannot be read, or is not a regular file.
        """
        self.path = path
        try:
            # O_NONBLOCK: to open a FIFO would wait for its writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise InputError(f"kernel {path}: no such file", wanted) from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}", wanted) from None
        except ValueError as error:  # a NUL in the path
            raise InputError(f"cannot read {str(path)!r}: {error}", wanted) from None
        status = os.fstat(self._fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InputError(f"{path} is {kind}", wanted)

    def read_into(self, target: bytearray | memoryview, offset: int) -> None:
        """Read into ``target``, which is zeros; the holes of a sparse file are skipped.

        Raises:
            InputError: the file has become shorter, or cannot be read.
        """
        view = memoryview(target)
        end = offset + len(view)
        at = offset
        try:
            while at < end:
                at, hole = self._find_data(at, end)
                while at < hole:
                    count = os.preadv(self._fd, [view[at - offset : hole - offset]], at)
                    if not count:
                        raise InputError(f"{self.path} became shorter while it was read", _AGAIN)
                    at += count
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from None

    def _find_data(self, start: int, end: int) -> tuple[int, int]:
        """Return start and end of the next data before ``end``; both are ``end`` at the end."""
        try:
            data = min(end, os.lseek(self._fd, start, os.SEEK_DATA))
            return data, min(end, os.lseek(self._fd, data, os.SEEK_HOLE)) if data < end else end
        except OSError as error:
            if error.errno != errno.ENXIO:
                return start, end  # a file system without holes
        # A hole up to the end; or the file has become shorter.
        return (end, end) if os.fstat(self._fd).st_size >= end else (start, end)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
