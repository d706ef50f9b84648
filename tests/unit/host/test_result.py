"""What a result says, to people, programs and shells."""

from __future__ import annotations

import base64
import json

import pytest

import slipway
from slipway._cli.run import find_exit_code
from slipway._model.result import Captured, Provenance, Timing, Usage, Verdict

USAGE = Usage(1.0, 0.5, 0.25, 1024, 2)


def phase(
    verdict: Verdict, code: int = 0, signal: int = 0, stderr: bytes = b"", detail: str = ""
) -> slipway.PhaseResult:
    return slipway.PhaseResult(
        verdict, code, signal, USAGE, Captured(b"out", 3), Captured(stderr, len(stderr)), detail
    )


def result(
    run: slipway.PhaseResult | None,
    build: slipway.PhaseResult | None = None,
    *missing: str,
) -> slipway.Result:
    provenance = Provenance("qemu", "6.1", "python", "abc", "0.1", 1 << 28, 1)
    files = (
        slipway.OutputFile("there", 0o644, b"data"),
        *(slipway.OutputFile(path, missing="it does not exist") for path in missing),
    )
    return slipway.Result("python", build, run, files, Timing(), provenance)


@pytest.mark.parametrize(
    ("ended", "verdict", "code"),
    [
        (result(phase(Verdict.OK)), "ok", 0),
        (result(phase(Verdict.OK), None, "gone"), "ok", 123),
        (result(phase(Verdict.FAILED, 3)), "failed", 3),
        (result(phase(Verdict.FAILED, 3), None, "gone"), "failed", 3),
        (result(phase(Verdict.SIGNALED, signal=11)), "signaled", 139),
        (result(phase(Verdict.TIMED_OUT, signal=9)), "timed_out", 124),
        (result(phase(Verdict.CPU_EXCEEDED, signal=9)), "cpu_exceeded", 124),
        (result(phase(Verdict.MEMORY_EXCEEDED, signal=9)), "memory_exceeded", 137),
        (result(phase(Verdict.OUTPUT_EXCEEDED, signal=9)), "output_exceeded", 137),
        (result(phase(Verdict.CANCELLED, signal=9)), "cancelled", 130),
        (result(phase(Verdict.INTERNAL_ERROR, 127)), "internal_error", 125),
        (result(None, phase(Verdict.FAILED, 4)), "build_failed", 1),
        (result(None, phase(Verdict.TIMED_OUT, signal=9)), "build_failed", 1),
        (result(None, phase(Verdict.MEMORY_EXCEEDED, signal=9)), "build_failed", 1),
        (result(None, phase(Verdict.CANCELLED, signal=9)), "cancelled", 130),
        (result(phase(Verdict.OK), phase(Verdict.OK)), "ok", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_verdict_and_exit_code(ended: slipway.Result, verdict: str, code: int) -> None:
    assert ended.verdict == verdict
    assert find_exit_code(ended) == code
    assert ended.ok == (verdict == "ok")
    assert ended.summary()
    assert "\n" not in ended.summary()


def test_every_verdict_of_a_phase_has_its_sentence() -> None:
    for verdict in set(Verdict) - {Verdict.BUILD_FAILED}:
        assert result(phase(verdict)).summary().startswith("the program ")
    for verdict in set(Verdict) - {Verdict.BUILD_FAILED, Verdict.OK}:
        assert result(None, phase(verdict)).summary().startswith("the build ")


def test_run_that_was_cancelled_early_says_how_far_it_came() -> None:
    unbegun, built = result(None), result(None, phase(Verdict.OK))

    assert unbegun.verdict == built.verdict == "cancelled"
    assert unbegun.summary() == "the run was cancelled before it began"
    assert built.summary() == "the run was cancelled after its build"
    assert (unbegun.code, unbegun.signal, unbegun.stdout, unbegun.stderr) == (0, 0, "", "")


def test_summary_names_the_files_that_are_missing() -> None:
    names = ("gone", "a\nb", "x" * 100, "fourth", "fifth")
    one, many = result(phase(Verdict.OK), None, "gone"), result(phase(Verdict.OK), None, *names)

    assert one.summary() == "the program succeeded, but did not write gone"
    assert many.summary().endswith(f"{'x' * 80} and 2 more")
    assert "\n" not in many.summary()
    assert many.missing == names
    assert one.check() is one


def test_check_raises_what_is_not_well() -> None:
    well = result(phase(Verdict.OK))
    assert well.check() is well

    with pytest.raises(slipway.ProgramError, match="exit code 3") as caught:
        result(phase(Verdict.FAILED, 3, stderr=b"boom")).check()
    assert caught.value.result.stderr == "boom"


def test_record_is_json_that_tells_text_from_bytes() -> None:
    ended = result(phase(Verdict.FAILED, 3, stderr=b"\xff\0", detail="why"), None, "gone")

    record = json.loads(json.dumps(ended.record()))

    assert record["run"]["stdout"]["text"] == "out"
    assert base64.b64decode(record["run"]["stderr"]["base64"]) == b"\xff\0"
    assert "text" not in record["run"]["stderr"]
    assert record["files"] == [
        {"path": "there", "bytes": 4},
        {"path": "gone", "missing": "it does not exist"},
    ]
    assert record["build"] is None
    assert record["image_digest"] == "abc"


def test_stderr_is_the_failed_builds_where_nothing_ran() -> None:
    assert result(None, phase(Verdict.FAILED, 1, stderr=b"error: x")).stderr == "error: x"
    assert result(None, phase(Verdict.FAILED, 1)).stdout == ""
