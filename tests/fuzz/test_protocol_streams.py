"""What is received from a stream that is cut, damaged, or mixed with noise."""

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.effort import share
from fuzz.strategies import agent_messages, chunks_of, garbage, host_messages, payloads
from slipway_protocol import messages as m
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.framing import END, MAX_ENCODED, BadFrame, FrameReader, encode_frame
from slipway_protocol.schema import MAX_MESSAGE
from unit.protocol.corpus import EXAMPLES, TO_AGENT

Event = m.Message | BadFrame | Violation

EXAMPLE_MESSAGES = [example.message for example in EXAMPLES if example.direction != TO_AGENT]
conversations = st.lists(agent_messages, min_size=1, max_size=6)


def stream_of(messages: Sequence[m.Message]) -> bytes:
    return b"".join(Connection.agent().send(message) for message in messages)


def messages_in(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, BadFrame)]


def is_subsequence(some: list[Event], of: list[m.Message]) -> bool:
    rest = iter(of)
    return all(any(one == other for other in rest) for one in some)


# --- Cut ------------------------------------------------------------------------------------


def test_every_truncation_gives_the_whole_frames_and_nothing_else() -> None:
    stream = stream_of(EXAMPLE_MESSAGES)
    ends = [len(stream_of(EXAMPLE_MESSAGES[:n])) for n in range(len(EXAMPLE_MESSAGES) + 1)]

    for cut in range(len(stream) + 1):
        whole = sum(end <= cut for end in ends) - 1

        assert Connection.host().receive(stream[:cut]) == EXAMPLE_MESSAGES[:whole]


@given(before=conversations, after=conversations, chosen=st.data())
def test_sender_that_begins_anew_after_any_byte_loses_one_message_at_most(
    before: list[m.AgentMessage], after: list[m.AgentMessage], chosen: st.DataObject
) -> None:
    stream = stream_of(before)
    cut = chosen.draw(st.integers(0, len(stream)))
    whole = max(n for n in range(len(before) + 1) if len(stream_of(before[:n])) <= cut)
    host = Connection.host()

    events = host.receive(stream[:cut]) + host.receive(stream_of(after))

    # Only its last END may be what is cut off: the next frame's first END then stands for it.
    lost = before[whole : whole + 1]
    assert messages_in(events) in (before[:whole] + after, before[:whole] + lost + after)
    assert host.bad_frames <= 1


@given(messages=conversations, noise=garbage, chosen=st.data())
def test_chunks_make_no_difference(
    messages: list[m.AgentMessage], noise: bytes, chosen: st.DataObject
) -> None:
    stream = noise + stream_of(messages) + noise + stream_of(messages)
    at_once, in_chunks = Connection.host(), Connection.host()

    whole = at_once.receive(stream)
    events = [
        event for chunk in chosen.draw(chunks_of(stream)) for event in in_chunks.receive(chunk)
    ]

    assert events == whole
    assert in_chunks.bad_frames == at_once.bad_frames


@given(messages=conversations, noise=st.binary(max_size=50))
@share(4)
def test_single_bytes_make_no_difference(messages: list[m.AgentMessage], noise: bytes) -> None:
    stream = (noise + stream_of(messages))[-5_000:]
    bytewise = Connection.host()

    events = [event for byte in stream for event in bytewise.receive(bytes([byte]))]

    assert events == Connection.host().receive(stream)


# --- Damaged ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(EXAMPLE_MESSAGES)))
def test_any_single_bit_flipped_costs_that_message_and_no_other(number: int) -> None:
    message = EXAMPLE_MESSAGES[number]
    before, after = stream_of([m.Awake(1)]), stream_of([m.JobDone(2)])
    frame = stream_of([message])

    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        host = Connection.host()

        events = host.receive(before + bytes(flipped) + after)

        assert messages_in(events) == [m.Awake(1), m.JobDone(2)]
        assert host.bad_frames >= 1


