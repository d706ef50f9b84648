"""Whatever an agent says: a report or UnknownOutcome, soon, and no more held than was allowed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from fuzz.strategies import AGENT_MESSAGES, garbage
from slipway._run.job_exchange import WINDOW
from slipway._util.errors import UnknownOutcome
from slipway_protocol import messages as m
from slipway_protocol.framing import encode_frame
from slipway_protocol.schema import MAX_DATA
from support.scripted_agent import play
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.scripted_agent import ScriptedAgent

COMMAND = m.Command(("program",), (), m.Limits())

# Mostly what could be meant seriously, so that some of it gets far: few ids, names and sizes.
_jobs = st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2])
_streams = st.sampled_from(m.Stream)
_phases = st.sampled_from(m.Phase)
_data = st.binary(min_size=1, max_size=3) | st.just(b"x" * MAX_DATA)
_sizes = st.integers(0, 4) | st.sampled_from([MAX_DATA, 2**63 - 1])
_paths = st.sampled_from(["wanted", "other", "unwanted"])
_whole_files = st.builds(m.WholeFile, _paths, st.just(0o644), st.binary(max_size=3))
_plausible = st.one_of(
    st.builds(m.PhaseStarted, _jobs, _phases),
    st.builds(m.Output, _jobs, _streams, _data),
    st.builds(m.OutputEnd, _jobs, _streams, _sizes, _sizes),
    st.builds(
        m.PhaseDone,
        *(_jobs, _phases, st.sampled_from(m.Verdict), st.just(0), st.just(0), st.just(m.Usage())),
        st.just(""),
    ),
    st.builds(m.File, _jobs, _paths, st.just(0o644), _sizes),
    st.builds(m.FileData, _jobs, _data),
    st.builds(m.Files, _jobs, st.lists(_whole_files, min_size=1, max_size=3).map(tuple)),
    st.builds(m.FileMissing, _jobs, _paths, st.just("gone")),
    st.builds(m.Credit, _jobs, _streams, _sizes.filter(lambda size: size < 2**32)),
    st.builds(m.JobDone, _jobs),
)
_ends = (m.OutputEnd(1, m.Stream.STDOUT, 0, 0), m.OutputEnd(1, m.Stream.STDERR, 0, 0))
_whole_run = st.just(
    (
        m.PhaseStarted(1, m.Phase.RUN),
        *_ends,
        m.PhaseDone(1, m.Phase.RUN, m.Verdict.OK, 0, 0, m.Usage()),
    )
)
_scripts = st.lists(_plausible.map(lambda message: (message,)) | _whole_run, max_size=12)


async def _outcome(script: bytes, *, read: bool) -> int:
    """Play ``script``; the most bytes of output that the host held at once for a sink."""
    blocked = asyncio.Event()
    given_out = 0
    if read:
        blocked.set()

    async def sink(_phase: m.Phase, _stream: m.Stream, data: bytes) -> None:
        nonlocal given_out
        await wait_until(blocked.is_set, "the reader takes output")
        given_out += len(data)

    async def speak(agent: ScriptedAgent) -> None:
        with suppress(ConnectionError):  # the host may have heard enough
            await agent.write(script)
            await agent.hang_up()
        blocked.set()

    with suppress(UnknownOutcome):
        job = m.Job(0, None, COMMAND, ("wanted", "other"), 0)
        await asyncio.wait_for(play(speak, job, sink), 60)
    return given_out


def _frames(messages: list[tuple[m.Message, ...]]) -> bytes:
    from slipway_protocol.codec import encode

    return b"".join(encode_frame(encode(message)) for group in messages for message in group)


@given(_scripts, st.booleans())
def test_plausible_nonsense(messages: list[tuple[m.Message, ...]], read: bool) -> None:
    asyncio.run(_outcome(_frames(messages), read=read))


@given(st.lists(st.one_of(*AGENT_MESSAGES.values()), max_size=5), garbage)
def test_any_messages_and_noise(messages: list[m.AgentMessage], noise: bytes) -> None:
    asyncio.run(_outcome(_frames([tuple(messages)]) + noise, read=True))


@given(st.lists(st.sampled_from([1, 100, MAX_DATA]), min_size=1, max_size=60))
def test_no_more_than_the_window_is_held(sizes: list[int]) -> None:
    output = [m.Output(1, m.Stream.STDOUT, b"x" * size) for size in sizes]

    given_out = asyncio.run(
        _outcome(_frames([(m.PhaseStarted(1, m.Phase.RUN), *output)]), read=False)
    )

    assert given_out <= WINDOW
