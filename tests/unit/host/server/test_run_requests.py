from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._model.input_file import InputFile
from slipway._model.options import OPTIONS, Options, Tty
from slipway._model.run_request import RunRequest
from slipway._model.values import Bounds, read_field_types
from slipway._server.http import run_request_parsing as requests
from slipway._server.http.request_parsing import parse_body
from slipway._server.kept.retention import OutputChoice
from slipway._server.problems import Refusal
from slipway._wire.job import encode_job, encode_session
from slipway._wire.option_models import NetworkQuery
from slipway._wire.request_models import (
    RunQuery,
    SessionBody,
    SessionRunBody,
    SessionRunQuery,
    StartBody,
    StartQuery,
)


def query(**told: str) -> StartQuery:
    return StartQuery.model_validate(told)


def job(told: object, **in_query: str) -> RunRequest:
    return parse(told, **in_query)[0]


def parse(told: object, **in_query: str) -> tuple[RunRequest, OutputChoice]:
    return requests.parse_json_request(json.dumps(told).encode(), query(**in_query), StartBody, {})


def refusal(told: object, **in_query: str) -> str:
    with pytest.raises(Refusal) as caught:
        job(told, **in_query)
    return caught.value.problem.detail


def test_makes_a_job_of_a_source_and_a_query() -> None:
    made = requests.parse_text_request(
        b"source", query(language="rust", timeout="2.5", cpus="2"), {}
    )

    assert made == (
        RunRequest(b"source", "rust", Options(timeout=2.5, cpus=2)),
        OutputChoice("raw", detached=False),
    )


def test_default_machine_is_that_of_the_server_unless_the_request_names_one() -> None:
    body = b'{"source": "x", "language": "c"}'
    defaults = {"machine": "qemu", "arch": "arm64", "kernel": "small"}

    found = [
        requests.parse_json_request(body, query(), StartBody, defaults),
        requests.parse_json_request(body, query(machine="auto"), StartBody, defaults),
        requests.parse_json_request(body, query(arch="auto", kernel="debian"), StartBody, defaults),
        requests.parse_text_request(b"x", query(language="c"), defaults),
    ]

    assert [made.options.machine for made, _ in found] == ["qemu", "auto", "qemu", "qemu"]
    assert [made.options.arch for made, _ in found] == ["arm64", "arm64", "auto", "arm64"]
    kernels = [made.options.kernel for made, _ in found]
    assert kernels == ["small", "small", "debian", "small"]


@pytest.mark.parametrize(
    ("told", "size"), [(True, Tty()), (False, False), ({"rows": 5, "columns": 9}, Tty(5, 9))]
)
def test_takes_the_size_of_a_terminal(told: object, size: object) -> None:
    assert job({"source": "x", "tty": told}, language="c").options.tty == size


def test_puts_language_and_version_together() -> None:
    made, _ = requests.parse_text_request(b"source", query(language="rust", version="1.80"), {})

    assert made.language == "rust@1.80"


def test_values_come_from_the_query_or_the_body() -> None:
    made, choice = parse(
        {"source": "x", "memory": 5, "detached": True}, language="c", stream="events"
    )

    assert made.language == "c"
    assert choice == OutputChoice("events", detached=True)
    assert made.options.memory == 5


# The network has another form in a query: tests/unit/host/test_network_options.py.
@pytest.mark.parametrize("name", sorted(StartQuery.model_fields.keys() - NetworkQuery.model_fields))
def test_query_and_body_may_agree_but_not_differ(name: str) -> None:
    values: dict[str, tuple[Any, Any]] = {
        "language": ("c", "rust"), "version": ("1", "2"), "machine": ("kvm", "qemu"),
        "kernel": ("small", "debian"),
        "arch": ("amd64", "arm64"), "port": ("tcp", "serial"), "stream": ("events", "raw"),
        "memory_limit": (5 << 20, 6 << 20), "build_memory_limit": (5 << 20, 6 << 20),
    }  # fmt: skip
    flag = name in {"kill_on_output", "interactive", "detached", "tty"}
    value, other = values.get(name, (True, False) if flag else (1, 2))
    text = "true" if value is True else str(value)
    more = {} if name == "language" else {"language": "c"}
    more |= {"stream": "events"} if name == "interactive" else {}

    made = job({"source": "x", name: value, **more}, **{name: text}, **more)

    assert made == job({"source": "x", name: value, **more})
    detail = refusal({"source": "x", name: other, **more}, **{name: text})
    assert detail.startswith(f"{name} is given in the query and in the body, and they differ")


def test_version_may_be_given_twice() -> None:
    assert job({"source": "x", "language": "rust@1.80", "version": "1.80"}).language == "rust@1.80"
    assert refusal({"source": "x", "language": "rust@1.80", "version": "1"}).startswith("version")


def test_null_is_like_a_missing_field() -> None:
    names = set(StartBody.model_fields) - {"source", "language"}
    said = {"source": "x", "language": "c"}
    file = {"path": "a", "text": "t", "base64": None, "mode": None}

    made = job({**said, **dict.fromkeys(names), "files": [file]})

    assert made == job({**said, "files": [{"path": "a", "text": "t"}]})
    assert refusal({"source": None, "language": "c"}).endswith(
        "source or source_base64, and not both"
    )
    assert "path" in refusal({**said, "files": [{**file, "path": None}]})


