"""Files that a guest boots from."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager

from slipway._util.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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
