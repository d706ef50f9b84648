"""Command lines that arrive in pieces of any size."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway._model.options import Tty
from slipway._server.kept.command_reader import CommandReader, parse_signal
from slipway._util.data_form import encode_data
from slipway._util.errors import InputError, SlipwayError
from slipway._wire.fields import MAX_LINE
from support.played_execution import PlayedExecution, writing

if TYPE_CHECKING:
    from slipway._model.execution import AsyncStdin


class Played:
    """Target of commands with a played execution."""

    def __init__(self) -> None:
        self.execution = PlayedExecution(writing())
        self.refused: list[SlipwayError] = []

    @property
    def stdin(self) -> AsyncStdin:
        return self.execution.stdin

    async def signal(self, number: int) -> None:
        await self.execution.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        await self.execution.resize(rows, columns)

    async def cancel(self) -> None:
        await self.execution.cancel()

    async def report_refusal(self, error: SlipwayError) -> None:
        self.refused.append(error)


async def _feed(data: bytes, *, running: bool = True) -> Played:
    played = Played()
    if running:
        await anext(played.execution)
        await anext(played.execution)
    commands = CommandReader(played)
    await commands.feed(data)
    await commands.end()
    return played


def _line(**command: Any) -> bytes:
    return json.dumps(command).encode() + b"\n"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 30)), st.booleans())
def test_commands_may_come_in_any_pieces(pieces: list[bytes], cuts: list[int], ended: bool) -> None:
    async def play() -> None:
        played = Played()
        commands = CommandReader(played)
        stream = b"\n\n".join(
            json.dumps({"type": "stdin", **encode_data(piece)}).encode() for piece in pieces
        )
        stream += b"\n" if ended else b""

        for cut in cuts:
            await commands.feed(stream[:cut])
            stream = stream[cut:]
        await commands.feed(stream)
        await commands.end()

        assert played.refused == []
        assert played.execution.written == b"".join(pieces)

    asyncio.run(play())


async def test_carries_out_every_command() -> None:
    played = await _feed(
        _line(type="stdin", text="a")
        + _line(type="stdin_end")
        + _line(type="signal", signal=10)
        + _line(type="signal", signal="SIGTERM")
        + _line(type="resize", rows=30, columns=100)
        + _line(type="cancel")
    )

    assert played.refused == []
    assert played.execution.written == b"a"
    assert played.execution.input_ended
    assert played.execution.signals == [10, signal.SIGTERM]
    assert played.execution.sizes == [Tty(30, 100)]
    assert played.execution.cancels == 1


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"NaN",
        b'{"type": "reboot"}',
        b'{"type": ["stdin"]}',
        b"{}",
        b'{"type": "stdin"}',
        b'{"type": "stdin", "text": 1}',
        b'{"type": "stdin", "text": "a", "base64": "YQ=="}',
        b'{"type": "stdin", "base64": "%"}',
        b'{"type": "stdin", "text": "\\ud800"}',
        b'{"type": "signal"}',
        b'{"type": "signal", "signal": true}',
        b'{"type": "signal", "signal": 0}',
        b'{"type": "signal", "signal": 65}',
        b'{"type": "signal", "signal": "KILL"}',
        b'{"type": "signal", "signal": 1e99}',
        b'{"type": "resize"}',
        b'{"type": "resize", "rows": 24}',
        b'{"type": "resize", "rows": 24, "columns": 0}',
        b'{"type": "resize", "rows": 24, "columns": 65536}',
        b'{"type": "resize", "rows": true, "columns": 80}',
        b'{"type": "resize", "rows": "24", "columns": 80}',
    ],
)
async def test_invalid_commands_are_refused_and_the_next_are_carried_out(line: bytes) -> None:
    played = await _feed(line + b"\n" + _line(type="stdin", text="after"))

    assert len(played.refused) == 1
    assert len(played.refused[0].message) < 300
    assert played.execution.written == b"after"


async def test_refuses_a_signal_before_a_phase_runs() -> None:
    played = await _feed(_line(type="signal", signal=15), running=False)

    assert "no program of this run is running" in played.refused[0].message


async def test_refuses_a_line_without_end_once_and_keeps_none_of_it() -> None:
    played = Played()
    commands = CommandReader(played)

    for _ in range(5):
        await commands.feed(b"x" * (MAX_LINE // 2))
    await commands.feed(b"the end\n" + _line(type="stdin", text="after"))

    assert [error.message for error in played.refused] == [
        f"a line of commands has more than {MAX_LINE} bytes"
    ]
    assert played.execution.written == b"after"


async def test_a_flood_waits_for_a_program_that_does_not_read() -> None:
    played = Played()
    played.execution.reading.clear()
    commands = CommandReader(played)
    feeding = asyncio.create_task(
        commands.feed(_line(type="stdin", text="a") + _line(type="cancel"))
    )
    await asyncio.sleep(0)
    waited = played.execution.cancels == 0

    played.execution.reading.set()
    await feeding

    assert waited
    assert played.execution.cancels == 1


def test_signals_have_numbers_and_names() -> None:
    assert parse_signal(9) == 9
    assert parse_signal("SIGUSR1") == signal.SIGUSR1
    with pytest.raises(InputError, match="unknown signal 'usr1'"):
        parse_signal("usr1")
