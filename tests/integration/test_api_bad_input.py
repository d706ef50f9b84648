"""Responses of the API to invalid requests."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from slipway._model.options import MAX_SOURCE
from slipway._server.http import run_request_parsing
from slipway._server.http.connection import MAX_HEAD
from support.api_server import MIB, Served, serve_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

TEXT = {"content-type": "text/plain"}
RUN = b"POST /v1/run?language=bash HTTP/1.1\r\nhost: x\r\n"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Served]:
    async with serve_api(body_limit=MIB) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(api: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


def problem(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return the status and the problem of one response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n",
        b"GET /v1 health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        RUN + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["words", "tls", "no-host", "field", "target", "negative", "twice", "chunk"],
)
async def test_refuses_invalid_http(api: Served, request_bytes: bytes) -> None:
    status, told = problem(await api.answer(request_bytes))

    assert status == 400
    assert told["type"] == "urn:slipway:malformed"


async def test_refuses_a_head_without_end(api: Served) -> None:
    line = b"GET /v1/health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * (MAX_HEAD + 1)

    status, _ = problem(await api.answer(line))

    assert status == 431


@pytest.mark.parametrize(
    "body",
    [
        b'{"language": "bash", "source": "x", "stdin": [' + b"[]," * 100_000 + b"[]]}",
        b'{"language": "bash", "source": "x", "arguments": [' + b'"",' * 10_000 + b'""]}',
    ],
    ids=["lists", "texts"],
)
async def test_refuses_a_body_of_many_values_before_it_reads_them(
    http: httpx.AsyncClient, body: bytes
) -> None:
    answer = await http.post("/v1/run", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 413
    assert "beside its texts" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"language":"bash","source":"x","source":"y"}', "source"),
        (b'{"language":"bash","source":"x","sourc\\u0065":"y"}', "source"),
        (b'{"language":"bash","source":"x","environment":{"A":"1","A":"1"}}', "A"),
        (b'{"language":"bash","source":"x","environment":{"\\\\":"1","\\\\":"1"}}', "\\\\"),
        (b'{"language":"bash","source":"x","files":[{"path":"a","path":"b","text":""}]}', "path"),
    ],
    ids=["same", "escaped", "nested", "backslash", "in a list"],
)
async def test_refuses_a_name_that_is_twice_in_an_object(
    http: httpx.AsyncClient, body: bytes, name: str
) -> None:
    answer = await http.post("/v1/run", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["detail"] == f"'{name}' is twice in an object of the body"


async def test_names_that_only_look_equal_are_none_that_are_twice(http: httpx.AsyncClient) -> None:
    long = "x" * 5000
    job = {
        "language": "bash",
        "source": 'env a\\"\nenv a',
        "environment": {'a\\"': "one", "a": "two", "a\\\\": "three"},
        "files": [{"path": "a", "text": long}, {"path": "b", "text": long}],
    }

    answer = await http.post("/v1/run", json=job)

    assert answer.json()["run"]["stdout"]["text"] == "one\ntwo\n"


async def test_large_job_is_parsed_beside_the_event_loop(api: Served) -> None:
    parsing: set[int] = set()
    original = run_request_parsing.parse_json_request

    def note_thread(*arguments: Any) -> Any:
        parsing.add(threading.get_ident())
        return original(*arguments)

    text = "x" * (MIB // 2)
    job = {"language": "bash", "source": "print hi", "files": [{"path": "a", "text": text}]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_request_parsing, "parse_json_request", note_thread)
        async with api.client() as http:
            answer = await http.post("/v1/run", json=job)

    assert answer.json()["run"]["stdout"]["text"] == "hi\n"
    assert parsing
    assert threading.get_ident() not in parsing


async def test_strings_may_be_long_and_contain_brackets(
    http: httpx.AsyncClient,
) -> None:
    source = "print hi\n# " + '"[{,]}\\' * 50_000

    answer = await http.post("/v1/run", json={"language": "bash", "source": source})

    assert answer.json()["run"]["stdout"]["text"] == "hi\n"


@pytest.mark.parametrize("source", [b"", b"print caf\xe9\n", b"print \0\n"])
async def test_source_may_be_any_bytes(http: httpx.AsyncClient, source: bytes) -> None:
    encoded = base64.b64encode(source).decode("ascii")

    raw = await http.post("/v1/run?language=bash", content=source, headers=TEXT)
    told = await http.post("/v1/run", json={"language": "bash", "source_base64": encoded})

    assert raw.json()["verdict"] == told.json()["verdict"] == "ok"
    assert raw.json()["run"]["stdout"] == told.json()["run"]["stdout"]


async def test_refuses_more_output_than_a_response_holds(http: httpx.AsyncClient) -> None:
    told = {"language": "bash", "source": "print hi", "output_limit": 17 * 1024 * 1024}

    refused = await http.post("/v1/run", json=told)
    streamed = await http.post("/v1/run", json=told, headers={"accept": "text/event-stream"})

    assert refused.status_code == 422
    assert "POST /v1/start" in refused.json()["hint"]
    assert streamed.status_code == 200


@pytest.mark.parametrize(
    ("body", "detail", "hint"),
    [
        ('{"lang": "bash"}', "unknown field 'lang' in the body", "Did you mean 'language'?"),
        ('{"detached": true}', "unknown field 'detached' in the body", "for another request"),
        ('{"memory": "1G"}', "memory in the body should be a whole number", "in bytes"),
        ('{"timeout": "5s"}', "timeout in the body should be a number", "in seconds"),
        ("[1]", "the body should be an object", "openapi"),
        ("{", "the body is no JSON", "RFC 8259"),
        ("{}", "source or source_base64", "openapi"),
    ],
)
async def test_errors_name_the_field_and_a_fix(
    http: httpx.AsyncClient, body: str, detail: str, hint: str
) -> None:
    answer = await http.post("/v1/run", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in {400, 422}
    assert detail in answer.json()["detail"]
    assert hint in answer.json()["hint"]


async def test_refuses_a_transfer_coding_that_it_does_not_know(api: Served) -> None:
    status, _ = problem(await api.answer(RUN + b"transfer-encoding: gzip\r\n\r\n"))

    assert status == 501


async def test_refuses_a_body_by_its_announced_length(api: Served) -> None:
    head = RUN + b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n" % (MAX_SOURCE + 1)

    status, told = problem(await api.answer(head))

    assert status == 413
    assert str(MAX_SOURCE) in told["detail"]


async def test_refuses_a_body_in_chunks_once_it_is_too_long(api: Served) -> None:
    head = RUN + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    status, _ = problem(await api.answer(head, *[chunk] * 17))

    assert status == 413


async def test_refuses_a_large_body_instead_of_100_continue(api: Served) -> None:
    fields = b"content-type: text/plain\r\ncontent-length: 9999999\r\nexpect: 100-continue\r\n\r\n"

    answer = await api.answer(RUN + fields)

    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_sends_100_continue(api: Served) -> None:
    fields = b"content-type: text/plain\r\ncontent-length: 8\r\nexpect: 100-continue\r\n\r\n"
    reader, writer = await api.connect()
    writer.write(RUN + fields)

    interim = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"print hi")
    final = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert interim.startswith(b"HTTP/1.1 100 ")
    assert final.startswith(b"HTTP/1.1 200 ")


@pytest.mark.debian("curl")
@pytest.mark.parametrize("size", [2 * MIB, 8 * MIB], ids=["fits", "too-large"])
async def test_curl_sends_large_bodies(api: Served, size: int) -> None:
    command = ["curl", "-sS", "--unix-socket", str(api.path), "-H", "content-type: text/plain"]
    url = "http://slipway/v1/run?language=bash"

    ended = await asyncio.to_thread(
        subprocess.run,
        [*command, "--data-binary", "@-", "-w", "\n%{http_code}", url],
        input=b"#" * size + b"\nprint hi",
        capture_output=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(b"200" if size < MAX_SOURCE else b"413")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("language=cobol", "cobol"),
        ("", "language"),
        ("language=bash&langauge=x", "langauge"),
        ("language=bash&timeout=soon", "timeout"),
        ("language=bash&timeout=nan", "timeout"),
        ("language=bash&timeout=-1", "timeout"),
        ("language=bash&timeout=1e9", "timeout"),
        ("language=bash&cpus=0", "cpus"),
        ("language=bash&cpus=1.5", "cpus"),
        ("language=bash&memory=99999999999999999999", "memory"),
        ("language=bash&machine=toaster", "machine"),
        ("language=bash&arch=riscv", "'arm64'"),
        ("language=bash&stream=video", "stream"),
        ("language=bash&detached=yes", "detached"),
        ("language=bash&interactive=true", "interactive"),
        ("language=bash&version=/etc", "/etc"),
        ("language=bash@5&version=6", "version"),
        ("language=bash&memory=1", "memory"),
        ("language=bash&memory_limit=9999", "memory_limit"),
        ("language=bash&memory_limit=4294967296&memory=524288000", "memory_limit is 4096 MiB, and"),
        ("language=bash&open_files=0", "open_files"),
        ("language=%00%ff", "language"),
    ],
)
async def test_refuses_a_query_and_names_what_is_wrong(
    http: httpx.AsyncClient, query: str, named: str
) -> None:
    answer = await http.post(f"/v1/start?{query}", content=b"print", headers=TEXT)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.json()["detail"]


async def test_refuses_a_parameter_that_is_given_twice(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/run?language=bash&language=rust", content=b"x", headers=TEXT)

    assert answer.status_code == 422
    assert "language" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("job", "named"),
    [
        ({}, "source"),
        ({"source": "x", "source_base64": "eA=="}, "source"),
        ({"source_base64": "!"}, "source_base64"),
        ({"source": 1}, "source"),
        ({"source": None}, "source"),
        ({"source": "x", "cpus": True}, "cpus"),
        ({"source": "x", "cpus": "1"}, "cpus"),
        ({"source": "x", "arch": "riscv"}, "'arm64'"),
        ({"source": "x", "sauce": 1}, "sauce"),
        ({"source": "x", "arguments": "a b"}, "arguments"),
        ({"source": "x", "arguments": ["\0"]}, "argument"),
        ({"source": "x", "environment": {"A=B": "c"}}, "A=B"),
        ({"source": "x", "files": [{"path": "../x", "text": ""}]}, "../x"),
        ({"source": "x", "files": [{"path": "a"}]}, "files.0"),
        ({"source": "x", "files": [{"path": "a", "text": "", "mode": 4095}]}, "files.0.mode"),
        ({"source": "x", "outputs": ["/etc/shadow"]}, "/etc/shadow"),
        ({"source": "x", "stdin": {"base64": "?"}}, "stdin"),
        ({"source": "x", "stdin": {}}, "stdin"),
        ({"source": "x", "timeout": 2}, "timeout"),
        ({"source": "x", "stream": "events"}, "stream"),
        ([], "body"),
        ("x", "body"),
    ],
)
async def test_refuses_a_job_and_names_what_is_wrong(
    http: httpx.AsyncClient, job: object, named: str
) -> None:
    answer = await http.post("/v1/run?language=bash&timeout=1", json=job)

    assert answer.status_code == 422
    assert named in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"source":"\\ud800"}', b"[" * 100_000, b'{"source":"x"} {}'],
    ids=["empty", "half", "bytes", "surrogate", "deep", "two"],
)
async def test_refuses_a_body_that_is_no_json(http: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}

    answer = await http.post("/v1/run?language=bash", content=body, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:slipway:malformed"


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/x-c; charset=UTF-8", "x", ""]
)
async def test_body_that_is_no_json_is_the_source(http: httpx.AsyncClient, kind: str) -> None:
    answer = await http.post(
        "/v1/run?language=bash", content=b"print 1+1%20\n", headers={"content-type": kind}
    )

    assert answer.json()["run"]["stdout"]["text"] == "1+1%20\n"


async def test_body_of_a_type_that_is_json_is_a_job(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/run",
        content=b'{"source": "print x", "language": "bash"}',
        headers={"content-type": "application/vnd.job+json"},
    )

    assert answer.json()["run"]["stdout"]["text"] == "x\n"


@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=x", "application/json; charset=utf-16"]
)
async def test_refuses_a_body_of_another_type(http: httpx.AsyncClient, kind: str) -> None:
    answer = await http.post("/v1/run?language=bash", content=b"x", headers={"content-type": kind})

    assert answer.status_code == 415
    assert answer.json()["hint"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("identifier", ["x", "0" * 32, "..%2f..", "%00", "é"])
async def test_unknown_run_is_a_404(http: httpx.AsyncClient, method: str, identifier: str) -> None:
    answer = await http.request(method, f"/v1/runs/{identifier}")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", [{}, {"signal": 0}, {"signal": True}, {"signal": "KILLER"}])
async def test_refuses_an_unknown_signal(http: httpx.AsyncClient, body: dict[str, object]) -> None:
    started = await http.post("/v1/start?language=bash", content=b"forever", headers=TEXT)

    answer = await http.post(f"{started.headers['location']}/signal", json=body)

    assert answer.status_code == 422


async def test_says_which_methods_a_path_has(http: httpx.AsyncClient) -> None:
    answer = await http.put("/v1/run")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_refuses_a_key_that_is_too_long(http: httpx.AsyncClient) -> None:
    headers = {**TEXT, "slipway-key": "k" * 129}

    answer = await http.post("/v1/run?language=bash", content=b"x", headers=headers)

    assert answer.status_code == 422
    assert "Slipway-Key" in answer.json()["detail"]


async def test_takes_the_longest_key(http: httpx.AsyncClient) -> None:
    headers = {**TEXT, "slipway-key": "k" * 128}

    answer = await http.post("/v1/run?language=bash", content=b"exit", headers=headers)

    assert answer.status_code == 200


async def test_response_to_a_bug_has_no_details(
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_runtime: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("slipway._local.runtime.AsyncRuntime.languages", fail)

    with caplog.at_level(logging.ERROR):
        answer = await http.get("/v1/languages?password=secret")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert [record.name for record in caplog.records] == ["slipway.api"]
    assert "password" not in caplog.records[0].getMessage()


async def test_answers_the_next_request_after_a_bad_one(http: httpx.AsyncClient) -> None:
    await http.post("/v1/run?language=cobol", content=b"x", headers=TEXT)

    answer = await http.get("/v1/health")

    assert answer.json()["status"] == "ok"
