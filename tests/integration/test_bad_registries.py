"""Registries that are broken, busy or hostile: servers that follow a script."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
from contextlib import ExitStack
from threading import Barrier, Event, Thread
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trustme

from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError, SourceUnavailable
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.manifests import OCI_MANIFEST
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.oci.registry import PROGRESS, Access, Registry
from slipway_initramfs.oci.repository import MAX_DOCUMENT, Descriptor
from slipway_initramfs.oci.retry import RetryPolicy
from support.layers import digest
from support.registries import (
    Reply,
    Request,
    ScriptedRegistry,
    scripted_server,
    server_context,
    write_docker_config,
)
from support.waiting import LIMIT

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANIFEST = b'{"schemaVersion": 2}'
MANIFEST_PATH = "/v2/team/tool/manifests/1"
DATA = os.urandom(500_000)
LOGIN = ("alice", "open sesame")
BASIC = f"Basic {base64.b64encode(':'.join(LOGIN).encode()).decode()}"


BLOB = Descriptor("layer", digest(DATA), len(DATA))


class Serve(Protocol):
    """Starts a server; ``tls`` makes it speak TLS."""

    def __call__(
        self, script: Callable[[Request], Reply], tls: ssl.SSLContext | None = None
    ) -> ScriptedRegistry: ...


class Pull(Protocol):
    """Opens team/tool:1, or ``name`` below the host, in a registry."""

    def __call__(
        self,
        server: ScriptedRegistry | str,
        access: Access = ...,
        *,
        name: str = ...,
        silence: float = ...,
    ) -> Registry: ...


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has no credentials yet, nor a proxy."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    def start(
        script: Callable[[Request], Reply], tls: ssl.SSLContext | None = None
    ) -> ScriptedRegistry:
        return stack.enter_context(scripted_server(script, tls=tls))

    return start


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited, without waiting, between two tries."""
    return []


@pytest.fixture
def pull(stack: ExitStack, waits: list[float]) -> Pull:
    def start(
        server: ScriptedRegistry | str,
        access: Access = Access(),  # noqa: B008  (frozen)
        *,
        name: str = "team/tool:1",
        silence: float = 30,
    ) -> Registry:
        host = server if isinstance(server, str) else server.host
        patience = RetryPolicy(silence=silence, sleep=waits.append)
        registry = Registry(Reference.parse(f"docker://{host}/{name}"), access, patience)
        stack.callback(registry.close)
        return registry

    return start


