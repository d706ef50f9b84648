"""Wire format of each message, compared byte by byte with the corpus."""

import subprocess
import sys

import pytest

from slipway_protocol.codec import decode, encode
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.framing import BadFrame, decode_frame, encode_frame
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT
from unit.protocol import corpus
from unit.protocol.corpus import BOTH, EXAMPLES, FRAMES, NOISE, REFUSED, TO_AGENT, Example

by_name = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e.message).__name__)


@by_name
def test_message_has_the_bytes_that_are_written_down(example: Example) -> None:
    assert encode(example.message).hex() == example.payload


@by_name
def test_written_bytes_are_the_message_again(example: Example) -> None:
    for table in example.tables:
        decoded = decode(bytes.fromhex(example.payload), table)

        assert decoded == example.message
        assert type(decoded) is type(example.message)


@pytest.mark.parametrize(
    "example",
    [example for example in EXAMPLES if example.direction != BOTH],
    ids=lambda e: type(e.message).__name__,
)
def test_message_is_refused_by_the_end_that_sends_it(example: Example) -> None:
    sender = Connection.host() if example.direction == TO_AGENT else Connection.agent()

    events = sender.receive(sender.send(example.message))

    assert [type(event) for event in events] == [Violation]


def test_every_message_of_either_direction_has_an_example() -> None:
    kinds = {kind for table in (HOST_TO_AGENT, AGENT_TO_HOST) for kind, _ in table.values()}

    assert {type(example.message) for example in EXAMPLES} == kinds


@pytest.mark.parametrize(("payload", "frame"), FRAMES)
def test_frame_has_the_bytes_that_are_written_down(payload: str, frame: str) -> None:
    assert encode_frame(bytes.fromhex(payload)).hex() == frame
    assert decode_frame(bytes.fromhex(frame)[1:-1]) == bytes.fromhex(payload)


@pytest.mark.parametrize(("why", "noise"), NOISE, ids=[why for why, _ in NOISE])
def test_noise_is_a_bad_frame(why: str, noise: str) -> None:
    frame = bytes.fromhex(noise)

    assert decode_frame(frame) == BadFrame(reason(frame), len(frame))


def reason(frame: bytes) -> str:
    """Why ``frame`` is bad, told by a decoder that is written the slow way."""
    body = bytearray()
    rest = iter(frame)
    for byte in rest:
        if byte != 0xDB:
            body.append(byte)
            continue
        escaped = {0xDC: 0xC0, 0xDD: 0xDB}.get(next(rest, 0))
        if escaped is None:
            return "invalid escape"
        body.append(escaped)
    return "shorter than a frame may be" if len(body) <= 4 else "wrong checksum"


@pytest.mark.parametrize(("why", "payload"), REFUSED, ids=[why for why, _ in REFUSED])
def test_payload_that_breaks_the_protocol_is_a_violation(why: str, payload: str) -> None:
    for end in (Connection.host(), Connection.agent()):
        events = end.receive(encode_frame(bytes.fromhex(payload)))

        assert [type(event) for event in events] == [Violation]


def test_corpus_checks_an_interpreter_by_itself() -> None:
    checked = subprocess.run(
        [sys.executable, corpus.__file__], capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stderr) == (0, "")


def test_corpus_tells_what_an_interpreter_does_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "encode", lambda message: encode(message) + b"\xc0")
    monkeypatch.setattr(corpus, "encode_frame", lambda payload: encode_frame(payload)[1:])

    failures = corpus.failures()

    assert "Shutdown is encoded as 910bc0" in failures
    assert "payload 910b is framed as 910b2c7051bec0" in failures
