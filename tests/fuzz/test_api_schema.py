"""The server against its own OpenAPI document: schemathesis, over the Unix socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from fuzz.effort import share
from slipway._server.http.app import encode_document
from slipway._server.kept.retention import ClientTimeouts
from support.api_server import serve_api

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Tests are made of it as they are collected: from_fixture() of schemathesis 4.32 needs an attribute
# of items that pytest 9 has no more.
schema = schemathesis.openapi.from_dict(json.loads(encode_document()))
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


class _Pool(HTTPConnectionPool):
    """Connections to one Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("slipway")
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        connection = HTTPConnection("slipway")
        connection._new_conn = self._connect  # type: ignore[method-assign]
        return connection

    def _connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(str(self._path))
        return client


class _UnixAdapter(HTTPAdapter):
    """Has requests go to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = _Pool(path)

    def get_connection_with_tls_context(self, *_args: Any, **_named: Any) -> _Pool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """A session with a server that runs in a thread."""
    paths: list[Path] = []
    listening, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serve_api(timeouts=ClientTimeouts(grace=0.1)) as api:
            paths.append(api.path)
            listening.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert listening.wait(30)
        with requests.Session() as session:
            session.mount("http://", _UnixAdapter(paths[0]))
            yield session
    finally:
        over.set()
        thread.join()


def _aim(case: schemathesis.Case[Any], session: requests.Session) -> None:
    """Have a request that is right in its form be about what there is."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if case.path.startswith("/v1/sessions"):
        _aim_at_a_session(case, session)
    elif "/{id}" in case.path:
        started = session.post(
            "http://slipway/v1/start?language=bash",
            data=b"print x",
            headers={"content-type": "text/plain"},
        )
        case.path_parameters["id"] = started.json()["id"]
    if case.path in {"/v1/start", "/v1/run"}:
        query = case.query
        for name in ("version", "interactive"):
            query.pop(name, None)
        query["language"] = "bash"
        if isinstance(case.body, dict):
            for name in {*query, "version", "interactive"}:
                case.body.pop(name, None)


def _aim_at_a_session(case: schemathesis.Case[Any], session: requests.Session) -> None:
    # Those that there are have to end soon: each has a machine, and so have their forks.
    if case.path == "/v1/sessions" and isinstance(case.body, dict):
        case.body.pop("version", None)
        case.body |= {"language": "bash", "idle": 0.05}
    elif "/{id}" in case.path:
        opened = session.post("http://slipway/v1/sessions", json={"language": "bash", "idle": 0.5})
        case.path_parameters["id"] = opened.json()["id"]
        if isinstance(case.body, dict):
            for name in {*case.query, "interactive"}:
                case.body.pop(name, None)
        case.query.pop("interactive", None)


@schema.parametrize()
@share(3)  # of each of twenty routes
def test_responses_match_the_document(
    case: schemathesis.Case[Any], session: requests.Session
) -> None:
    _aim(case, session)

    # What no schema can say (a source that is empty, an offset beyond the end) is refused as well.
    answer = case.call_and_validate(
        base_url="http://slipway", session=session, excluded_checks=[positive_data_acceptance]
    )

    # What to do is to be told of every error.
    assert answer.status_code < 400 or answer.json()["hint"]
