"""What is told of a job in one order: phases and both streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from slipway._run.job_exchange import WINDOW
from slipway._run.output_queue import MAX_JOINED
from slipway._util.errors import UnknownOutcome
from slipway_protocol import messages as m
from slipway_protocol.schema import MAX_DATA
from support.listening import pump_to
from support.scripted_agent import connect
from support.waiting import wait_until

if TYPE_CHECKING:
    from slipway._model.published_ports import PublishedPort
    from slipway._run.job_report import JobReport, PhaseReport
    from support.scripted_agent import ScriptedAgent

OUT, ERR = m.Stream.STDOUT, m.Stream.STDERR
BUILD, RUN = m.Phase.BUILD, m.Phase.RUN
COMMAND = m.Command(("program",), (), m.Limits())
JOB = m.Job(0, COMMAND, COMMAND, (), 0)


class Diary:
    """Writes down everything that it hears, and takes no output while it is shut."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.finished = False
        self.open = asyncio.Event()
        self.open.set()

    async def sink(self, phase: m.Phase, stream: m.Stream, data: bytes) -> None:
        await wait_until(self.open.is_set, "the test lets the sink take output")
        self.lines.append(f"{phase.name} {stream.name} {data.decode()}")

    def on_booted(self, hypervisor: str, ports: tuple[PublishedPort, ...]) -> None:
        self.lines.append(f"booted {hypervisor}")

    def on_phase_started(self, phase: m.Phase) -> None:
        self.lines.append(f"{phase.name} began")

    def on_job_done(self) -> None:
        self.finished = True

    def on_phase_ended(self, phase: m.Phase, report: PhaseReport) -> None:
        self.lines.append(f"{phase.name} ended {report.done.verdict.name}")


async def begin(diary: Diary) -> tuple[asyncio.Task[JobReport], ScriptedAgent]:
    session, agent = await connect()
    await agent.say(m.Ready(1, "1", (), "6.1", 1, 1, 1, 1))
    await session.handshake()
    pump = pump_to(diary.sink, diary)
    running = asyncio.create_task(pump.run(session.run(JOB, (), pump, None, pump)))
    running.add_done_callback(lambda _: asyncio.ensure_future(session.close()))
    await agent.hear(m.Start)
    return running, agent


def ends(out: int, err: int, phase: m.Phase) -> list[m.Message]:
    done = m.PhaseDone(1, phase, m.Verdict.OK, 0, 0, m.Usage())
    return [m.OutputEnd(1, OUT, out, 0), m.OutputEnd(1, ERR, err, 0), done]


async def test_both_streams_and_the_phases_keep_their_order() -> None:
    diary = Diary()
    running, agent = await begin(diary)

    await agent.say(
        m.PhaseStarted(1, BUILD),
        m.Output(1, ERR, b"warning"),
        *ends(0, 7, BUILD),
        m.PhaseStarted(1, RUN),
        m.Output(1, OUT, b"a"),
        m.Output(1, ERR, b"b"),
        m.Output(1, OUT, b"c"),
        m.Output(1, OUT, b"d"),
        *ends(3, 1, RUN),
        m.JobDone(1),
    )
    await running
    agent.drop()

    assert diary.lines == [
        "BUILD began",
        "BUILD STDERR warning",
        "BUILD ended OK",
        "RUN began",
        "RUN STDOUT a",
        "RUN STDERR b",
        "RUN STDOUT cd",
        "RUN ended OK",
    ]


async def test_end_of_a_phase_is_told_when_its_output_has_been_taken() -> None:
    diary = Diary()
    diary.open.clear()
    running, agent = await begin(diary)
    await agent.say(m.PhaseStarted(1, BUILD), m.Output(1, OUT, b"late"), *ends(4, 0, BUILD))
    await agent.say(m.PhaseStarted(1, RUN), *ends(0, 0, RUN), m.JobDone(1))
    await wait_until(lambda: diary.finished and diary.lines, "the job's end is in the diary")
    before = list(diary.lines)

    diary.open.set()
    await running
    agent.drop()

    assert before == ["BUILD began"]
    assert diary.lines[1:3] == ["BUILD STDOUT late", "BUILD ended OK"]


async def test_reader_that_takes_nothing_gives_no_credit() -> None:
    diary = Diary()
    diary.open.clear()
    running, agent = await begin(diary)
    await agent.say(m.PhaseStarted(1, BUILD))

    for _ in range(WINDOW // MAX_DATA):
        await agent.say(m.Output(1, OUT, b"x" * MAX_DATA))
    await agent.say(m.Output(1, OUT, b"x" * MAX_DATA))

    with pytest.raises(UnknownOutcome, match="broke the protocol"):
        await running
    assert not any(isinstance(message, m.Credit) for message in agent.heard)
    agent.drop()


async def test_job_cancelled_between_its_phases_ends_there() -> None:
    session, agent = await connect()
    diary = Diary()
    await agent.say(m.Ready(1, "1", (), "6.1", 1, 1, 1, 1))
    await session.handshake()
    pump = pump_to(diary.sink, diary)
    running = asyncio.create_task(pump.run(session.run(JOB, (), pump, None, pump)))
    await agent.hear(m.Start)

    await session.cancel()
    await agent.hear(m.Cancel)
    await agent.say(m.PhaseStarted(1, BUILD), *ends(0, 0, BUILD), m.JobDone(1))
    report = await running
    agent.drop()
    await session.close()

    assert list(report.phases) == [BUILD]


async def test_callback_that_ends_by_a_cancellation_of_its_own_ends_the_job_at_once() -> None:
    session, agent = await connect()
    await agent.say(m.Ready(1, "1", (), "6.1", 1, 1, 1, 1))
    await session.handshake()

    async def raise_cancelled(phase: m.Phase, stream: m.Stream, data: bytes) -> None:
        raise asyncio.CancelledError

    pump = pump_to(raise_cancelled)
    running = asyncio.create_task(pump.run(session.run(JOB, (), pump)))
    await agent.hear(m.Start)

    await agent.say(m.PhaseStarted(1, BUILD), m.Output(1, OUT, b"first of a flood"))
    with pytest.raises(asyncio.CancelledError):
        await running

    assert running.cancelled()
    agent.drop()
    await session.close()


def test_pieces_are_joined_up_to_the_size_of_a_message() -> None:
    assert MAX_JOINED == MAX_DATA
