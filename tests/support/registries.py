"""Container registries on loopback: Debian's docker-registry, and servers that follow a script."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import jwt
import trustme

from slipway_initramfs.child_process import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

SERVICE = "slipway tests"
ISSUER = "slipway token server"
PUBLIC = "public/"
"""Repositories that begin so can be pulled from a registry with tokens by anybody."""
PATIENCE = 60
"""Seconds until a registry listens; only a test that fails waits for it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a scripted server; names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the address or of a form."""
        text = self.body.decode() if self.body else urlsplit(self.path).query
        return {name: values[0] for name, values in parse_qs(text).items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of a scripted server.

    The header ``Content-Length`` is that of ``body`` unless another is given; a shorter body breaks
    off. ``raw`` is sent instead of HTTP. ``stall`` is called before the connection is closed.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None
    stall: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class ScriptedRegistry:
    """A server in a thread of this process; ``requests`` are those received."""

    host: str
    requests: list[Request]


@contextmanager
def scripted_server(
    script: Callable[[Request], Reply], *, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedRegistry]:
    """Answer each request with the reply of ``script``, on a port of 127.0.0.1."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            # A TLS record need not have a line's end, for which http.server would wait.
            if tls is None and self.connection.recv(1, socket.MSG_PEEK) == b"\x16":
                return
            try:
                super().handle()
            except OSError:  # the client has seen enough
                self.close_connection = True

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(length)
            request = Request(self.command, self.path, headers, body)
            requests.append(request)
            reply = script(request)
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                self.close_connection = True
            else:
                self.send_response(reply.status)
                for name, value in {
                    "Content-Length": str(len(reply.body)),
                    **reply.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)
                if reply.headers.get("Content-Length", "0") != str(len(reply.body)):
                    self.close_connection |= "Content-Length" in reply.headers
            if reply.stall is not None:
                self.wfile.flush()
                reply.stall()

        do_GET = do_POST = do_CONNECT = answer  # noqa: N815  (http.server's names)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield ScriptedRegistry(f"127.0.0.1:{server.server_address[1]}", requests)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """Debian's docker-registry, running.

    ``host`` is HOST:PORT, ``ca`` the file with the certificate authority if TLS is used,
    ``storage`` the directory of blobs, ``login`` a name and a password that may push.
    """

    host: str
    storage: Path
    ca: Path | None = None
    login: tuple[str, str] | None = None

    def push(self, source: Path | str, name: str, *, docker: bool = False) -> str:
        """Push all of an OCI layout, or of skopeo's ``source``, as repository:tag.

        Documents become docker's if wanted. Return the reference.
        """
        options = ["--all", "--format=v2s2" if docker else "--preserve-digests"]
        if self.ca is None:
            options.append("--dest-tls-verify=false")
        else:
            options.append(f"--dest-cert-dir={self.ca.parent}")
        options.append(f"--dest-creds={':'.join(self.login)}" if self.login else "--dest-no-creds")
        reference = f"docker://{self.host}/{name}"
        done = subprocess.run(
            (
                *("skopeo", "--insecure-policy", "copy", "--quiet", *options),
                source if isinstance(source, str) else f"oci:{source}",
                reference,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stdout
        return reference

    def blob(self, digest: str) -> Path:
        """Return the file in which the registry keeps a blob."""
        hexadecimal = digest.removeprefix("sha256:")
        blobs = self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return blobs / hexadecimal[:2] / hexadecimal / "data"


@contextmanager
def docker_registry(
    directory: Path,
    *,
    users: Mapping[str, str] | None = None,
    tokens: str = "",
    ca: trustme.CA | None = None,
) -> Iterator[DockerRegistry]:
    """Run docker-registry with files in ``directory``, which is made if missing.

    With ``users`` (passwords by name) the registry wants Basic authentication, or, if ``tokens`` is
    the address of a token server, tokens of that server. ``ca`` adds TLS.
    """
    directory.mkdir(parents=True, exist_ok=True)
    storage = directory / "storage"
    http: dict[str, Any] = {"addr": "127.0.0.1:0", "net": "tcp"}
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http,
    }
    ca_file = None
    if ca is not None:
        certificate = ca.issue_cert("127.0.0.1", "localhost")
        (directory / "certificates").mkdir()
        ca_file = directory / "certificates" / "ca.crt"
        ca.cert_pem.write_to_path(ca_file)
        certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")
        certificate.private_key_pem.write_to_path(directory / "server.key")
        http["tls"] = {
            "certificate": str(directory / "server.pem"),
            "key": str(directory / "server.key"),
        }
    if tokens:
        config["auth"] = {
            "token": {
                "realm": tokens,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(directory / TOKEN_CA),
            }
        }
    elif users:
        _write_passwords(directory / "htpasswd", users)
        config["auth"] = {"htpasswd": {"realm": SERVICE, "path": str(directory / "htpasswd")}}
    (directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    log = directory / "registry.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ("docker-registry", "serve", str(directory / "config.yml")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=partial(set_parent_death_signal, os.getpid()),  # noqa: PLW1509  (loads nothing)
        ) as process,
    ):
        try:
            login = next(iter(users.items())) if users else None
            yield DockerRegistry(_listening(process, log), storage, ca_file, login)
        finally:
            process.kill()


TOKEN_CA = "tokens.pem"


@contextmanager
def docker_registry_with_tokens(
    directory: Path, users: Mapping[str, str]
) -> Iterator[DockerRegistry]:
    """Run docker-registry with a token server.

    Anybody may pull names that begin with ``PUBLIC``, and ``users`` everything. The identity token
    of each user is ``identity-NAME``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ca = trustme.CA(key_type=trustme.KeyType.RSA)
    ca.cert_pem.write_to_path(directory / TOKEN_CA)
    signer = ca.issue_cert("tokens.test", key_type=trustme.KeyType.RSA)
    logins = {f"Basic {_base64(f'{name}:{word}')}": name for name, word in users.items()}
    identities = {f"identity-{name}": name for name in users}

    def give_token(request: Request) -> Reply:
        asked = request.query
        if request.method == "POST":
            user = identities.get(asked.get("refresh_token", ""))
            allowed = user is not None and asked.get("grant_type") == "refresh_token"
        else:
            header = request.headers.get("authorization")
            user = logins.get(header or "")
            allowed = header is None or user is not None
        if not allowed or asked.get("service") != SERVICE:
            return Reply(401, body=b'{"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}')
        token = _token(signer, user, asked.get("scope", ""))
        name = "access_token" if request.method == "POST" else "token"
        return Reply(body=json.dumps({name: token, "expires_in": 300}).encode())

    with (
        scripted_server(give_token) as server,
        docker_registry(directory, users=users, tokens=f"http://{server.host}/token") as registry,
    ):
        yield registry