@given(messages=conversations, chosen=st.data())
def test_flipped_bits_never_make_another_message(
    messages: list[m.AgentMessage], chosen: st.DataObject
) -> None:
    stream = bytearray(stream_of(messages))
    bits = chosen.draw(st.sets(st.integers(0, 8 * len(stream) - 1), min_size=1, max_size=8))
    for bit in bits:
        stream[bit // 8] ^= 1 << bit % 8

    received = messages_in(Connection.host().receive(bytes(stream)))

    assert is_subsequence(received, [*messages])
    assert len(received) >= len(messages) - len(bits)


@given(messages=conversations, chosen=st.data())
def test_bytes_lost_or_put_in_never_make_another_message(
    messages: list[m.AgentMessage], chosen: st.DataObject
) -> None:
    stream = stream_of(messages)
    begin = chosen.draw(st.integers(0, len(stream)))
    end = chosen.draw(st.integers(begin, min(begin + 70, len(stream))))
    inserted = chosen.draw(st.binary(max_size=20))

    events = Connection.host().receive(stream[:begin] + inserted + stream[end:])

    assert is_subsequence(messages_in(events), [*messages])


# --- Mixed with noise -------------------------------------------------------------------------


@given(noise=garbage, message=agent_messages, chosen=st.data())
def test_garbage_never_takes_the_next_frame_with_it(
    noise: bytes, message: m.AgentMessage, chosen: st.DataObject
) -> None:
    host = Connection.host()
    stream = noise + stream_of([message])

    events = [event for chunk in chosen.draw(chunks_of(stream)) for event in host.receive(chunk)]

    assert events[-1] == message


@given(noises=st.lists(st.binary(max_size=60), min_size=3, max_size=3), messages=conversations)
def test_bytes_that_nobody_framed_are_no_messages(
    noises: list[bytes], messages: list[m.AgentMessage]
) -> None:
    host = Connection.host()
    stream = noises[0] + stream_of(messages) + noises[1] + stream_of(messages) + noises[2]

    events = host.receive(stream)

    assert messages_in(events) == messages * 2
    assert host.bad_frames == len(events) - 2 * len(messages)


@given(stream=st.lists(st.binary(max_size=60), max_size=10).map(END.join) | garbage)
def test_nothing_at_all_raises(stream: bytes) -> None:
    for end in (Connection.host(), Connection.agent()):
        events = end.receive(stream + END)

        assert end.bad_frames == sum(isinstance(event, BadFrame) for event in events)
        assert len(events) <= stream.count(END) + 1


@given(payload=payloads, message=host_messages)
def test_framed_rubbish_is_one_event_and_the_next_frame_passes(
    payload: bytes, message: m.HostMessage
) -> None:
    agent = Connection.agent()

    events = agent.receive(encode_frame(payload) + Connection.host().send(message))

    assert len(events) == 2
    assert events[-1] == message


# --- Bounds -------------------------------------------------------------------------------------


@given(payload=payloads)
@example(payload=b"\xdc\x04\x00" * 20_000)
@example(payload=b"\xdc\x40\x00" * 20_000)
@example(payload=b"\x91" * 60_000)
@example(payload=b"\x93\x29\x14" + b"\x91" * 1010 + b"\xc0")
@example(payload=b"\x93\x29\x14" + b"\xdc\x04\x00" * 1020)
@example(payload=(b"\xdc\x04\x00" + b"\x91\xc0" * 1024) * 31)
@share(2)
def test_hostile_frame_costs_bounded_memory(payload: bytes) -> None:
    stream = encode_frame(payload)
    tracemalloc.start()
    try:
        Connection.host().receive(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # 1024 levels of nesting with room for 1024 items each, and the frame a few times over.
    assert peak < 1024 * (8 * 1024 + 64) + 16 * len(stream) + 65_536


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([b"x", b"\xdb", bytes(2)]), st.integers(0, 300_000)), max_size=8
    )
)
@share(3)
def test_stream_without_an_end_is_not_kept(pieces: list[tuple[bytes, int]]) -> None:
    reader, size = FrameReader(), 0
    tracemalloc.start()
    try:
        for piece, count in pieces:
            assert reader.feed(piece * count) == []
            size += len(piece) * count
            held, _ = tracemalloc.get_traced_memory()

            assert held < MAX_ENCODED + 65_536
    finally:
        tracemalloc.stop()

    frames = reader.feed(END)
    assert [f.size for f in frames if isinstance(f, BadFrame)] == ([size] if size else [])


@given(size=st.integers(MAX_MESSAGE - 3, MAX_MESSAGE + 3), fill=st.sampled_from([b"\0", END]))
def test_bound_of_a_frame_does_not_depend_on_its_escapes(size: int, fill: bytes) -> None:
    (frame,) = FrameReader().feed(encode_frame(fill * size))

    assert isinstance(frame, bytes) is (size <= MAX_MESSAGE)
