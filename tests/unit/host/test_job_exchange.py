"""What the host makes of what an agent says, which is hostile until it has proved otherwise."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slipway._model.input_file import InputFile
from slipway._run.job_exchange import WINDOW
from slipway._util.errors import HostError, UnknownOutcome
from slipway.machine.model import PortKind
from slipway_protocol import messages as m
from slipway_protocol.framing import encode_frame
from slipway_protocol.joining import JOINED_FILES
from slipway_protocol.schema import MAX_DATA, VERSION
from support.scripted_agent import READY, connect, play
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._run.job_report import JobReport
    from support.scripted_agent import ScriptedAgent

OUT, ERR, IN = m.Stream.STDOUT, m.Stream.STDERR, m.Stream.STDIN
BUILD, RUN = m.Phase.BUILD, m.Phase.RUN
COMMAND = m.Command(("program",), (), m.Limits())
# Bytes of the output files of a job together.
FETCH_LIMIT = 1000
ONLY_RUN = m.Job(0, None, COMMAND, ("wanted", "other"), 0, outputs_bytes=FETCH_LIMIT)
WITH_BUILD = m.Job(0, COMMAND, COMMAND, (), 0)
ENDS = (m.OutputEnd(1, OUT, 0, 0), m.OutputEnd(1, ERR, 0, 0))
JOINING = replace(READY, capabilities=(JOINED_FILES,))
MISSING = (m.FileMissing(1, "wanted", "gone"), m.FileMissing(1, "other", "gone"))


def end_phase(phase: m.Phase, verdict: m.Verdict = m.Verdict.OK) -> m.PhaseDone:
    return m.PhaseDone(1, phase, verdict, 0, 0, m.Usage())


def whole(phase: m.Phase, verdict: m.Verdict = m.Verdict.OK) -> tuple[m.Message, ...]:
    return (m.PhaseStarted(1, phase), *ENDS, end_phase(phase, verdict))


def give(*paths: str) -> m.Files:
    return m.Files(1, tuple(m.WholeFile(path, 0o640, path.encode()) for path in paths))


class Heard:
    """A sink that keeps what it gets, piece by piece; where it is blocked, it takes nothing."""

    def __init__(self) -> None:
        self.pieces: list[tuple[m.Phase, m.Stream, bytes]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, phase: m.Phase, stream: m.Stream, data: bytes) -> None:
        await wait_until(self.open.is_set, "the test lets the sink take output")
        self.pieces.append((phase, stream, data))

    def bytes_of(self, stream: m.Stream) -> bytes:
        return b"".join(data for _, which, data in self.pieces if which is stream)


async def play_messages(
    *messages: m.Message, job: m.Job = ONLY_RUN, sink: Heard | None = None
) -> JobReport:
    """What becomes of ``job`` when the agent says ``messages`` and hangs up."""

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(*messages)
        await agent.hang_up()

    return await play(script, job, sink or Heard())


# --- What is in order ------------------------------------------------------------------------


async def test_announces_job_and_files_before_it_starts_it() -> None:
    files = (InputFile("a", b"x" * (MAX_DATA + 1), 0o755), InputFile("b/empty", b""))
    heard: list[object] = []

    async def script(agent: ScriptedAgent) -> None:
        heard.extend(agent.heard)
        await agent.say(*whole(RUN), *MISSING, m.JobDone(1))

    await play(script, ONLY_RUN, Heard(), files)

    _job, *_transfer, start = [message for message in heard if not isinstance(message, m.Hello)]
    assert start == m.Start(1)


async def test_agent_that_joins_files_gets_small_ones_in_one_message() -> None:
    files = (
        InputFile("a", b"one", 0o755),
        InputFile("large", bytes(MAX_DATA)),
        *(InputFile(f"b/{number}", b"") for number in range(100)),
    )
    heard: list[object] = []

    async def script(agent: ScriptedAgent) -> None:
        heard.extend(agent.heard)
        await agent.say(*whole(RUN), *MISSING, m.JobDone(1))

    await play(script, ONLY_RUN, Heard(), files, ready=JOINING)

    _job, *transfer, _start = [message for message in heard if not isinstance(message, m.Hello)]
    assert transfer == [
        m.Files(1, (m.WholeFile("a", 0o755, b"one"),)),
        m.File(1, "large", 0o644, MAX_DATA),
        m.FileData(1, bytes(MAX_DATA)),
        m.Files(1, tuple(m.WholeFile(f"b/{number}", 0o644, b"") for number in range(100))),
    ]


async def test_other_agent_gets_each_file_by_itself() -> None:
    heard: list[object] = []

    async def script(agent: ScriptedAgent) -> None:
        heard.extend(agent.heard)
        await agent.say(*whole(RUN), *MISSING, m.JobDone(1))

    await play(script, ONLY_RUN, Heard(), (InputFile("a", b"one"),))

    hello, *_, _job, file, data, _start = heard
    assert isinstance(hello, m.Hello)
    assert hello.capabilities == (JOINED_FILES,)
    assert (file, data) == (m.File(1, "a", 0o644, 3), m.FileData(1, b"one"))


async def test_reports_joined_files() -> None:
    report = await play_messages(*whole(RUN), give("wanted", "other"), m.JobDone(1))

    assert report.files == {"wanted": (0o640, b"wanted"), "other": (0o640, b"other")}


async def test_reports_phases_output_and_files() -> None:
    sink = Heard()
    usage = m.Usage(1, 2, 3, 4, 5)

    report = await play_messages(
        m.PhaseStarted(1, BUILD),
        m.Output(1, ERR, b"warning"),
        m.OutputEnd(1, ERR, 7, 0),
        m.OutputEnd(1, OUT, 0, 0),
        m.Exited(1, BUILD, 0, 0),
        end_phase(BUILD),
        m.PhaseStarted(1, RUN),
        m.Output(1, OUT, b"one "),
        m.Log(m.Level.INFO, "a line"),
        m.Output(1, OUT, b"two"),
        m.OutputEnd(1, OUT, 7, 100),
        m.OutputEnd(1, ERR, 0, 0),
        m.PhaseDone(1, RUN, m.Verdict.FAILED, 3, 0, usage, "detail"),
        m.File(1, "wanted", 0o640, 5),
        m.FileData(1, b"con"),
        m.FileData(1, b"nt"),
        m.File(1, "other", 0o600, 0),
        m.JobDone(1),
        job=m.Job(0, COMMAND, COMMAND, ("wanted", "other"), 0),
        sink=sink,
    )

    assert list(report.phases) == [BUILD, RUN]
    assert report.phases[RUN].done.usage == usage
    assert report.phases[RUN].sent == {OUT: 7, ERR: 0}
    assert report.phases[RUN].dropped == {OUT: 100, ERR: 0}
    assert report.files == {"wanted": (0o640, b"connt"), "other": (0o600, b"")}
    assert [(phase, data) for phase, stream, data in sink.pieces if stream is ERR] == [
        (BUILD, b"warning")
    ]
    assert sink.bytes_of(OUT) == b"one two"


async def test_noise_on_the_line_is_dropped() -> None:
    async def script(agent: ScriptedAgent) -> None:
        await agent.write(b"[    0.1] a line of the kernel\n")
        await agent.say(m.PhaseStarted(1, RUN))
        await agent.write(b"\xc0garbage\xdb\xc0" + encode_frame(b"x" * 10)[:-4])
        await agent.say(*ENDS, end_phase(RUN), *MISSING, m.JobDone(1))

    report = await play(script, ONLY_RUN, Heard())

    assert list(report.phases) == [RUN]


async def test_noise_before_the_agent_s_first_word_is_for_debugging_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session, agent = await connect()
    with caplog.at_level(logging.DEBUG, "slipway.agent"):
        await agent.write(b"a line of the kernel\n\xc0")
        await agent.say(m.Awake(VERSION))
        await agent.write(b"\xc0garbage\xc0")
        await agent.say(READY)
        await session.handshake()

    levels = [record.levelno for record in caplog.records if "dropped" in record.getMessage()]
    assert levels == [logging.DEBUG, logging.INFO]
    agent.drop()
    await session.close()


async def test_gives_credit_for_what_was_passed_on() -> None:
    sink = Heard()
    size = 3 * WINDOW

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(m.PhaseStarted(1, RUN))
        credit, sent = WINDOW, 0
        while sent < size:
            while not credit:
                credit += (await agent.hear(m.Credit)).count
            count = min(credit, MAX_DATA, size - sent)
            await agent.say(m.Output(1, OUT, b"x" * count))
            credit, sent = credit - count, sent + count
        await agent.say(
            m.OutputEnd(1, OUT, size, 0), ENDS[1], end_phase(RUN), *MISSING, m.JobDone(1)
        )

    await play(script, ONLY_RUN, sink)

    assert sink.bytes_of(OUT) == b"x" * size


async def test_small_pieces_are_joined_while_they_wait() -> None:
    sink = Heard()
    sink.open.clear()

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(m.PhaseStarted(1, RUN), *[m.Output(1, OUT, b"x")] * 5000)
        await agent.say(m.OutputEnd(1, OUT, 5000, 0), ENDS[1], end_phase(RUN), *MISSING)
        # The host has read all that came before this message's Log is on its way.
        await agent.say(m.JobDone(1))
        sink.open.set()

    await play(script, ONLY_RUN, sink)

    assert sink.bytes_of(OUT) == b"x" * 5000
    assert len(sink.pieces) < 100


async def test_stdin_waits_for_credit_and_ends() -> None:
    whole_input = b"a" * 100 + b"b" * MAX_DATA

    async def stdin() -> AsyncIterator[bytes]:
        yield whole_input[:100]
        yield whole_input[100:]

    async def hear(agent: ScriptedAgent, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += (await agent.hear(m.Input)).data
        return data

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(STARTED, m.Credit(1, IN, 60), m.Credit(1, IN, 60))
        assert await hear(agent, 120) == whole_input[:120]
        assert not any(isinstance(message, m.InputEnd) for message in agent.heard)
        await agent.say(m.Credit(1, IN, MAX_DATA))
        assert await hear(agent, len(whole_input) - 120) == whole_input[120:]
        await agent.hear(m.InputEnd)
        await agent.say(*ENDS, end_phase(RUN), *MISSING, m.JobDone(1))

    report = await play(script, ONLY_RUN, Heard(), stdin=stdin())

    assert list(report.phases) == [RUN]


async def test_empty_stdin_ends_after_the_job_has_started() -> None:
    async def stdin() -> AsyncIterator[bytes]:
        return
        yield b""

    async def script(agent: ScriptedAgent) -> None:
        # Start was heard before: the agent would not know what an earlier end is about.
        await agent.hear(m.InputEnd)
        await agent.say(*whole(RUN), *MISSING, m.JobDone(1))

    report = await play(script, ONLY_RUN, Heard(), stdin=stdin())

    assert list(report.phases) == [RUN]


async def test_stdin_that_nobody_reads_does_not_hold_up_the_end() -> None:
    async def stdin() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MAX_DATA

    report = await asyncio.wait_for(
        play(
            lambda agent: agent.say(*whole(RUN), *MISSING, m.JobDone(1)),
            ONLY_RUN,
            Heard(),
            stdin=stdin(),
        ),
        60,
    )

    assert list(report.phases) == [RUN]


async def test_build_that_failed_is_the_end() -> None:
    report = await play_messages(
        *whole(BUILD, m.Verdict.FAILED),
        m.JobDone(1),
        job=WITH_BUILD,
    )

    assert list(report.phases) == [BUILD]


# --- What is not ------------------------------------------------------------------------------

STARTED = m.PhaseStarted(1, RUN)
RAN = whole(RUN)
X = m.Output(1, OUT, b"x")
VIOLATIONS: dict[str, tuple[m.Message, ...]] = {
    "nothing": (),
    "the end at once": (m.JobDone(1),),
    "the end of a phase that did not begin": (*ENDS, end_phase(RUN)),
    "output before the phase": (X,),
    "output of stdin": (STARTED, m.Output(1, IN, b"x")),
    "output after its end": (STARTED, ENDS[0], X),
    "output after the phase": (*RAN, X),
    "output's end twice": (STARTED, ENDS[0], ENDS[0]),
    "output's end of stdin": (STARTED, m.OutputEnd(1, IN, 0, 0)),
    "output lost": (STARTED, X, m.OutputEnd(1, OUT, 2, 0)),
    "output invented": (STARTED, X, m.OutputEnd(1, OUT, 0, 0)),
    "credit for stdout": (STARTED, m.Credit(1, OUT, 1)),
    "a phase twice": (*RAN, *RAN),
    "a phase within a phase": (STARTED, STARTED),
    "a build that there is not": (m.PhaseStarted(1, BUILD),),
    "a phase that ends before its output": (STARTED, ENDS[0], end_phase(RUN)),
    "the end of another phase": (STARTED, *ENDS, end_phase(BUILD)),
    "the end within a phase": (STARTED, m.JobDone(1)),
    "another job": (m.PhaseStarted(2, RUN),),
    "the end of another job": (*RAN, *MISSING, m.JobDone(2)),
    "a file that nobody wants": (*RAN, m.File(1, "unwanted", 0o644, 1)),
    "a file twice": (*RAN, m.File(1, "wanted", 0o644, 0), m.File(1, "wanted", 0o644, 0)),
    "a file that is there and missing": (*RAN, m.File(1, "wanted", 0o644, 0), MISSING[0]),
    "a file within a file": (*RAN, m.File(1, "wanted", 0o644, 1), m.File(1, "other", 0o644, 1)),
    "a file that is too long": (*RAN, m.File(1, "wanted", 0o644, 1), m.FileData(1, b"xx")),
    "a file that is too short": (
        *RAN,
        *(m.File(1, "wanted", 0o644, 2), m.FileData(1, b"x"), MISSING[1], m.JobDone(1)),
    ),
    "a file that is larger than the bound": (*RAN, m.File(1, "wanted", 0o644, FETCH_LIMIT + 1)),
    "files beyond the job's bound": (
        *RAN,
        *(m.File(1, "wanted", 0o644, 1), m.FileData(1, b"x")),
        m.File(1, "other", 0o644, FETCH_LIMIT),
    ),
    "content of no file": (*RAN, m.FileData(1, b"x")),
    "a whole file that nobody wants": (*RAN, give("unwanted")),
    "a whole file twice": (*RAN, give("wanted", "wanted")),
    "a whole file within a file": (*RAN, m.File(1, "wanted", 0o644, 1), give("other")),
    "a whole file that is there and missing": (*RAN, give("wanted"), MISSING[0]),
    "no word about a file": (*RAN, MISSING[0], m.JobDone(1)),
    "a second Awake": (STARTED, m.Awake(VERSION)),
    "a fault": (STARTED, m.Fault("out of memory", True)),
    "the end of the line": (STARTED, X),
}


@pytest.mark.parametrize("messages", VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_whatever_is_out_of_order_ends_the_job(messages: tuple[m.Message, ...]) -> None:
    with pytest.raises(UnknownOutcome):
        await play_messages(*messages)


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(whole(RUN), id="a run without its build"),
        pytest.param((*whole(BUILD), m.JobDone(1)), id="no run after the build"),
        pytest.param((*whole(BUILD), *whole(BUILD)), id="two builds"),
        pytest.param(
            (*whole(BUILD, m.Verdict.FAILED), *whole(RUN), m.JobDone(1)), id="a run of nothing"
        ),
    ],
)
async def test_phases_out_of_order_end_the_job(messages: tuple[m.Message, ...]) -> None:
    with pytest.raises(UnknownOutcome):
        await play_messages(*messages, job=WITH_BUILD)


async def test_more_output_than_credit_ends_the_job_and_not_the_memory() -> None:
    sink = Heard()
    sink.open.clear()

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(STARTED)
        while True:
            await agent.say(m.Output(1, OUT, b"x" * MAX_DATA))

    with pytest.raises(UnknownOutcome, match="credit"):
        await play(script, ONLY_RUN, sink)


@pytest.mark.parametrize("payload", [b"\x91\x63", b"\xc1", b"\x92\x28\xa1x"])
async def test_frame_that_is_no_message_ends_the_job(payload: bytes) -> None:
    with pytest.raises(UnknownOutcome, match="broke the protocol"):
        await play(lambda agent: agent.write(encode_frame(payload)), ONLY_RUN, Heard())


async def test_guest_that_went_away_is_told_with_its_console() -> None:
    with pytest.raises(UnknownOutcome, match="ended by itself"):
        await play_messages(STARTED)


async def test_loss_over_the_network_names_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.scripted_agent.ScriptedMachine.port", PortKind.TCP)

    with pytest.raises(UnknownOutcome, match="the gateway between host and agent, ended"):
        await play_messages(STARTED)


async def test_more_output_than_the_limit_ends_the_job() -> None:
    job = m.Job(0, None, m.Command(("program",), (), m.Limits(output_bytes=3)), (), 0)

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(STARTED, m.Output(1, OUT, b"abc"), m.Output(1, OUT, b"d"))
        await agent.hear(m.Cancel)  # never

    with pytest.raises(UnknownOutcome, match="output limit of 3"):
        await play(script, job, Heard())


async def test_what_the_guest_says_cannot_steer_a_terminal() -> None:
    ended = m.PhaseDone(1, RUN, m.Verdict.OK, 0, 0, m.Usage(), "\x1b[2Jwiped\n")
    missing = (m.FileMissing(1, "wanted", "\x9b2J"), m.FileMissing(1, "other", "a\rb"))

    report = await play_messages(STARTED, *ENDS, ended, *missing, m.JobDone(1))

    assert report.phases[RUN].done.detail == " [2Jwiped "
    assert report.missing == {"wanted": " 2J", "other": "a b"}
    with pytest.raises(UnknownOutcome, match=r"gave up:  c$"):
        await play_messages(m.Fault("\x1bc", fatal=True))


async def test_reader_that_takes_its_time_uses_up_none_of_the_agents() -> None:
    sink = Heard()
    sink.open.clear()

    async def script(agent: ScriptedAgent) -> None:
        ends = (m.OutputEnd(1, OUT, 1, 0), m.OutputEnd(1, ERR, 0, 0))
        await agent.say(STARTED, X, *ends, end_phase(RUN), *MISSING, m.JobDone(1))

    async def read_late(deadline: asyncio.Timeout) -> None:
        await wait_until(lambda: deadline.when() is None, "the deadline waits for the reader")
        sink.open.set()

    async with asyncio.timeout(60) as deadline, asyncio.TaskGroup() as tasks:
        tasks.create_task(read_late(deadline))
        await play(script, ONLY_RUN, sink, deadline=deadline)
        rest = deadline.when()

    assert sink.bytes_of(OUT) == b"x"
    assert rest is not None


async def test_sink_that_fails_ends_the_job_with_its_error() -> None:
    async def sink(_phase: m.Phase, _stream: m.Stream, _data: bytes) -> None:
        raise BrokenPipeError

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(STARTED, X)
        await agent.hear(m.Cancel)  # never

    with pytest.raises(BrokenPipeError):
        await play(script, ONLY_RUN, sink)


async def test_stdin_that_fails_ends_the_job_with_its_error() -> None:
    async def stdin() -> AsyncIterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    async def script(agent: ScriptedAgent) -> None:
        await agent.say(STARTED, m.Credit(1, IN, 100))
        await agent.hear(m.Cancel)  # never

    with pytest.raises(ZeroDivisionError):
        await play(script, ONLY_RUN, Heard(), stdin=stdin())


# --- Hello ------------------------------------------------------------------------------------


async def test_hello_is_said_again_to_an_agent_that_just_awoke() -> None:
    session, agent = await connect()
    greeting = asyncio.create_task(session.handshake())
    first = await agent.hear(m.Hello)
    await agent.say(m.Log(m.Level.WARNING, "slow"), m.Awake(VERSION))
    second = await agent.hear(m.Hello)
    await agent.say(READY)

    assert await greeting == READY
    assert first.entropy != second.entropy
    assert len(first.entropy) == 32
    agent.drop()
    await session.close()


# --- Connect ----------------------------------------------------------------------------------

WITH_NETWORK = replace(READY, capabilities=("port.virtio", "network"))


async def test_network_is_up_when_the_agent_says_so() -> None:
    session, agent = await connect()
    connecting = asyncio.create_task(session.connect_network(WITH_NETWORK))
    asked = await agent.hear(m.Connect)
    # The second Ready answers the second Hello of the handshake.
    await agent.say(READY, m.Log(m.Level.WARNING, "slow"), m.Connected(5, 6))

    assert await connecting == m.Connected(5, 6)
    assert (asked.address, asked.gateway) == (bytes((198, 18, 0, 2)), bytes((198, 18, 0, 1)))
    assert (asked.prefix, asked.mtu, len(asked.gateway_mac)) == (30, 65520, 6)
    agent.drop()
    await session.close()


async def test_agent_without_the_capability_is_not_asked() -> None:
    session, agent = await connect()

    with pytest.raises(HostError, match="knows no network"):
        await session.connect_network(READY)

    assert agent.heard == []
    agent.drop()
    await session.close()


@pytest.mark.parametrize("message", [m.Fault("no eth0", False), m.JobDone(1), m.Awake(VERSION)])
async def test_guest_without_its_network_is_a_host_error(message: m.Message) -> None:
    session, agent = await connect()
    await agent.say(message)

    with pytest.raises(HostError):
        await session.connect_network(WITH_NETWORK)
    agent.drop()
    await session.close()


# --- Hello that is not answered ----------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (m.Awake(VERSION),),
        (m.Awake(VERSION + 1),),
        (m.Fault("no cgroup", True),),
        (m.JobDone(1),),
        (m.Output(1, OUT, b"x"),),
    ],
)
async def test_guest_that_never_gets_ready_has_run_nothing(
    messages: tuple[m.Message, ...],
) -> None:
    session, agent = await connect()
    await agent.say(*messages)
    await agent.hang_up()

    with pytest.raises(HostError):
        await session.handshake()
    agent.drop()
    await session.close()
