"""QEMU's monitor, played by a socket: what it answers, and what a guest that broke out might."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from slipway._util.errors import HostError
from slipway.machine import migration
from slipway.machine.qmp import MAX_LINE, MAX_NOISE, MAX_UNASKED, Monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GREETING = b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n'


class Qemu:
    """The other end of a monitor's socket."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end
        self._read = b""

    async def say(self, *messages: bytes | dict[str, Any]) -> None:
        """Send lines, or objects as lines."""
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            await asyncio.get_running_loop().sock_sendall(self.end, data)

    async def hear(self) -> dict[str, Any]:
        """The next command."""
        while b"\n" not in self._read:
            data = await asyncio.get_running_loop().sock_recv(self.end, 4096)
            assert data, "the monitor hung up"
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        heard: dict[str, Any] = json.loads(line)
        return heard


@asynccontextmanager
async def open_monitor() -> AsyncIterator[tuple[Monitor, Qemu]]:
    """A monitor whose handshake is over, and who plays QEMU for it."""
    ours, theirs = socket.socketpair()
    with theirs:
        monitor, played_qemu = Monitor(ours), Qemu(theirs)
        handshake = await played_qemu.hear()
        assert handshake["execute"] == "qmp_capabilities"
        await played_qemu.say(GREETING, {"return": {}, "id": handshake["id"]})
        yield monitor, played_qemu
        monitor.close()


@pytest_asyncio.fixture
async def qemu() -> AsyncIterator[tuple[Monitor, Qemu]]:
    async with open_monitor() as both:
        yield both


async def test_question_gets_its_own_answer(qemu: tuple[Monitor, Qemu]) -> None:
    monitor, played_qemu = qemu
    asked = [
        asyncio.create_task(monitor.execute("first")),
        asyncio.create_task(monitor.execute("second")),
    ]
    first, second = await played_qemu.hear(), await played_qemu.hear()

    await played_qemu.say(
        {"event": "STOP", "timestamp": {}},
        {"return": "for the second", "id": second["id"]},
        {"return": "for nobody", "id": 4711},
        {"return": "for the first", "id": first["id"]},
    )

    assert await asyncio.gather(*asked) == ["for the first", "for the second"]


async def test_descriptor_goes_along_with_its_question(qemu: tuple[Monitor, Qemu]) -> None:
    monitor, played_qemu = qemu
    reading, writing = os.pipe()
    try:
        asked = asyncio.create_task(monitor.execute("getfd", {"fdname": "state"}, files=(writing,)))
        await asyncio.sleep(0)
        data, files, _, _ = socket.recv_fds(played_qemu.end, 4096, 4)
        os.write(files[0], b"passed")
        os.close(files[0])
        await played_qemu.say({"return": {}, "id": json.loads(data)["id"]})

        await asked
        assert os.read(reading, 10) == b"passed"
    finally:
        os.close(reading)
        os.close(writing)


async def test_refusal_is_told_in_qemus_words(qemu: tuple[Monitor, Qemu]) -> None:
    monitor, played_qemu = qemu
    asked = asyncio.create_task(monitor.execute("cont"))
    number = (await played_qemu.hear())["id"]

    await played_qemu.say({"error": {"class": "GenericError", "desc": "no\x1b[2J"}, "id": number})

    with pytest.raises(HostError, match=r"QEMU refused: no \[2J"):
        await asked


@pytest.mark.parametrize("error", [{}, None, 7, {"desc": 7}, {"desc": None}])
async def test_refusal_without_words_is_one(qemu: tuple[Monitor, Qemu], error: object) -> None:
    monitor, played_qemu = qemu
    asked = asyncio.create_task(monitor.execute("cont"))
    number = (await played_qemu.hear())["id"]

    await played_qemu.say({"error": error, "id": number})

    with pytest.raises(HostError, match="reason unknown"):
        await asked


async def test_command_that_is_refused_ends_qemu_and_is_remembered(
    qemu: tuple[Monitor, Qemu],
) -> None:
    monitor, played_qemu = qemu
    monitor.send("migrate-incoming", {"uri": "fd:7"})
    number = (await played_qemu.hear())["id"]

    await played_qemu.say({"error": {"desc": "no such file"}, "id": number})

    assert (await played_qemu.hear())["execute"] == "quit"
    assert monitor.complaint == "QEMU refused: no such file"


