"""A program's terminal: its own side of it, and ours.

Numbers are of include/uapi/asm-generic/ioctls.h and termbits.h, which x86-64 and arm64 share.
"""

from __future__ import annotations

import errno
import fcntl
import os
from struct import pack, pack_into, unpack_from

from slipway_agent.pipes import OutputPipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_protocol.messages import Tty

_TCGETS = 0x5401
_TCSETS = 0x5402
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
# struct termios: four flag words (input, output, control, local), the discipline, characters.
_TERMIOS_BYTES = 36
_INPUT_FLAGS = 0
_LOCAL_FLAGS = 12
_CHARACTERS = 17
_IUTF8 = 0o40000
_ICANON = 2
_VEOF = 4
_CTRL_D = b"\4"
# What ends a line, or has it read or dropped: \r is \n, byte 3 interrupts, byte 4 is Ctrl-D.
_LINE_ENDS = (b"\n", b"\r", b"\3", _CTRL_D)
# Where lines are gathered, Linux keeps 4095 bytes of one that has no end and drops the others.
MAX_LINE = 2048


class Terminal:
    """A terminal of ``size``.

    We hold the program's side as well, until the program is gone: that it has closed all its
    descriptors means nothing, for it may open /dev/tty again.
    """

    def __init__(self, size: Tty) -> None:
        """Open it.

        Raises:
            OSError: there are too many.
        """
        self.ours, self.theirs = os.openpty()
        try:
            self.resize(size)
            # As all who show one do: erasing takes a whole character.
            state = self._read_state()
            (flags,) = unpack_from("I", state, _INPUT_FLAGS)
            pack_into("I", state, _INPUT_FLAGS, flags | _IUTF8)
            fcntl.ioctl(self.theirs, _TCSETS, state)
        except BaseException:
            os.close(self.ours)
            os.close(self.theirs)
            raise

    def resize(self, size: Tty) -> None:
        """Give it another size, of which its programs hear by SIGWINCH."""
        fcntl.ioctl(self.theirs, _TIOCSWINSZ, pack("HHHH", size.rows, size.columns, 0, 0))

    def read_eof_character(self) -> bytes:
        """What has the line read that was typed so far; nothing where no lines are gathered."""
        try:
            state = self._read_state()
        except OSError:
            return b""  # the program has set another line discipline, which knows no lines
        (flags,) = unpack_from("I", state, _LOCAL_FLAGS)
        character = state[_CHARACTERS + _VEOF]
        # A program may have none: 0 is _POSIX_VDISABLE.
        return bytes([character]) if flags & _ICANON and character else b""

    def close_program_side(self) -> None:
        """Close the program's side, once the program is gone: our side ends then."""
        os.close(self.theirs)

    def _read_state(self) -> bytearray:
        state = bytearray(_TERMIOS_BYTES)
        fcntl.ioctl(self.theirs, _TCGETS, state)
        return state


def set_controlling_terminal(fd: int) -> None:
    """Make the terminal ``fd`` that of the calling process, which leads a new session."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)


class Display(OutputPipe):
    """Reads what is shown on a terminal, whose end is an error."""

    def _read_bytes(self, size: int) -> bytes | None:
        # Linux gives 4 KiB at a time, and each message costs the agent and the host.
        data = self._read_bytes_once(size)
        while data and len(data) < size and (more := self._read_bytes_once(size - len(data))):
            data += more
        return data

    def _read_bytes_once(self, size: int) -> bytes | None:
        try:
            return super()._read_bytes(size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""


class Keyboard:
    """Types on ``terminal`` what the host sends; it writes to ``fd``."""

    def __init__(self, fd: int, terminal: Terminal) -> None:
        self.fd = fd
        self._terminal = terminal
        # Of the line that is being typed.
        self._typed = 0

    def write(self, data: bytes) -> int:
        """Type some of ``data``; returns how much.

        Raises:
            BlockingIOError: the program has to read before.
        """
        if self._typed >= MAX_LINE:
            self._submit_line()
        piece = data[: MAX_LINE - self._typed]
        written = os.write(self.fd, piece)
        end = max(piece.rfind(mark, 0, written) for mark in _LINE_ENDS)
        self._typed = self._typed + written if end < 0 else written - end - 1
        return written

    def write_end(self) -> None:
        """Type end of file; behind a part of a line, this needs another to be read.

        Raises:
            BlockingIOError: the program has to read before.
        """
        if self._typed:
            self._submit_line()
        os.write(self.fd, self._terminal.read_eof_character() or _CTRL_D)

    def _submit_line(self) -> None:
        """Have the part of a line read that was typed."""
        os.write(self.fd, self._terminal.read_eof_character())
        self._typed = 0
