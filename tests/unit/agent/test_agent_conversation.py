"""Reactions of the agent to hosts that break the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_agent.agent import MAX_NOISE_REPORTS
from slipway_protocol import messages as m
from slipway_protocol.framing import encode_frame
from slipway_protocol.schema import VERSION
from support.agent import ENTROPY_REFUSED, job, python

if TYPE_CHECKING:
    from support.agent import Host

FOREVER = python("import time; time.sleep(1000)")
WHOLE = (m.WholeFile("x", 0o644, b"x"),)


def hello(version: int = VERSION, entropy: bytes = b"", *, clone: bool = False) -> m.Hello:
    return m.Hello(version, (), 1_700_000_000_000_000_000, entropy, clone)


def test_every_hello_is_answered(host: Host) -> None:
    host.send(hello(), hello())

    assert host.expect(m.Ready) == host.expect(m.Ready)


def test_hello_of_another_version_is_a_fatal_fault(host: Host) -> None:
    host.send(hello(version=VERSION + 1))

    assert host.expect(m.Fault).fatal


def test_clock_that_cannot_be_set_is_only_reported(host: Host) -> None:
    host.send(hello(entropy=ENTROPY_REFUSED))

    assert host.expect(m.Log).level is m.Level.WARNING
    host.expect(m.Ready)


def test_clone_without_fresh_randomness_is_a_fatal_fault(host: Host) -> None:
    host.send(hello(entropy=ENTROPY_REFUSED, clone=True))

    assert host.expect(m.Fault).fatal


def test_hello_of_a_clone_is_answered_by_ready(host: Host) -> None:
    host.send(hello(clone=True), hello(clone=True))

    assert host.expect(m.Ready) == host.expect(m.Ready)
    assert host.run(job(python("print(1)"))).stdout == b"1\n"


def test_noise_is_reported_a_few_times_only(host: Host) -> None:
    host.send_bytes(b"\xc0noise" * 1000 + b"\xc0")
    host.send(hello())
    before, _ = host.until(m.Ready)

    assert len(before) == MAX_NOISE_REPORTS
    assert all(isinstance(message, m.Log) for message in before)


@pytest.mark.parametrize("payload", [b"\x00", b"\x91\xcc\xff", b"\x93\x01\x01\x90", b"\xc1"])
def test_frame_that_breaks_the_protocol_is_a_fault_and_survived(host: Host, payload: bytes) -> None:
    host.send_bytes(encode_frame(payload))

    assert not host.expect(m.Fault).fatal
    assert host.run(job(python("print(1)"))).stdout == b"1\n"


@pytest.mark.parametrize(
    "messages",
    [
        [m.Start(5)],
        [m.File(5, "x", 0o644, 1)],
        [m.FileData(5, b"x")],
        [job(FOREVER), job(FOREVER, number=2), m.Cancel(1)],
        [job(FOREVER), m.FileData(1, b"x"), m.Cancel(1)],
        [job(FOREVER), m.File(1, "x", 0o644, 1), m.FileData(1, b"xx"), m.Cancel(1)],
        [job(FOREVER), m.File(1, "x", 0o644, 1), m.File(1, "y", 0o644, 1), m.Cancel(1)],
        [m.Files(5, WHOLE)],
        [job(FOREVER), m.File(1, "x", 0o644, 1), m.Files(1, WHOLE), m.Cancel(1)],
        [job(FOREVER), m.Start(1), m.Files(1, WHOLE), m.Cancel(1)],
        [job(FOREVER), m.Credit(1, m.Stream.STDIN, 1), m.Cancel(1)],
        [job(FOREVER), m.Start(1), m.Start(1), m.Cancel(1)],
        [job(FOREVER), m.Start(1), m.File(1, "x", 0o644, 1), m.Cancel(1)],
        [job(FOREVER), m.Input(1, bytes(60_000)), m.Input(1, bytes(60_000)), m.Cancel(1)],
    ],
)
def test_message_out_of_place_is_a_fault_and_survived(
    host: Host, messages: list[m.HostMessage]
) -> None:
    host.send(*messages)
    _, fault = host.until(m.Fault)
    assert not fault.fatal
    if isinstance(messages[-1], m.Cancel):
        host.until(m.JobDone)

    assert host.run(job(python("print(1)"), number=9)).stdout == b"1\n"


def test_late_messages_about_a_finished_job_are_ignored(host: Host) -> None:
    host.run(job(python("print(1)")))
    host.send(
        m.Credit(1, m.Stream.STDOUT, 1),
        m.Signal(1, 9),
        m.Cancel(1),
        m.InputEnd(1),
        m.Input(1, b"x"),
    )

    assert host.run(job(python("print(2)"), number=2)).stdout == b"2\n"


@pytest.mark.parametrize("files", [["x", "x"], ["x", "x/y"]])
def test_files_that_cannot_be_stored_end_the_job(host: Host, files: list[str]) -> None:
    story = host.run(job(python("print(1)")), [(path, b"data") for path in files])

    done = story.one(m.PhaseDone)
    assert done.verdict is m.Verdict.INTERNAL_ERROR
    assert "cannot be stored" in done.detail


def test_incomplete_file_ends_the_job(host: Host) -> None:
    host.send(job(python("print(1)")), m.File(1, "x", 0o644, 10), m.FileData(1, b"x"), m.Start(1))
    _, done = host.until(m.PhaseDone)

    assert done.verdict is m.Verdict.INTERNAL_ERROR
    host.expect(m.JobDone)


def test_job_whose_disk_cannot_be_made_ends_with_an_internal_error(host: Host) -> None:
    host.directory.rmdir()
    story = host.run(job(python("print(1)"), outputs=["x"]), [("file", b"data")])
    host.directory.mkdir()

    done = story.one(m.PhaseDone)
    assert done.verdict is m.Verdict.INTERNAL_ERROR
    assert "disk" in done.detail
    assert story.one(m.FileMissing).path == "x"
    assert host.run(job(python("print(2)"), number=2)).stdout == b"2\n"
