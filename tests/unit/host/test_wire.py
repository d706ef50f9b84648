"""The JSON forms: what goes out comes back, and what is not of that form is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slipway
from slipway._model.events import (
    Ended,
    Event,
    Output,
    PhaseEnded,
    PhaseStarted,
    Preparing,
    Queued,
    Started,
)
from slipway._model.host_use import HostUse
from slipway._model.result import (
    Captured,
    OutputFile,
    PhaseResult,
    Provenance,
    Result,
    Timing,
    Usage,
)
from slipway._model.run_request import RunRequest
from slipway._util.data_form import encode_data
from slipway._util.errors import Busy
from slipway._wire.errors import decode_error, encode_error
from slipway._wire.events import decode_event, encode_event, encode_event_and_files
from slipway._wire.fields import MAX_LINE, decode_data, decode_line, encode_line
from slipway._wire.job import encode_job
from slipway._wire.reader import EventReader
from slipway._wire.results import decode_result, encode_result

counts = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e9)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
paths = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
phases = st.sampled_from(["build", "run"])
verdicts = st.sampled_from(sorted(set(slipway.Verdict) - {slipway.Verdict.BUILD_FAILED}))
pieces = st.binary(max_size=40) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace"))
captured = st.builds(
    lambda data, dropped: Captured(data, len(data) + dropped, dropped),
    pieces,
    st.integers(0, 2**62),
)
build_phase_results = st.builds(
    PhaseResult,
    verdicts,
    st.integers(0, 255),
    st.integers(0, 127),
    st.builds(Usage, seconds, seconds, seconds, counts, counts),
    captured,
    captured,
    lines,
)
files = st.builds(OutputFile, paths, st.integers(0, 0o777), st.binary(max_size=200_000)) | (
    st.builds(lambda path, why: OutputFile(path, missing=why), paths, lines.filter(bool))
)
results = st.builds(
    Result,
    lines,
    st.none() | build_phase_results,
    st.none() | build_phase_results,
    st.lists(files, max_size=3, unique_by=lambda file: file.path).map(tuple),
    st.builds(Timing, seconds, seconds, seconds, seconds, seconds, seconds, seconds),
    st.builds(Provenance, lines, lines, lines, lines, lines, counts, counts, lines),
    st.lists(lines, max_size=2).map(tuple),
    st.booleans(),
    st.none(),
    st.none() | st.builds(HostUse, counts, seconds, st.booleans()),
)


def send(record: Any) -> Any:
    """What the other side gets of ``record``."""
    return decode_line(encode_line(record))


def silent(result: PhaseResult) -> PhaseResult:
    return result.with_output("", {})


RUN = PhaseResult(slipway.Verdict.OK, 0, 0, Usage(1, 1, 1, 1, 1), Captured(b"", 3), Captured())


def result(**changes: Any) -> Result:
    provenance = Provenance("qemu", "6.1", "python", "abc", "0.1", 1 << 28, 1)
    return replace(Result("python", None, RUN, (), Timing(), provenance), **changes)


@given(pieces)
def test_data_comes_back_as_text_or_as_base64(data: bytes) -> None:
    record = encode_data(data)

    assert decode_data(send(record)) == data
    assert len(record) == 1


@given(results)
def test_whole_results_come_back(whole: Result) -> None:
    record = send(encode_result(whole, output=True, files=True))

    assert decode_result(record) == whole


@given(results)
def test_events_come_back_through_the_reader(whole: Result) -> None:
    ends = {"build": whole.build, "run": whole.run}
    events: list[Event] = [Queued(3), Queued(0), Preparing("Unpacking"), Started("kvm")]
    for phase, ended in ends.items():
        if ended is not None:
            output = (Output(phase, "stdout", b"\xff"), Output(phase, "stderr", b"e"))
            events += [PhaseStarted(phase), *output, PhaseEnded(phase, silent(ended))]
    events.append(Ended(whole.with_output({})))
    reader = EventReader(tuple(file.path for file in whole.files))

    records = [send(record) for event in events for record in encode_event_and_files(event)]
    heard = [reader.feed(record) for record in records]

    assert [event for event in heard if event is not None] == events
    assert reader.ended


@given(phases, st.sampled_from(["stdout", "stderr"]), pieces.filter(bool), counts, lines)
def test_single_events_come_back(
    phase: str, stream: str, data: bytes, position: int, text: str
) -> None:
    for event in (Output(phase, stream, data), Queued(position), Preparing(text), Started(text)):
        assert decode_event(send(encode_event(event))) == event


@pytest.mark.parametrize(
    "error",
    [
        slipway.SlipwayError("m", "h"),
        slipway.InputError("m"),
        slipway.HostError("m", "h"),
        slipway.ImageError("m", "h"),
        slipway.UnknownOutcome("m", "h"),
        Busy("m", "h", 2.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back(error: slipway.SlipwayError) -> None:
    again = decode_error(send(encode_error(error)))

    assert type(again) is type(error)
    assert vars(again) == vars(error)


def test_error_of_a_private_kind_travels_as_its_nearest_public_one() -> None:
    class Damaged(slipway.ImageError):
        pass

    assert encode_error(Damaged("m"))["error"] == "ImageError"


def test_error_of_an_unknown_kind_is_still_ours() -> None:
    assert type(decode_error({"error": "KeyError", "message": "m"})) is slipway.SlipwayError


def test_texts_for_people_have_no_control_characters() -> None:
    error = decode_error({"error": "HostError", "message": "\x1b[2Jgone", "hint": "a\nb"})
    event = decode_event({"type": "preparing", "detail": "\x1b]0;title\x07"})

    assert (error.message, error.hint) == (" [2Jgone", "a b")
    assert event == Preparing(" ]0;title ")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b'{"a":NaN}',
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' * 100_000,
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":"' + b"x" * MAX_LINE + b'"}',
    ],
    ids=lambda text: repr(text[:12]),
)
def test_refuses_lines_that_are_no_object_of_json(text: bytes) -> None:
    with pytest.raises(slipway.InputError, match="JSON") as caught:
        decode_line(text)

    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"text": 1},
        {"text": "\ud800"},
        {"base64": "a"},
        {"base64": "aGk=\n"},
        {"base64": "ä"},
        {"text": "a", "base64": "aGk="},
    ],
    ids=repr,
)
def test_refuses_data_that_is_none(record: Any) -> None:
    with pytest.raises(slipway.InputError):
        decode_data(record)


PHASE = send(encode_event(PhaseEnded("run", RUN)))
RESULT = send(encode_result(result(), output=False, files=False))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"type": 1},
        {"type": "queued"},
        {"type": "queued", "position": True},
        {"type": "queued", "position": -1},
        {"type": "queued", "position": 1.0},
        {"type": "queued", "position": 2**63},
        {"type": "preparing", "detail": 1},
        {"type": "phase_started", "phase": "link"},
        {"type": "phase_started", "phase": ["run"]},
        {"type": "output", "phase": "run", "stream": "stdin", "text": "a"},
        {"type": "output", "phase": "run", "stream": "stdout", "text": ""},
        {"type": "output", "phase": "run", "stream": "stdout", "text": "a" * (128 * 1024 + 1)},
        {"type": "output", "phase": "run", "stream": "stdout"},
        {**PHASE, "result": None},
        {**PHASE, "result": {**PHASE["result"], "verdict": "build_failed"}},
        {**PHASE, "result": {**PHASE["result"], "verdict": ["ok"]}},
        {**PHASE, "result": {**PHASE["result"], "code": 256}},
        {**PHASE, "result": {**PHASE["result"], "usage": {}}},
        {**PHASE, "result": {**PHASE["result"], "stdout": {"bytes": 1, "dropped": 2}}},
        {**PHASE, "result": {**PHASE["result"], "stdout": {"bytes": 1, "dropped": 1, "text": "a"}}},
        {"type": "ended", "result": {**RESULT, "files": [1]}},
        {"type": "ended", "result": {**RESULT, "files": [{"path": "a", "mode": 0, "bytes": 0}]}},
        {"type": "ended", "result": {**RESULT, "files": [{}] * 65}},
        {"type": "ended", "result": {**RESULT, "timing": {"boot": -1}}},
        {"type": "ended", "result": {**RESULT, "timing": {"boot": 1e999}}},
        {"type": "ended", "result": {**RESULT, "memory": "much"}},
        {"type": "ended", "result": {**RESULT, "warnings": [1]}},
    ],
    ids=lambda record: json.dumps(record)[:60],
)
def test_refuses_events_that_are_none(record: Any) -> None:
    with pytest.raises(slipway.UnknownOutcome, match="the server broke the protocol") as caught:
        decode_event(record)

    assert len(caught.value.message) < 300


STARTED = {"type": "phase_started", "phase": "run"}
OUTPUT = {"type": "output", "phase": "run", "stream": "stdout", "text": "a"}
FILE = {"type": "file", "path": "a", "mode": 0o644, "size": 2}
DATA = {"type": "file_data", "text": "x"}
ENDED = {"type": "ended", "result": RESULT}


@pytest.mark.parametrize(
    "records",
    [
        [OUTPUT],
        [PHASE],
        [STARTED, STARTED],
        [STARTED, {**PHASE, "phase": "build"}],
        [STARTED, {**OUTPUT, "phase": "build"}],
        [STARTED, PHASE, OUTPUT],
        [STARTED, PHASE, {"type": "phase_started", "phase": "build"}],
        [STARTED, {"type": "started", "machine": "kvm"}],
        [STARTED, {"type": "queued", "position": 0}],
        [{**FILE, "path": "b"}],
        [{**FILE, "size": 256 * 1024 * 1024 + 1}],
        [FILE, DATA, DATA, FILE],
        [DATA],
        [FILE, {**DATA, "text": "xyz"}],
        [FILE, {**DATA, "text": ""}],
        [FILE, DATA, OUTPUT],
        [FILE, DATA, DATA, DATA],
        [ENDED],
        [{"type": "refused", "message": "what?"}],
        [{"type": "failed"}],
    ],
    ids=lambda records: " ".join(str(record["type"]) for record in records),
)
def test_reader_refuses_what_comes_out_of_order(records: list[Any]) -> None:
    reader = EventReader(("a",))
    for record in records[:-1]:
        reader.feed(record)

    with pytest.raises(slipway.UnknownOutcome, match="the server broke the protocol"):
        reader.feed(records[-1])


def test_reader_takes_nothing_after_the_end() -> None:
    reader = EventReader()
    reader.feed(ENDED)

    with pytest.raises(slipway.UnknownOutcome, match="after the end"):
        reader.feed({"type": "anything"})


def test_reader_raises_the_failure_that_the_server_tells() -> None:
    reader = EventReader()
    failure = slipway.ImageError("the image cannot be made", "Look at the disk.")

    with pytest.raises(slipway.ImageError, match="cannot be made") as caught:
        reader.feed({"type": "failed", **encode_error(failure)})

    assert caught.value.hint == failure.hint
    assert reader.ended


def test_reader_ignores_what_a_newer_server_says_more() -> None:
    reader = EventReader()

    assert reader.feed({"type": "temperature", "celsius": 40}) is None
    assert reader.feed({"type": "queued", "position": 1, "since": "noon"}) == Queued(1)


def test_large_file_travels_in_pieces_that_fit_into_lines() -> None:
    content = bytes(300_000)
    ended = Ended(result(files=(OutputFile("a", 0o600, content),)))

    records = list(encode_event_and_files(ended))

    assert max(len(encode_line(record)) for record in records) < MAX_LINE / 8
    assert [record["type"] for record in records[:2]] == ["file", "file_data"]
    assert len(records) == 2 + -(-len(content) // (48 * 1024))


def test_job_says_only_what_differs_from_the_defaults() -> None:
    job = encode_job(RunRequest(b"print(1)", "rust@1.80", slipway.Options(timeout=5), b""))

    assert job == {
        "source": "print(1)",
        "language": "rust",
        "version": "1.80",
        "stream": "events",
        "timeout": 5,
    }


def test_job_says_all_that_was_asked_for() -> None:
    options = slipway.Options(
        arguments=("a", "ä"),
        environment=(("K", "v"),),
        files=(slipway.InputFile("f", b"\xff", 0o600),),
        outputs=("o",),
        cpu_time=1.5,
        memory_limit=1 << 24,
        processes=7,
        kill_on_output=True,
        machine="qemu",
    )

    job = send(encode_job(RunRequest(b"x", "python", options, None)))

    assert job["interactive"] is True
    assert job["arguments"] == ["a", "ä"]
    assert job["environment"] == {"K": "v"}
    assert job["files"] == [{"path": "f", "mode": 0o600, "base64": "/w=="}]
    assert job["outputs"] == ["o"]
    assert (job["cpu_time"], job["memory_limit"], job["processes"]) == (1.5, 1 << 24, 7)
    assert (job["kill_on_output"], job["machine"]) == (True, "qemu")


@pytest.mark.parametrize("option", [{"kernel": "/boot/vmlinuz"}, {"boot_log": True}], ids=repr)
def test_job_has_no_options_that_say_nothing_to_a_server(option: Any) -> None:
    with pytest.raises(slipway.InputError, match="is not available on a server"):
        encode_job(RunRequest(b"x", "python", slipway.Options(**option), b""))


@pytest.mark.parametrize(
    "option", [{"arguments": ("\udcff",)}, {"outputs": ("\udcff",)}], ids=ascii
)
def test_job_refuses_bytes_that_json_has_no_form_for(option: Any) -> None:
    with pytest.raises(slipway.InputError, match="not Unicode"):
        encode_job(RunRequest(b"x", "python", slipway.Options(**option), b""))
