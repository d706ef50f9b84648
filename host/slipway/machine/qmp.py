"""Client of QEMU's machine protocol, QMP: commands and answers, one JSON object a line.

QEMU may be controlled by its guest: its lines are bounded, and all content is checked. See
docs/interop/qmp-spec in QEMU's sources.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._util.errors import HostError, NoAnswer
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from collections.abc import Callable

# The greeting is the longest line, a third of a KiB; the answer to a query is shorter.
MAX_LINE = 64 * 1024
# One piece is read at a time, and the socket is closed after so many invalid lines: a QEMU that
# writes without end must not keep all other machines of this process waiting.
MAX_NOISE = 256
# Events, and answers to no command, in the life of a QEMU. A guest can cause an event a second.
MAX_UNASKED = 16 * 1024
_PIECE = 4096
# A host under so much load that this is too short could not run the guest either.
ANSWER_SECONDS = 30.0
# Enough of an error for a person to read.
_SHOWN = 300


class Monitor:
    """Our end of the socket to QEMU's monitor, which is read until it is closed."""

    def __init__(self, end: socket.socket, *, is_negotiated: bool = False) -> None:
        """Take over ``end``; a fork of a QEMU has negotiated its capabilities before."""
        end.setblocking(False)
        self._socket = end
        self._buffer = bytearray()
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        # Numbers of the commands of send(), for whose answers no caller waits.
        self._commands: set[int] = set()
        self._noise = 0
        self._unasked = 0
        # QEMU's first refusal of a command that was only sent; empty if none.
        self.complaint = ""
        self.resumed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(end, self._on_readable)
        if not is_negotiated:
            self.send("qmp_capabilities")

    def send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Send ``command``. QEMU may still be starting; a refusal ends it."""
        with suppress(HostError):  # the end of QEMU is noticed by its process
            self._commands.add(self._write_command(command, arguments, ()))

    async def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        files: tuple[int, ...] = (),
    ) -> Any:
        """Return QEMU's answer to ``command``, which carries copies of the descriptors ``files``.

        Raises:
            HostError: QEMU refuses, has ended, or does not answer in time.
        """
        number = self._write_command(command, arguments, files)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(answer, ANSWER_SECONDS)
        except TimeoutError:
            raise NoAnswer(f"QEMU did not answer within {ANSWER_SECONDS:g} s") from None
        finally:
            self._answers.pop(number, None)

    def close(self) -> None:
        """Close the socket, and fail all that wait. May be called again."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        for answer in (*self._answers.values(), self.resumed):
            if not answer.done():
                answer.set_exception(HostError("QEMU has ended"))
                answer.exception()  # the answer may have no caller

    def _write_command(
        self, command: str, arguments: dict[str, Any] | None, files: tuple[int, ...]
    ) -> int:
        self._number += 1
        message: dict[str, Any] = {"execute": command, "id": self._number}
        if arguments is not None:
            message["arguments"] = arguments
        # Short, since QEMU reads byte by byte.
        data = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            sent = socket.send_fds(self._socket, [data], files)
        except OSError:  # ended, or the socket is full since QEMU does not read
            sent = 0
        if sent != len(data):
            self.close()  # the next command would follow half a line
            raise HostError("QEMU has ended")
        return self._number

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            self._handle_line(line)
        if self._unasked > MAX_UNASKED:
            self.complaint = self.complaint or (
                f"QEMU sent more than {MAX_UNASKED} messages that nobody asked for"
            )
        flooded = self._noise > MAX_NOISE or self._unasked > MAX_UNASKED
        if not data or len(rest) > MAX_LINE or flooded:
            self.close()

    def _handle_line(self, line: bytearray) -> None:
        """Handle a line; all but answers and the event RESUME is ignored."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._noise += 1
            return
        number = message.get("id")
        if message.get("event") == "RESUME" and not self.resumed.done():
            self.resumed.set_result(None)
        if not isinstance(number, int) or not self._is_due(number):
            self._unasked += 1
            return
        answer = self._answers.pop(number, None)
        if "return" in message:
            self._commands.discard(number)
            _resolve(answer, lambda waiting: waiting.set_result(message["return"]))
        elif "error" in message:
            error = HostError(f"QEMU refused: {_parse_description(message['error'])}")
            if number in self._commands:
                self._commands.discard(number)
                self.complaint = self.complaint or error.message
                self.send("quit")
            _resolve(answer, lambda waiting: waiting.set_exception(error))

    def _is_due(self, number: int) -> bool:
        """Tell if QEMU owes an answer to the command of this number."""
        return number in self._answers or number in self._commands


def _resolve(
    answer: asyncio.Future[Any] | None, settle: Callable[[asyncio.Future[Any]], None]
) -> None:
    """Call ``settle`` with ``answer`` if a caller still waits for it."""
    if answer is not None and not answer.done():
        settle(answer)


def _parse_description(error: object) -> str:
    text = error.get("desc") if isinstance(error, dict) else None
    return to_plain_line(text[:_SHOWN]) if isinstance(text, str) else "reason unknown"