def once(*replies: Reply) -> Callable[[Request], Reply]:
    """Give each reply once, and the last one for ever."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def manifest(data: bytes = MANIFEST, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(200, {"Content-Type": OCI_MANIFEST, **names}, data)


def error(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def read(registry: Registry, descriptor: Descriptor = BLOB, offset: int = 0) -> bytes:
    with registry.blob(descriptor, offset) as chunks:
        return b"".join(chunks)


def answer_range(request: Request, data: bytes = DATA) -> Reply:
    """Answer as a server that knows ranges."""
    start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    if not start:
        return Reply(200, body=data)
    said = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return Reply(206, {"Content-Range": said}, data[start:])


# -- errors that may pass ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_asks_again_after_an_error_that_may_pass(
    serve: Serve, pull: Pull, waits: list[float], status: int
) -> None:
    server = serve(once(Reply(status), Reply(status), manifest()))

    document = pull(server).root()

    assert document.data == MANIFEST
    assert [request.path for request in server.requests] == [MANIFEST_PATH] * 3
    assert len(waits) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_gives_up_in_the_end(serve: Serve, pull: Pull, waits: list[float], status: int) -> None:
    server = serve(once(Reply(status, body=error("BUSY", "come back later"))))

    with pytest.raises(SourceUnavailable, match=f"{status} .*: BUSY: come back later"):
        pull(server).root()

    assert len(server.requests) == RetryPolicy().attempts
    assert all(first < second for first, second in zip(waits, waits[2:], strict=False))


def test_waits_as_long_as_it_is_asked_to(serve: Serve, pull: Pull, waits: list[float]) -> None:
    pull(serve(once(Reply(429, {"Retry-After": "7"}), manifest()))).root()

    assert waits == [7.0]


def test_does_not_wait_for_hours(serve: Serve, pull: Pull, waits: list[float]) -> None:
    server = serve(once(Reply(429, {"Retry-After": "21600"}), manifest()))

    with pytest.raises(SourceUnavailable) as caught:
        pull(server).root()

    assert "21600 s" in caught.value.hint
    assert waits == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
        b"HTTP/1.1 307 Moved\r\nLocation: http://a:b/\r\nContent-Length: 0\r\n\r\n",
        os.urandom(1000),
    ],
    ids=["nothing", "text", "short", "chunks", "negative", "headers", "header", "place", "noise"],
)
def test_bears_with_servers_that_break_http(serve: Serve, pull: Pull, raw: bytes) -> None:
    server = serve(once(Reply(raw=raw)))

    with pytest.raises(SourceUnavailable, match=r"the exchange with .* broke: ") as caught:
        pull(server).root()

    assert len(server.requests) == RetryPolicy().attempts
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


def test_does_not_wait_for_a_server_that_falls_silent(serve: Serve, pull: Pull) -> None:
    done = Event()
    server = serve(once(Reply(raw=b"HTTP/1.1 200 OK\r\n", stall=done.wait)))

    with pytest.raises(SourceUnavailable, match="has stopped responding"):
        pull(server, silence=0.05).root()

    done.set()


@pytest.mark.parametrize(
    ("host", "complaint"),
    [("registry.invalid", "cannot find the host"), ("127.0.0.1:1", "cannot connect to")],
)
def test_an_unreachable_host_is_reported_at_once(
    pull: Pull, waits: list[float], host: str, complaint: str
) -> None:
    with pytest.raises(SourceUnavailable, match=f"{complaint} {host}"):
        pull(host).root()

    assert waits == []


# -- errors that stay --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "complaint", "hint"),
    [
        (Reply(401), "refuses .*: 401 Unauthorized", "docker login"),
        (Reply(401, {"WWW-Authenticate": 'Digest realm="x"'}), "401 Unauthorized", "docker login"),
        (Reply(403, body=error("DENIED", "no")), "403 Forbidden: DENIED: no", "docker login"),
        (Reply(404, body=error("NAME_UNKNOWN", "what?")), "does not have .*: what", "spelling"),
        (Reply(404, body=b"<html>"), "does not have the manifest of", "spelling"),
        (Reply(418), "answers 418 I'm a teapot to the request", ""),
        (Reply(204), "answers 204 No Content", ""),
        (Reply(404, body=b"[" * 60_000), "404 Not Found", "spelling"),
        (Reply(404, body=b" " * 1_000_000), "404 Not Found", "spelling"),
        (Reply(404, body=b'{"errors": [1, {"code": [], "message": {}}]}'), "404 Not Found", ""),
        (Reply(200, {"Content-Type": "text/html; charset=utf-8"}), "it is not a registry", "port"),
    ],
)
def test_refusals_of_a_registry_are_reported(
    serve: Serve, pull: Pull, waits: list[float], reply: Reply, complaint: str, hint: str
) -> None:
    server = serve(once(reply))

    with pytest.raises(BuildFailed, match=complaint) as caught:
        pull(server).root()

    assert hint in caught.value.hint
    assert waits == []


def test_shows_no_control_characters_of_a_registry(serve: Serve, pull: Pull) -> None:
    server = serve(once(Reply(404, body=error("\x1b[2J", "a\nb" + "c" * 10_000))))

    with pytest.raises(BuildFailed, match=r"\[2J: a bccc") as caught:
        pull(server).root()

    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("length", [MAX_DOCUMENT + 1, None])
def test_refuses_a_document_that_is_too_long(serve: Serve, pull: Pull, length: int | None) -> None:
    headers = {} if length is None else {"Content-Length": str(length)}
    raw = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = f"HTTP/1.1 200 OK\r\n{raw}\r\n".encode() + bytes(MAX_DOCUMENT + 1)

    with pytest.raises(ImageError, match="document of more than 4096 KiB"):
        pull(serve(once(Reply(raw=body)))).root()


def test_does_not_ask_for_a_document_that_is_too_long(serve: Serve, pull: Pull) -> None:
    server = serve(once(manifest()))

    with pytest.raises(ImageError, match="more than"):
        pull(server).document(Descriptor(OCI_MANIFEST, BLOB.digest, MAX_DOCUMENT + 1))

    assert server.requests == []


def test_refuses_a_manifest_of_another_digest_than_was_asked_for(serve: Serve, pull: Pull) -> None:
    server = serve(once(manifest()))

    with pytest.raises(ImageCorrupted, match="has the digest"):
        pull(server, name=f"team/tool@{digest(b'other')}").root()


def test_refuses_a_manifest_of_another_digest_than_is_promised(serve: Serve, pull: Pull) -> None:
    server = serve(once(manifest(Docker_Content_Digest=digest(b"other"))))

    with pytest.raises(ImageCorrupted, match="has the digest"):
        pull(server).root()


def test_says_which_file_has_no_certificates(pull: Pull, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")

    with pytest.raises(BuildFailed, match=f"cannot read certificates from {path}"):
        pull("registry.example", Access(ca=path))
    with pytest.raises(BuildFailed, match="No such file"):
        pull("registry.example", Access(ca=tmp_path / "missing.pem"))


# -- blobs -------------------------------------------------------------------------------------


def test_goes_on_where_the_answer_broke(serve: Serve, pull: Pull, waits: list[float]) -> None:
    def script(request: Request) -> Reply:
        whole = answer_range(request)
        length = {"Content-Length": str(len(whole.body))}
        return Reply(whole.status, {**whole.headers, **length}, whole.body[:100_000])

    server = serve(script)

    data = read(pull(server))

    assert data == DATA
    asked = [request.headers.get("range") for request in server.requests]
    assert asked == [None, *(f"bytes={start}-" for start in range(100_000, 500_000, 100_000))]
    assert max(waits) <= RetryPolicy().first_wait


def test_goes_on_after_a_silence(serve: Serve, pull: Pull) -> None:
    done = Event()

    def script(request: Request) -> Reply:
        if "range" in request.headers:
            return answer_range(request)
        return Reply(200, {"Content-Length": str(len(DATA))}, DATA[:200_000], stall=done.wait)

    data = read(pull(serve(script), silence=0.2))

    done.set()
    assert data == DATA


def test_notices_an_end_that_http_does_not(serve: Serve, pull: Pull) -> None:
    def script(request: Request) -> Reply:
        if "range" in request.headers:
            return answer_range(request)
        return Reply(raw=b"HTTP/1.0 200 OK\r\n\r\n" + DATA[:200_000])

    assert read(pull(serve(script))) == DATA


def test_received_bytes_are_skipped_from_a_server_without_ranges(serve: Serve, pull: Pull) -> None:
    server = serve(once(Reply(200, body=DATA)))

    assert read(pull(server), offset=123_456) == DATA[123_456:]


def test_gives_up_on_a_server_that_gives_a_byte_at_a_time(serve: Serve, pull: Pull) -> None:
    def script(request: Request) -> Reply:
        whole = answer_range(request)
        length = {"Content-Length": str(len(whole.body))}
        return Reply(whole.status, {**whole.headers, **length}, whole.body[:1])

    server = serve(script)

    with pytest.raises(SourceUnavailable):
        read(pull(server))

    assert len(server.requests) <= RetryPolicy().attempts + 1
    assert len(DATA) > PROGRESS


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply(416), "no more than 1000 bytes"),
        (Reply(206, {"Content-Range": f"bytes 0-9/{len(DATA)}"}), "range 'bytes 0-9/"),
        (Reply(206, {"Content-Range": "bytes what"}), "range 'bytes what'"),
        (Reply(206), "range ''"),
        (Reply(206, {"Content-Range": "bytes 1000-1001/1002"}), "1002 bytes in the registry"),
        (Reply(200, body=b"short"), "5 bytes in the registry"),
        (Reply(404), "does not have layer"),
    ],
)
def test_a_wrong_range_is_refused(
    serve: Serve, pull: Pull, waits: list[float], reply: Reply, complaint: str
) -> None:
    with pytest.raises(ImageError, match=complaint):
        read(pull(serve(once(reply))), offset=1000)

    assert waits == []


def test_takes_the_bytes_as_they_are_stored(serve: Serve, pull: Pull) -> None:
    stored = gzip.compress(DATA)
    server = serve(once(Reply(200, {"Content-Encoding": "gzip"}, stored)))

    data = read(pull(server), Descriptor("layer", digest(stored), len(stored)))

    assert data == stored
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_starts_anew_when_the_registry_has_less_than_an_earlier_try_left(
    serve: Serve, pull: Pull, tmp_path: Path
) -> None:
    (tmp_path / f"{BLOB.digest.removeprefix('sha256:')}.partial").write_bytes(b"x" * 1000)

    def script(request: Request) -> Reply:
        return Reply(416) if "range" in request.headers else Reply(200, body=DATA)

    path = BlobCache(tmp_path).fetch(BLOB, pull(serve(script)), lambda *_: None)

    assert path.read_bytes() == DATA


# -- redirects ---------------------------------------------------------------------------------


def want_basic(reply: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
    """Answer only clients with a login."""

    def script(request: Request) -> Reply:
        if request.headers.get("authorization") != BASIC:
            return Reply(401, {"WWW-Authenticate": "Basic"})
        return reply(request)

    return script


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_password_is_not_sent_to_another_server(
    serve: Serve, pull: Pull, home: Path, status: int
) -> None:
    storage = serve(answer_range)
    place = f"http://{storage.host}/blob?signed"
    server = serve(want_basic(lambda _: Reply(status, {"Location": place})))
    write_docker_config(home / ".docker", server.host, LOGIN)

    data = read(pull(server), offset=1000)

    assert data == DATA[1000:]
    assert [request.path for request in storage.requests] == ["/blob?signed"]
    assert "authorization" not in storage.requests[0].headers
    assert storage.requests[0].headers["range"] == "bytes=1000-"


def test_stays_logged_in_on_the_same_server(serve: Serve, pull: Pull, home: Path) -> None:
    def script(request: Request) -> Reply:
        if request.path == MANIFEST_PATH:
            return Reply(307, {"Location": "/elsewhere"})
        return manifest()

    server = serve(want_basic(script))
    write_docker_config(home / ".docker", server.host, LOGIN)

    assert pull(server).root().data == MANIFEST


def test_does_not_log_in_where_a_redirect_leads(serve: Serve, pull: Pull, home: Path) -> None:
    other = serve(once(Reply(401, {"WWW-Authenticate": "Basic"})))
    server = serve(once(Reply(307, {"Location": f"http://{other.host}/"})))
    for host in (other.host, server.host):
        write_docker_config(home / ".docker", host, LOGIN)

    with pytest.raises(BuildFailed, match="401"):
        pull(server).root()

    assert len(other.requests) == 1


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        ("", "not a valid address"),
        ("file:///etc/passwd", "not a valid address"),
        ("mailto:somebody", "the request to"),
        ("https://xn--/", "the request to"),
        (":https://[", "the request to"),
        (MANIFEST_PATH, "redirects more than 5 times"),
    ],
)
def test_a_redirect_to_an_invalid_address_is_refused(
    serve: Serve, pull: Pull, location: str, complaint: str
) -> None:
    server = serve(once(Reply(307, {"Location": location})))

    with pytest.raises(BuildFailed, match=complaint):
        pull(server).root()

    assert len(server.requests) <= 6


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Access]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return ca, Access(ca=tmp_path / "ca.pem")


def test_follows_no_redirect_out_of_tls(
    serve: Serve, pull: Pull, authority: tuple[trustme.CA, Access]
) -> None:
    plain = serve(answer_range)
    ca, access = authority
    server = serve(once(Reply(307, {"Location": f"http://{plain.host}/"})), tls=server_context(ca))

    with pytest.raises(BuildFailed, match="from https to plain http"):
        read(pull(server, access))

    assert plain.requests == []


def test_does_not_trust_a_certificate_for_another_host(
    serve: Serve, pull: Pull, authority: tuple[trustme.CA, Access]
) -> None:
    ca, access = authority
    server = serve(once(manifest()), tls=server_context(ca, "registry.example"))

    with pytest.raises(BuildFailed, match=r"not trusted: .*not valid for '127\.0\.0\.1'"):
        pull(server, access).root()

    assert server.requests == []


def test_blames_no_failure_on_an_earlier_one(serve: Serve, pull: Pull) -> None:
    server = serve(once(manifest()), tls=server_context(trustme.CA()))
    later = pull("127.0.0.1:1")

    try:
        pull(server).root()
    except BuildFailed:
        with pytest.raises(SourceUnavailable, match="cannot connect to"):
            later.root()
    else:
        pytest.fail("an unknown authority is trusted")


# -- tokens ------------------------------------------------------------------------------------


def want_token(realm: str, good: Callable[[str], bool]) -> Callable[[Request], Reply]:
    """Answer only clients with a valid token."""
    challenge = f'Bearer realm="{realm}",service="here",scope="repository:team/tool:pull"'

    def script(request: Request) -> Reply:
        if good(request.headers.get("authorization", "").removeprefix("Bearer ")):
            return answer_range(request) if "blobs" in request.path else manifest()
        return Reply(401, {"WWW-Authenticate": challenge})

    return script


def give(**fields: Any) -> Reply:
    return Reply(200, body=json.dumps(fields).encode())


def test_asks_for_what_the_registry_wants(serve: Serve, pull: Pull, home: Path) -> None:
    issuer = serve(once(give(token="good")))
    server = serve(want_token(f"http://{issuer.host}/token?a=b", "good".__eq__))
    write_docker_config(home / ".docker", server.host, LOGIN)

    pull(server).root()

    (request,) = issuer.requests
    assert request.query == {
        "a": "b",
        "client_id": "slipway",
        "scope": "repository:team/tool:pull",
        "service": "here",
    }
    assert request.headers["authorization"] == BASIC
    assert request.headers["user-agent"].startswith("slipway/")
    assert all(asked.headers.get("authorization") != BASIC for asked in server.requests)


def test_keeps_a_token(serve: Serve, pull: Pull) -> None:
    issuer = serve(once(give(access_token="good", expires_in=300)))
    server = serve(want_token(f"http://{issuer.host}/", "good".__eq__))
    registry = pull(server)

    registry.root()
    registry.root()

    assert len(issuer.requests) == 1
    assert len(server.requests) == 3


def test_renews_a_token_that_is_refused_in_the_middle(serve: Serve, pull: Pull) -> None:
    issuer = serve(once(give(token="first"), give(token="second")))
    good = ["first", "first", "second"]
    server = serve(want_token(f"http://{issuer.host}/", lambda token: token == good[0]))
    registry = pull(server)

    registry.root()
    good[:] = ["second"]
    registry.root()

    assert len(issuer.requests) == 2


def test_does_not_renew_for_ever(serve: Serve, pull: Pull) -> None:
    issuer = serve(once(give(token="bad")))
    server = serve(want_token(f"http://{issuer.host}/", lambda _: False))

    with pytest.raises(BuildFailed, match="401"):
        pull(server).root()

    assert len(server.requests) == 2
    assert len(issuer.requests) == 1


def test_threads_share_a_token(serve: Serve, pull: Pull) -> None:
    together = Barrier(3)
    issuer = serve(once(give(token="good")))
    answer = want_token(f"http://{issuer.host}/", "good".__eq__)

    def script(request: Request) -> Reply:
        if "authorization" not in request.headers:
            together.wait(LIMIT)
        return answer(request)

    registry = pull(serve(script))
    found: list[bytes] = []
    threads = [Thread(target=lambda: found.append(registry.root().data)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "the thread has its manifest"

    assert found == [MANIFEST] * 3
    assert len(issuer.requests) == 1


def test_asks_a_busy_token_server_again(serve: Serve, pull: Pull, waits: list[float]) -> None:
    issuer = serve(once(Reply(503), Reply(raw=b""), give(token="good")))
    server = serve(want_token(f"http://{issuer.host}/", "good".__eq__))

    pull(server).root()

    assert len(issuer.requests) == 3
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply(200, body=b"{"), "lacks a token"),
        (Reply(200, body=b"[" * 100_000), "lacks a token"),
        (Reply(200, body=b"[]"), "lacks a token"),
        (give(), "lacks a token"),
        (give(token=7), "lacks a token"),
        (give(token="a\r\nHost: b"), "lacks a token"),
        (give(token="a" * 100_000), "lacks a token"),
        (Reply(200, body=b" " * 1_000_000), "more than 256 KiB"),
        (Reply(403, body=error("DENIED", "no")), "its token server .* answers 403 .*DENIED: no"),
    ],
)
def test_failures_of_a_token_server_are_reported(
    serve: Serve, pull: Pull, reply: Reply, complaint: str
) -> None:
    server = serve(want_token(f"http://{serve(once(reply)).host}/", "a".__eq__))

    with pytest.raises(ImageError, match=complaint):
        pull(server).root()


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example/token",
        "ftp://127.0.0.1/",
        "token",
        "http://[",
        "http://:1/",
        "https://xn--/",
    ],
)
def test_asks_for_a_token_in_no_unsafe_place(
    serve: Serve, pull: Pull, home: Path, realm: str
) -> None:
    server = serve(want_token(realm, lambda _: False))
    write_docker_config(home / ".docker", server.host, LOGIN)

    with pytest.raises(BuildFailed, match="which is not https"):
        pull(server).root()


def test_a_registry_with_tls_has_its_tokens_given_with_tls(
    serve: Serve, pull: Pull, authority: tuple[trustme.CA, Access], home: Path
) -> None:
    ca, access = authority
    issuer = serve(once(give(token="good")))
    script = want_token(f"http://{issuer.host}/", "good".__eq__)
    server = serve(script, tls=server_context(ca))
    write_docker_config(home / ".docker", server.host, LOGIN)

    with pytest.raises(BuildFailed, match="which is not https"):
        pull(server, access).root()

    assert issuer.requests == []


# -- other machines, as a proxy shows them ------------------------------------------------------


@pytest.fixture
def proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> ScriptedRegistry:
    """A proxy, and behind it a registry on another machine that does not speak TLS."""

    def script(request: Request) -> Reply:
        if request.method == "CONNECT":
            return Reply(raw=b"HTTP/1.1 200 Connected\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n")
        return manifest()

    server = serve(script)
    monkeypatch.setenv("ALL_PROXY", f"http://{server.host}")
    return server


def test_speaks_no_plain_http_with_other_machines(pull: Pull, proxy: ScriptedRegistry) -> None:
    with pytest.raises(BuildFailed, match=r"registry\.example does not speak TLS") as caught:
        pull("registry.example").root()

    assert "--insecure" in caught.value.hint
    assert [request.method for request in proxy.requests] == ["CONNECT"]


def test_speaks_plain_http_where_it_may(pull: Pull, proxy: ScriptedRegistry) -> None:
    document = pull("registry.example", Access(insecure=True)).root()

    assert document.data == MANIFEST
    assert [request.method for request in proxy.requests] == ["CONNECT", "GET"]
    assert proxy.requests[1].path == f"http://registry.example{MANIFEST_PATH}"


def test_a_refusal_of_a_proxy_is_reported(
    serve: Serve, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(once(Reply(raw=b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")))
    monkeypatch.setenv("HTTPS_PROXY", f"http://{server.host}")

    with pytest.raises(SourceUnavailable, match=r"the proxy cannot reach registry.* 407"):
        pull("registry.example").root()


@pytest.mark.parametrize("address", ["nonsense://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_says_that_a_proxy_cannot_be_used(
    pull: Pull, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)

    with pytest.raises(BuildFailed, match="the proxy of this environment cannot be used"):
        pull("registry.example").root()


def test_takes_a_server_that_hangs_up_on_tls_for_one_without_it(pull: Pull) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def script() -> None:
            first, _ = listener.accept()
            first.recv(1)
            first.close()
            second, _ = listener.accept()
            with second:
                second.recv(65536)
                second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + MANIFEST)

        thread = Thread(target=script, daemon=True)
        thread.start()
        document = pull(f"127.0.0.1:{listener.getsockname()[1]}").root()
        thread.join(LIMIT)
        assert not thread.is_alive(), "the server has answered"

    assert document.data == MANIFEST
