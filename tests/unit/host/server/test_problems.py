from __future__ import annotations

import json

import pytest

from slipway._server.problems import BUG, MAX_TEXT, Problem, describe_error
from slipway._util.errors import (
    Busy,
    HostError,
    ImageError,
    InputError,
    SlipwayError,
    UnknownOutcome,
)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InputError("m", "h"), 422, "input-error"),
        (Busy("m", "h", 3.2), 429, "busy"),
        (HostError("m", "h"), 503, "host-error"),
        (ImageError("m", "h"), 503, "image-error"),
        (UnknownOutcome("m", "h"), 502, "unknown-outcome"),
        (SlipwayError("m", "h"), 500, "internal-error"),
    ],
)
def test_each_error_has_its_type_and_status(error: SlipwayError, status: int, kind: str) -> None:
    problem = describe_error(error)

    told = json.loads(problem.encode_body())
    assert told["type"] == f"urn:slipway:{kind}"
    assert told["status"] == problem.status == status
    assert (told["detail"], told["hint"]) == ("m", "h")
    assert told["title"]


def test_retry_after_is_in_whole_seconds() -> None:
    problem = describe_error(Busy("m", "h", 3.2))

    assert json.loads(problem.encode_body())["retry_after"] == 3.2
    assert (b"retry-after", b"4") in problem.encode_headers()


def test_detail_is_bounded_and_printable() -> None:
    told = json.loads(Problem(422, "input-error", "\x1b[2J\n" + "x" * 10_000).encode_body())

    assert len(told["detail"]) == MAX_TEXT
    assert told["detail"].isprintable()


def test_lone_surrogates_are_escaped() -> None:
    body = Problem(422, "input-error", "a \ud800").encode_body()

    assert body.isascii()


def test_problem_of_a_bug_is_a_500() -> None:
    assert BUG.status == 500
