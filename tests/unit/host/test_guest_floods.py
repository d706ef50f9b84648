"""Floods of a hostile guest or VMM: bounded in number, and never in the way of other tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from slipway._run.file_receiver import MIN_PIECES
from slipway._run.guest_log import MAX_CHARACTERS, MAX_LINES
from slipway._run.message_counts import MOST
from slipway._run.stdin_credit import MAX_CREDIT, MAX_GRANTS
from slipway._util.errors import HostError, UnknownOutcome
from slipway.machine.kvm import MAX_UNASKED, KvmMachine
from slipway.machine.kvm_parts import VmmSockets
from slipway.machine.process import ChildProcess
from slipway.vmm.process import control
from slipway.vmm.spec import VmConfig
from slipway_protocol import messages as m
from slipway_protocol.channel import MAX_FRAMES, TURN, Channel
from slipway_protocol.connection import Connection
from slipway_protocol.framing import END, BadFrame
from slipway_protocol.schema import VERSION
from support.fake_machine import FakeHypervisor
from support.scripted_agent import READY, ScriptedAgent, connect, play

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = m.Command(("program",), (), m.Limits())
JOB = m.Job(0, None, COMMAND, ("wanted",), 0)
STARTED = m.PhaseStarted(1, m.Phase.RUN)
ENDED = (
    m.OutputEnd(1, m.Stream.STDOUT, 0, 0),
    m.OutputEnd(1, m.Stream.STDERR, 0, 0),
    m.PhaseDone(1, m.Phase.RUN, m.Verdict.OK, 0, 0, m.Usage()),
)
DONE = (m.FileMissing(1, "wanted", "gone"), m.JobDone(1))
LINE = m.Log(m.Level.WARNING, "a line")
NOISE = b"x" + END
TINY_FILE = m.File(1, "wanted", 0o644, 500)


async def ignore(_phase: m.Phase, _stream: m.Stream, _data: bytes) -> None:
    """Take output."""


async def play_bytes(data: bytes) -> None:
    """Run a job whose agent says ``data`` and hangs up."""

    async def script(agent: ScriptedAgent) -> None:
        await agent.write(data)
        await agent.hang_up()

    await play(script, JOB, ignore)


def encode(*messages: m.AgentMessage) -> bytes:
    connection = Connection.agent()
    return b"".join(connection.send(message) for message in messages)


def read_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "slipway.agent"]


@pytest.fixture
def agent_log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, "slipway.agent")
    return lambda: read_lines(caplog)


async def test_log_of_a_job_has_its_first_lines_and_the_number_of_the_others(
    agent_log: Callable[[], list[str]],
) -> None:
    lines = [m.Log(m.Level.WARNING, f"line {number}") for number in range(MAX_LINES + 30)]

    await play_bytes(encode(STARTED, *lines, *ENDED, *DONE))

    written = agent_log()
    assert written[:MAX_LINES] == [f"line {number}" for number in range(MAX_LINES)]
    assert written[MAX_LINES:] == ["dropped 30 more lines of the guest"]


async def test_long_line_of_a_guest_is_cut(agent_log: Callable[[], list[str]]) -> None:
    await play_bytes(encode(STARTED, m.Log(m.Level.WARNING, "\n" * 4096), *ENDED, *DONE))

    (line,) = agent_log()
    assert len(line) == MAX_CHARACTERS


@pytest.mark.parametrize(
    ("flood", "reason"),
    [
        pytest.param(encode(STARTED, *[LINE] * (MOST[m.Log][0] + 1)), "lines", id="log"),
        pytest.param(encode(STARTED, *[READY] * (MOST[m.Ready][0] + 1)), "Ready", id="ready"),
        pytest.param(encode(STARTED, *[m.Exited(1, m.Phase.RUN, 0, 0)] * 3), "Exited", id="exited"),
        pytest.param(NOISE * (MOST[BadFrame][0] + 1), "bad frames", id="noise"),
        pytest.param(
            encode(STARTED, m.Credit(1, m.Stream.STDIN, MAX_CREDIT + 1)), "credit", id="credit"
        ),
        pytest.param(
            encode(STARTED, *[m.Credit(1, m.Stream.STDIN, 0)] * (MAX_GRANTS + 1)),
            "credit",
            id="grants",
        ),
        pytest.param(
            encode(STARTED, *ENDED, TINY_FILE, *[m.FileData(1, b"x")] * (MIN_PIECES + 1)),
            "too small",
            id="pieces of a file",
        ),
    ],
)
async def test_flood_of_messages_that_no_credit_bounds_ends_the_job(
    agent_log: Callable[[], list[str]], flood: bytes, reason: str
) -> None:
    # What follows would end the job well.
    with pytest.raises(UnknownOutcome, match=reason):
        await play_bytes(flood + encode(*ENDED, *DONE))

    assert len(agent_log()) <= MAX_LINES + 1


async def test_agent_that_wakes_up_without_end_is_not_greeted_without_end() -> None:
    session, agent = await connect()
    greeting = asyncio.create_task(session.handshake())
    try:
        await agent.say(*[m.Awake(VERSION)] * (MOST[m.Awake][0] + 1), READY)
        with pytest.raises(UnknownOutcome, match="Awake"):
            await greeting
    finally:
        agent.drop()
        await session.close()


# --- Turns of other tasks ------------------------------------------------------------------------


def open_channel(data: bytes) -> Channel:
    """A channel whose stream has ``data`` already, so that no read waits."""
    reader = asyncio.StreamReader(limit=len(data))
    reader.feed_data(data)
    reader.feed_eof()
    return Channel(reader, None)  # type: ignore[arg-type]  # nothing is sent


@pytest.mark.parametrize("data", [encode(*[LINE] * 2000), NOISE * 2000], ids=["messages", "noise"])
async def test_flood_leaves_other_tasks_their_turns(data: bytes) -> None:
    channel = open_channel(data)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    events = [await channel.receive() for _ in range(2001)]
    other.cancel()

    assert events.index(None) == 2000
    assert turns >= 2000 // TURN


async def test_noise_before_the_first_message_leaves_other_tasks_their_turns() -> None:
    channel = open_channel(NOISE * 2000 + encode(LINE))
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    assert await channel.wait_message()
    other.cancel()

    assert turns >= 2000 // TURN


async def test_read_of_many_small_frames_is_decoded_in_slices() -> None:
    channel = open_channel(NOISE * 100_000)

    assert isinstance(await channel.receive(), BadFrame)
    first = channel.bad_frames
    for _ in range(100_000):
        await channel.receive()

    assert first <= MAX_FRAMES
    assert channel.bad_frames == 100_000


async def test_slices_cut_no_message() -> None:
    sent = [m.Log(m.Level.INFO, "x" * (number % 700)) for number in range(3000)]
    channel = open_channel(encode(*sent))

    assert [await channel.receive() for _ in sent] == sent


# --- The control channel of a VMM ----------------------------------------------------------------


async def test_vmm_that_floods_its_parent_is_ended_and_the_reason_reported() -> None:
    with ExitStack() as ours, ExitStack() as theirs:
        sockets = VmmSockets.open("virtio", ours, theirs)
        channel = ours.enter_context(socket.socket(fileno=os.dup(sockets.theirs[0])))
        process = ChildProcess.start(["sleep", "1000"])
        config = VmConfig(1 << 20, 1, "virtio")
        machine = KvmMachine(process, sockets.channel, config, FakeHypervisor(), boot_log=False)
        channel.send(control.encode(control.RUNNING))
        await machine.start_vm(sockets)
        try:
            for _ in range(MAX_UNASKED + 1):
                channel.send(control.encode(control.ENDED, text="nonsense"))

            assert await asyncio.wait_for(machine.wait(), 60) == -9
            assert "nobody asked for" in await machine.read_exit_report()
            with pytest.raises(HostError):
                await machine.pause()
        finally:
            await machine.stop()
