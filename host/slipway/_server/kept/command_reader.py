"""Commands of a client to the program of its run, as lines of JSON on an events stream."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Protocol

from slipway._util.errors import InputError, SlipwayError
from slipway._wire.fields import MAX_LINE, decode_data, decode_line

if TYPE_CHECKING:
    from slipway._model.execution import AsyncStdin

HINT = (
    'A line has one command, for example {"type":"stdin","text":"hello\\n"} or {"type":"cancel"}.'
)


class CommandTarget(Protocol):
    """Run that carries out commands."""

    @property
    def stdin(self) -> AsyncStdin:
        """The program's standard input."""
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the program.

        Raises:
            SlipwayError: no phase runs, the signal is invalid, or the machine was lost.
        """

    async def resize(self, rows: Any, columns: Any) -> None:
        """Set the size of the program's terminal.

        Raises:
            SlipwayError: the program has no terminal, or the size is invalid.
        """

    async def cancel(self) -> None:
        """End the run."""

    async def report_refusal(self, error: SlipwayError) -> None:
        """Tell the client that its command was refused."""


class CommandReader:
    """Parser of a client's bytes, which carries out each command before the next is parsed.

    So a client that sends stdin faster than its program reads has to wait.
    """

    def __init__(self, target: CommandTarget) -> None:
        self._target = target
        self._line = bytearray()
        # The rest of a line that is too long is skipped.
        self._skipping = False

    async def feed(self, data: bytes) -> None:
        """Append ``data``, and return when all commands that end in it have been carried out."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            if end or self._line or self._skipping:
                await self._append(end)
                await self.end()
                # A flood of commands that need no waiting must not block other tasks.
                await asyncio.sleep(0)
        await self._append(rest)

    async def end(self) -> None:
        """Carry out the command in the current line, which has ended."""
        line = bytes(self._line)
        self._line.clear()
        if not self._skipping and line.strip():
            try:
                await self._carry_out(decode_line(line))
            except SlipwayError as error:
                await self._target.report_refusal(error)
        self._skipping = False

    async def _append(self, data: bytes) -> None:
        if self._skipping:
            return
        if len(self._line) + len(data) >= MAX_LINE:
            self._skipping = True
            self._line.clear()
            message = f"a line of commands has more than {MAX_LINE} bytes"
            error = InputError(message, "Send stdin in several commands.")
            await self._target.report_refusal(error)
            return
        self._line += data

    async def _carry_out(self, command: dict[str, Any]) -> None:
        match command.get("type"):
            case "stdin":
                await self._target.stdin.write(decode_data(command))
            case "stdin_end":
                await self._target.stdin.close()
            case "signal":
                await self._target.signal(parse_signal(command.get("signal")))
            case "resize":
                await self._target.resize(command.get("rows"), command.get("columns"))
            case "cancel":
                await self._target.cancel()
            case other:
                raise InputError(f"unknown command {other!r:.80}", HINT)


def parse_signal(value: object) -> int:
    """Return the number of a signal, from a number or a name such as ``SIGTERM`` (signal(7)).

    Raises:
        InputError: unknown signal.
    """
    if type(value) is int and 1 <= value <= signal.SIGRTMAX:  # bool is an int, too
        return value
    if isinstance(value, str) and value in signal.Signals.__members__:
        return signal.Signals[value]
    raise InputError(
        f"unknown signal {value!r:.80}", f"Signals are 1 to {signal.SIGRTMAX:d}, or names."
    )