def test_interactive_run_has_no_stdin_in_its_request() -> None:
    made = job({"source": "x", "language": "c", "stream": "events", "interactive": True})

    assert made.stdin is None


def test_refuses_stdin_in_an_interactive_request() -> None:
    told = {"source": "x", "language": "c", "stream": "events", "interactive": True, "stdin": "a"}

    assert "stdin" in refusal(told)


def test_refuses_an_interactive_run_with_a_raw_stream() -> None:
    assert "stream=events" in refusal({"source": "x", "language": "c", "interactive": True})


def test_knows_every_option_that_a_client_can_give() -> None:
    local = {"kernel", "boot_log"}
    known = set(StartBody.model_fields)

    assert set(Options.__dataclass_fields__) - local <= known


def test_decodes_jobs_of_our_own_client() -> None:
    options = Options(
        arguments=("a",),
        environment=(("K", "v"),),
        files=(InputFile("f", b"\xff", 0o600), InputFile("g", b"text")),
        outputs=("o",),
        timeout=1.5,
        memory=2**28,
        kill_on_output=True,
    )
    record = encode_job(RunRequest(b"source", "rust@1.80", options, b"\xfe"))

    made, choice = requests.parse_json_request(json.dumps(record).encode(), query(), StartBody, {})

    assert made.language == "rust@1.80"
    assert made.stdin == b"\xfe"
    assert choice.stream == "events"
    assert made.options == options


def test_makes_a_job_without_a_language_for_a_session() -> None:
    query = SessionRunQuery.model_validate({"timeout": "2"})
    body = b'{"source": "x", "cpu_time": 1}'

    of_json, _ = requests.parse_json_request(body, query, SessionRunBody, {})
    of_text, _ = requests.parse_text_request(b"x", query, {})

    assert (of_json.language, of_json.options.timeout, of_json.options.cpu_time) == ("", 2, 1)
    assert of_text == RunRequest(b"x", "", Options(timeout=2.0))


@pytest.mark.parametrize("name", ["memory", "cpus", "machine"])
def test_hint_for_machine_options_in_a_session_names_the_session(name: str) -> None:
    body = json.dumps({"source": "x", name: 1}).encode()

    with pytest.raises(Refusal) as caught:
        requests.parse_json_request(body, SessionRunQuery.model_validate({}), SessionRunBody, {})

    assert caught.value.problem.status == 422
    assert "POST /v1/sessions" in caught.value.problem.hint


def test_decodes_sessions_of_our_own_client() -> None:
    record = encode_session("rust@1.80", Options(memory=2**28, machine="qemu"), 5.0)

    told = parse_body(json.dumps(record).encode(), SessionBody)

    assert (told.language, told.version) == ("rust", "1.80")
    assert told.model_dump(include=told.model_fields_set - {"language", "version"}) == {
        "memory": 2**28, "machine": "qemu", "idle": 5.0,
    }  # fmt: skip


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_any_bytes_are_a_session_or_an_error(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        requests.join_language(parse_body(body, SessionBody).language, None)

    assert caught.value.problem.status in {400, 422}


@pytest.mark.parametrize("value", ["1", "yes", "True", "on", ""])
def test_takes_only_true_and_false_for_a_flag(value: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        query(kill_on_output=value)


@pytest.mark.parametrize("value", ["true", 1, "yes"])
def test_text_is_no_flag_in_a_body(value: object) -> None:
    detail = refusal({"source": "x", "language": "c", "kill_on_output": value})

    assert detail.startswith("kill_on_output in the body")


C = RunQuery.model_validate({"language": "c"})
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_names = st.sampled_from([*StartBody.model_fields, "other"])


def outcome(told: object) -> RunRequest | Refusal:
    try:
        return requests.parse_json_request(json.dumps(told).encode(), C, StartBody, {})[0]
    except Refusal as refusal:
        return refusal


@given(st.dictionaries(_names, _json, max_size=6) | _json)
def test_any_body_is_a_request_or_an_error(told: object) -> None:
    made = outcome(told)

    if isinstance(made, RunRequest):
        assert isinstance(made.source, bytes)
        assert made.options.machine
    else:
        assert made.problem.status in {400, 422}
        assert made.problem.detail


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        requests.parse_json_request(body, C, StartBody, {})

    assert caught.value.problem.status in {400, 422}


@pytest.mark.parametrize("name", sorted(name for name in OPTIONS if OPTIONS[name].bounds))
def test_bounds_are_those_that_the_option_declares(name: str) -> None:
    (bounds,) = declared_bounds(read_field_types(Options)[name])
    field = StartQuery.model_json_schema()["properties"][name]

    assert field["maximum"] == bounds.most
    assert field["exclusiveMinimum" if bounds.above else "minimum"] == bounds.least


def declared_bounds(kind: Any) -> list[Bounds]:
    """Return all bounds within a declaration."""
    found = [note for note in getattr(kind, "__metadata__", ()) if isinstance(note, Bounds)]
    return found + [each for part in get_args(kind) for each in declared_bounds(part)]