async def test_end_of_qemu_is_told_to_all_who_wait(qemu: tuple[Monitor, Qemu]) -> None:
    monitor, played_qemu = qemu
    asked = [asyncio.create_task(monitor.execute("cont")) for _ in range(2)]
    await played_qemu.hear()

    played_qemu.end.close()

    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, HostError)
    with pytest.raises(HostError, match="ended"):
        await monitor.execute("cont")
    with pytest.raises(HostError, match="ended"):
        await monitor.resumed
    monitor.send("cont")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\n",
        b"not json\n",
        b"[]\n",
        b"[" * 60_000 + b"\n",
        b'{"id": ' + b"9" * 9_000 + b', "return": {}}\n',
        b'{"id": {}, "return": {}}\n{"id": true, "return": {}}\n{"id": null}\n{}\n\n',
        b'{"event": []}\n{"event": "RESUME"}\n{"event": "RESUME"}\n',
    ],
)
async def test_garbage_is_passed_over(qemu: tuple[Monitor, Qemu], garbage: bytes) -> None:
    monitor, played_qemu = qemu
    asked = asyncio.create_task(monitor.execute("cont"))
    number = (await played_qemu.hear())["id"]

    await played_qemu.say(garbage, {"return": {}, "id": number})

    assert await asked == {}


async def test_line_without_end_is_not_kept(qemu: tuple[Monitor, Qemu]) -> None:
    monitor, played_qemu = qemu
    asked = asyncio.create_task(monitor.execute("cont"))
    await played_qemu.hear()

    with suppress(BrokenPipeError):
        while True:
            await played_qemu.say(b"x" * MAX_LINE)

    with pytest.raises(HostError, match="ended"):
        await asked


@pytest.mark.parametrize("noise", [b"\n", b"{\n", b"7\n"])
async def test_noise_without_end_is_not_listened_to(
    qemu: tuple[Monitor, Qemu], noise: bytes
) -> None:
    monitor, played_qemu = qemu
    asked = asyncio.create_task(monitor.execute("cont"))
    await played_qemu.hear()

    with suppress(BrokenPipeError, ConnectionResetError):
        while True:
            await played_qemu.say(noise * MAX_NOISE)

    with pytest.raises(HostError, match="ended"):
        await asked


@pytest.mark.parametrize("message", [b'{"event":"X"}\n', b"{}\n", b'{"id":99,"return":{}}\n'])
async def test_messages_that_nobody_asked_for_are_bounded(
    qemu: tuple[Monitor, Qemu], message: bytes
) -> None:
    monitor, played_qemu = qemu
    asked = asyncio.create_task(monitor.execute("cont"))
    await played_qemu.hear()

    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(MAX_UNASKED // 1024 + 1):
            await played_qemu.say(message * 1024)

    with pytest.raises(HostError, match="ended"):
        await asked
    assert "nobody asked for" in monitor.complaint


async def test_qemu_that_does_not_read_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        monitor = Monitor(ours)

        for _ in range(1_000):
            monitor.send("x", {"word": "y" * 10_000})

        with pytest.raises(HostError, match="ended"):
            await monitor.execute("cont")
        monitor.close()


@given(chunks=st.lists(st.binary(max_size=200), max_size=20))
async def test_nothing_that_qemu_says_is_more_than_dropped(chunks: list[bytes]) -> None:
    async with open_monitor() as (monitor, played_qemu):
        asked = asyncio.create_task(monitor.execute("cont"))
        number = (await played_qemu.hear())["id"]

        await played_qemu.say(*chunks, b"\n", {"return": "yes", "id": number})

        assert await asked == "yes"


# --- Saving -------------------------------------------------------------------------------------


async def answer_commands(played_qemu: Qemu, status: object) -> list[str]:
    """Agree to all that comes, until it is asked how far it is; what it was asked."""
    names = []
    while True:
        heard = await played_qemu.hear()
        names.append(heard["execute"])
        if heard["execute"] == "query-migrate":
            await played_qemu.say({"return": status, "id": heard["id"]})
            return names
        await played_qemu.say({"return": {}, "id": heard["id"]})


async def test_machine_is_saved_once_qemu_says_so(qemu: tuple[Monitor, Qemu]) -> None:
    monitor, played_qemu = qemu
    saving = asyncio.create_task(migration.save(monitor, 0))

    await answer_commands(played_qemu, {"status": "active"})
    await answer_commands(played_qemu, {"status": "completed"})

    await saving


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"status": "failed", "error-desc": "disk full\n"}, "could not save.*disk full"),
        ({"status": "failed", "error-desc": ["x"] * 1000}, "could not save"),
        ({"status": "cancelled"}, "reason unknown"),
    ],
)
async def test_machine_that_cannot_be_saved_says_why(
    qemu: tuple[Monitor, Qemu], status: dict[str, Any], words: str
) -> None:
    monitor, played_qemu = qemu
    saving = asyncio.create_task(migration.save(monitor, 0))

    await answer_commands(played_qemu, status)

    with pytest.raises(HostError, match=words) as caught:
        await saving
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("status", [None, [], "completed", {"status": ["completed"]}, {}])
async def test_answer_of_another_shape_does_not_end_the_saving(
    qemu: tuple[Monitor, Qemu], status: object
) -> None:
    monitor, played_qemu = qemu
    saving = asyncio.create_task(migration.save(monitor, 0))

    await answer_commands(played_qemu, status)
    await answer_commands(played_qemu, {"status": "completed"})

    await saving