def server_context(ca: trustme.CA, host: str = "127.0.0.1") -> ssl.SSLContext:
    """Return the TLS context of a server with a certificate for ``host`` from ``ca``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host).configure_cert(context)
    return context


def write_docker_config(directory: Path, host: str, login: tuple[str, str]) -> Path:
    """Write the file of ``docker login`` in ``$DOCKER_CONFIG``; return the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps({"auths": {host: {"auth": _base64(":".join(login))}}}))
    return path


def _token(signer: trustme.LeafCert, user: str | None, scope: str) -> str:
    kind, name, actions = scope.split(":") if scope.count(":") == 2 else ("", "", "")
    granted = actions.split(",") if user else ["pull"] if name.startswith(PUBLIC) else []
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": user or "",
        "aud": SERVICE,
        "iat": now,
        "nbf": now - 30,
        "exp": now + 300,
        "jti": f"{time.monotonic_ns()}",
        "access": [{"type": kind, "name": name, "actions": granted}] if granted else [],
    }
    chain = [_der(pem.bytes().decode()) for pem in signer.cert_chain_pems]
    key = signer.private_key_pem.bytes()
    return jwt.encode(claims, key, algorithm="RS256", headers={"x5c": chain})


def _der(pem: str) -> str:
    return "".join(line for line in pem.splitlines() if not line.startswith("-----"))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _write_passwords(path: Path, users: Mapping[str, str]) -> None:
    lines = [
        subprocess.run(
            ("htpasswd", "-nbB", "-C", "4", name, password),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name, password in users.items()
    ]
    path.write_text("\n".join(lines) + "\n")


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until a registry logs a listening address; return host and port."""
    for _ in range(PATIENCE * 50):
        said = log.read_text(errors="replace")
        if found := re.search(r"listening on (127\.0\.0\.1:[0-9]+)[^0-9]", said):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"docker-registry does not listen: {log.read_text(errors='replace')}")
