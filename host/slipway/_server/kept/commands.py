"""What a client of an events stream may ask for, as lines of JSON."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Protocol

from slipway._model.errors import InputError, SlipwayError
from slipway._wire.fields import MAX_LINE, decode_data, decode_line

if TYPE_CHECKING:
    from slipway._model.execution import AsyncStdin

HINT = (
    'A line has one command, for example {"type":"stdin","text":"hello\\n"} or {"type":"cancel"}.'
)


class Commanded(Protocol):
    """Whatever carries commands out."""

    @property
    def stdin(self) -> AsyncStdin:
        """The program's standard input."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the program; raises SlipwayError."""

    async def resize(self, rows: Any, columns: Any) -> None:
        """Give the program's terminal another size; raises SlipwayError."""

    async def cancel(self) -> None:
        """End the run."""

    async def refuse(self, error: SlipwayError) -> None:
        """Tell the client that its command was not carried out."""


class Commands:
    """Takes bytes as they come, and carries out each command before the next one is looked at.

    So a client that sends stdin faster than its program reads it has to wait.
    """

    def __init__(self, commanded: Commanded) -> None:
        self._commanded = commanded
        self._line = bytearray()
        # The rest of a line that was too long is not looked at.
        self._skipping = False

    async def feed(self, data: bytes) -> None:
        """Take ``data``; returns when the commands that end in it were carried out."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            if end or self._line or self._skipping:
                await self._gather(end)
                await self.end()
                # A flood of commands that need no waiting must not keep others waiting.
                await asyncio.sleep(0)
        await self._gather(rest)

    async def end(self) -> None:
        """Carry out what has been gathered: its line has ended."""
        line = bytes(self._line)
        self._line.clear()
        if not self._skipping and line.strip():
            try:
                await self._carry_out(decode_line(line))
            except SlipwayError as error:
                await self._commanded.refuse(error)
        self._skipping = False

    async def _gather(self, data: bytes) -> None:
        if self._skipping:
            return
        if len(self._line) + len(data) >= MAX_LINE:
            self._skipping = True
            self._line.clear()
            message = f"a line of commands has more than {MAX_LINE} bytes"
            await self._commanded.refuse(InputError(message, "Send stdin in several commands."))
            return
        self._line += data

    async def _carry_out(self, command: dict[str, Any]) -> None:
        match command.get("type"):
            case "stdin":
                await self._commanded.stdin.write(decode_data(command))
            case "stdin_end":
                await self._commanded.stdin.close()
            case "signal":
                await self._commanded.signal(signal_number(command.get("signal")))
            case "resize":
                await self._commanded.resize(command.get("rows"), command.get("columns"))
            case "cancel":
                await self._commanded.cancel()
            case other:
                raise InputError(f"there is no command {other!r:.80}", HINT)


def signal_number(value: object) -> int:
    """The signal that is meant by a number, or by a name as in ``SIGTERM`` (signal(7)).

    Raises:
        InputError: there is no such signal.
    """
    if type(value) is int and 1 <= value <= signal.SIGRTMAX:  # JSON's true is no number
        return value
    if isinstance(value, str) and value in signal.Signals.__members__:
        return signal.Signals[value]
    raise InputError(
        f"there is no signal {value!r:.80}", f"Signals are 1 to {signal.SIGRTMAX:d}, or names."
    )
