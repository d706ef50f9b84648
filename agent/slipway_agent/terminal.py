"""Terminal of a program: the program's side and the agent's.

Source of the numbers: include/uapi/asm-generic/ioctls.h and termbits.h, for x86-64 and arm64.
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
# struct termios: four words of flags (input, output, control, local), line discipline, characters.
_TERMIOS_BYTES = 36
_INPUT_FLAGS = 0
_LOCAL_FLAGS = 12
_CHARACTERS = 17
_IUTF8 = 0o40000
_ICANON = 2
_VEOF = 4
_CTRL_D = b"\4"
# Bytes that end, submit or drop a line: \r becomes \n, byte 3 interrupts, byte 4 is Ctrl-D.
_LINE_ENDS = (b"\n", b"\r", b"\3", _CTRL_D)
# In canonical mode, Linux keeps 4095 bytes of a line without end and drops the rest.
MAX_LINE = 2048


class Terminal:
    """Pseudo-terminal; ``ours`` and ``theirs`` are the descriptors of its two sides.

    The agent keeps the program's side open until the program is gone. A program that has closed all
    its descriptors may open /dev/tty again.
    """

    def __init__(self, size: Tty) -> None:
        """Open a terminal of ``size``.

        Raises:
            OSError: too many terminals are open.
        """
        self.ours, self.theirs = os.openpty()
        try:
            self.resize(size)
            # As in other terminals, so that erasing removes a whole character.
            state = self._read_state()
            (flags,) = unpack_from("I", state, _INPUT_FLAGS)
            pack_into("I", state, _INPUT_FLAGS, flags | _IUTF8)
            fcntl.ioctl(self.theirs, _TCSETS, state)
        except OSError:
            os.close(self.ours)
            os.close(self.theirs)
            raise

    def resize(self, size: Tty) -> None:
        """Change the size; the kernel sends SIGWINCH to the programs."""
        fcntl.ioctl(self.theirs, _TIOCSWINSZ, pack("HHHH", size.rows, size.columns, 0, 0))

    def read_eof_character(self) -> bytes:
        """Return the byte that submits the typed part of a line; b"" outside canonical mode."""
        try:
            state = self._read_state()
        except OSError:
            return b""  # the program has set a line discipline without lines
        (flags,) = unpack_from("I", state, _LOCAL_FLAGS)
        character = state[_CHARACTERS + _VEOF]
        # 0 is _POSIX_VDISABLE: the program has switched the character off.
        return bytes([character]) if flags & _ICANON and character else b""

    def close_program_side(self) -> None:
        """Close the program's side, which ends the agent's. Call this after the program is gone."""
        os.close(self.theirs)

    def _read_state(self) -> bytearray:
        state = bytearray(_TERMIOS_BYTES)
        fcntl.ioctl(self.theirs, _TCGETS, state)
        return state


def set_controlling_terminal(fd: int) -> None:
    """Make ``fd`` the controlling terminal of the calling process, a session leader."""
    fcntl.ioctl(fd, _TIOCSCTTY, 0)


class Display(OutputPipe):
    """Reader of a terminal's output, whose end is the error EIO."""

    def _read_bytes(self, size: int) -> bytes | None:
        # Linux returns 4 KiB at a time; larger messages cost agent and host less.
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
    """Writer of Input to ``terminal``, by its descriptor ``fd``."""

    def __init__(self, fd: int, terminal: Terminal) -> None:
        self.fd = fd
        self._terminal = terminal
        # Bytes of the current line.
        self._typed = 0

    def write(self, data: bytes) -> int:
        """Type a part of ``data``; return the number of bytes.

        Raises:
            BlockingIOError: the program has to read first.
        """
        if self._typed >= MAX_LINE:
            self._submit_line()
        piece = data[: MAX_LINE - self._typed]
        written = os.write(self.fd, piece)
        end = max(piece.rfind(mark, 0, written) for mark in _LINE_ENDS)
        self._typed = self._typed + written if end < 0 else written - end - 1
        return written

    def write_end(self) -> None:
        """Type end of file; after a part of a line, submit that part first.

        Raises:
            BlockingIOError: the program has to read first.
        """
        if self._typed:
            self._submit_line()
        os.write(self.fd, self._terminal.read_eof_character() or _CTRL_D)

    def _submit_line(self) -> None:
        """Submit the typed part of a line."""
        os.write(self.fd, self._terminal.read_eof_character())
        self._typed = 0
