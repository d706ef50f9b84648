"""The server as a process: its start, its signals, its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.commands import Commands
from support.serving import FAKE_SERVER, PATIENCE, Server
from support.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = {"Content-Type": "text/plain"}


@pytest.fixture
def directory() -> Iterator[Path]:
    """Directory with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as name:
        yield Path(name)


class Connection(http.client.HTTPConnection):
    """HTTP connection on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("slipway", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str, body: bytes | None = None) -> tuple[int, Any]:
    headers = TEXT if body is not None else {}
    if body is not None and body.startswith(b"{"):
        headers = {"Content-Type": "application/json"}
    connection = Connection(path)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
    finally:
        connection.close()


def health(server: Server) -> tuple[int, Any]:
    return ask(server.path, "GET", "/v1/health")


def start(server: Server, source: bytes) -> dict[str, Any]:
    """Start a run and wait until its program runs."""
    status, started = ask(server.path, "POST", "/v1/start?language=bash", source)
    assert status == 201
    place = f"/v1/runs/{started['id']}"
    block_until(lambda: ask(server.path, "GET", place)[1]["state"] == "running", "the program runs")
    return dict(started)


def end(server: Server) -> int:
    """Wait for its end, and return its exit code."""
    server.reap(PATIENCE)
    return server.process.returncode


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(path)
    return client


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    client.close()
    return data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_cleanly(directory: Path, number: int) -> None:
    with Server(directory, fake=True) as server:
        server.process.send_signal(number)
        code = end(server)

    assert code == 0
    assert not server.leftovers()


def find_refusal(server: Server) -> tuple[int, Any] | None:
    """Return the answer about the server's health if it is not 200."""
    answer = ask(server.path, "GET", "/v1/health")
    return None if answer[0] == 200 else answer


def test_drain_lets_runs_end_and_refuses_new_runs(directory: Path) -> None:
    with Server(directory, fake=True) as server:
        output = connect(start(server, b"print began\nsleep 2\nprint ended")["socket"])

        server.process.send_signal(signal.SIGTERM)
        answer = block_until(lambda: find_refusal(server), "the server refuses runs")
        refused = ask(server.path, "POST", "/v1/start?language=bash", b"print x")
        told = read_all(output)
        code = end(server)

    assert answer[1]["type"] == refused[1]["type"] == "urn:slipway:draining"
    assert answer[0] == refused[0] == 503
    assert told == b"began\nended\n"
    assert code == 0
    assert not server.leftovers()


def test_runs_are_cancelled_after_the_drain_time(directory: Path) -> None:
    with Server(directory, "--drain", "0", fake=True) as server:
        output = connect(start(server, b"print began\nforever")["socket"])

        server.process.send_signal(signal.SIGTERM)
        told = read_all(output)
        code = end(server)

    assert told == b"began\n"
    assert code == 0
    assert not server.leftovers()


def test_ends_at_once_at_the_second_signal(directory: Path) -> None:
    with Server(directory, "--drain", "3600", fake=True) as server:
        start(server, b"forever")

        server.process.send_signal(signal.SIGTERM)
        block_until(lambda: health(server)[0] != 200, "the server drains")
        server.process.send_signal(signal.SIGTERM)
        code = end(server)

    assert code == 0
    assert not server.leftovers()


def test_answers_a_run_that_it_cancels_at_its_end(directory: Path) -> None:
    with Server(directory, "--drain", "0", fake=True) as server:
        connection = Connection(server.path)
        connection.request("POST", "/v1/run?language=bash", b"forever", TEXT)
        block_until(lambda: health(server)[1]["machines"], "a machine is there")

        server.process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        result = json.loads(answer.read())
        connection.close()

    assert result["verdict"] == "cancelled"


def open_session(server: Server) -> str:
    """Open a session and return its path."""
    status, session = ask(server.path, "POST", "/v1/sessions", b'{"language": "bash"}')
    assert status == 201
    return f"/v1/sessions/{session['id']}"


def test_drain_ends_idle_sessions(directory: Path) -> None:
    with Server(directory, "--drain", "3600", fake=True) as server:
        open_session(server)

        server.process.send_signal(signal.SIGTERM)
        code = end(server)

    assert code == 0
    assert not server.leftovers()


def test_drain_lets_runs_in_sessions_end(directory: Path) -> None:
    with Server(directory, fake=True) as server:
        place = open_session(server)
        job = b'{"source": "print began\\nsleep 1\\nprint ended"}'
        _, started = ask(server.path, "POST", f"{place}/start", job)
        output = connect(started["socket"])

        server.process.send_signal(signal.SIGTERM)
        told = read_all(output)
        code = end(server)

    assert told == b"began\nended\n"
    assert code == 0
    assert not server.leftovers()


def test_runs_in_sessions_are_cancelled_after_the_drain_time(directory: Path) -> None:
    with Server(directory, "--drain", "0", "--max-sessions", "1", fake=True) as server:
        place = open_session(server)
        refused = ask(server.path, "POST", "/v1/sessions", b'{"language": "bash"}')
        _, started = ask(server.path, "POST", f"{place}/start", b'{"source": "forever"}')
        output = connect(started["socket"])

        server.process.send_signal(signal.SIGTERM)
        told = read_all(output)
        code = end(server)

    assert refused[0] == 429
    assert told == b""
    assert code == 0
    assert not server.leftovers()


def test_says_on_which_socket_it_listens(directory: Path) -> None:
    with Server(directory, fake=True) as server:
        pass

    assert server.log.read_text().startswith(f"slipway: listening on {server.path}\n")


def test_socket_has_the_requested_mode(directory: Path) -> None:
    with Server(directory, "--mode", "0660", fake=True) as server:
        mode = server.path.stat().st_mode

    assert mode & 0o777 == 0o660


def test_refuses_a_second_server_on_the_same_path(
    directory: Path, hypervisor: dict[str, str]
) -> None:
    with Server(directory, fake=True) as server:
        second = Commands(directory / "tmp", hypervisor)(
            "slipway", "serve", "--api-sock", server.path
        )

        assert ask(server.path, "GET", "/v1/health")[0] == 200
    assert second.code == 125
    assert "another server" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--api-sock", "/" + "x" * 200), "107"),
        (("--api-sock", "api", "--allow", "nobody-at-all"), "nobody-at-all"),
        (("--api-sock", "api", "--allow", "@no-such-group"), "no-such-group"),
        (("--api-sock", "api", "--owner", "nobody-at-all"), "nobody-at-all"),
        (("--api-sock", "api", "--mode", "rw"), "0660"),
        (("--api-sock", "api", "--mode", "7777"), "0660"),
        (("--api-sock", "api", "--grace", "-1"), "--grace: '-1' is a negative time"),
        (("--api-sock", "api", "--body-limit", "much"), "64K"),
        (("--api-sock", "api", "--max-machines", "0"), "--max-machines"),
        (("--api-sock", "api", "--queue", "-1"), "queue"),
        (("--api-sock", "api", "--machine", "toaster"), "toaster"),
        (("--api-sock", "api", "--port", "80"), "--port"),
        (("--api-sock", "api", "--max-sessions", "-1"), "--max-sessions"),
        (("--api-sock", "api", "--max-sessions", "many"), "--max-sessions"),
        (("--api-sock", "api", "--pool", "-1"), "pool"),
        (("--api-sock", "api", "--pool", "1", "--cold"), "--cold and --pool 1 exclude each other"),
        (("--api-sock", "api", "--pool", "0", "--warm", "bash"), "--warm and --pool 0 exclude"),
        (("--api-sock", "api", "--cold", "--warm", "bash"), "--cold and --warm exclude each other"),
        (("--api-sock", "api", "--pool", "1", "--warm", "cobol"), "cobol"),
    ],
)
def test_refuses_a_wrong_call(
    directory: Path, hypervisor: dict[str, str], arguments: tuple[str, ...], named: str
) -> None:
    commands = Commands(directory, hypervisor)

    ended = commands("slipway", "serve", *arguments, cwd=directory)

    assert ended.code == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not commands.leftovers()


def test_refuses_a_machine_that_this_host_cannot_run(directory: Path) -> None:
    commands = Commands(directory, {"PATH": "/nonexistent"})

    ended = commands("slipway", "serve", "--api-sock", directory / "api", "--machine", "qemu")

    assert ended.code == 125
    assert "QEMU is not installed" in ended.stderr
    assert not commands.leftovers()


def test_missing_directory_is_reported(directory: Path, hypervisor: dict[str, str]) -> None:
    ended = Commands(directory, hypervisor)(
        "slipway", "serve", "--api-sock", directory / "none" / "api"
    )

    assert ended.code == 125
    assert "mkdir" in ended.stderr


# What systemd does: descriptor 3 listens, LISTEN_PID is the process that is to have it.
_ACTIVATE = """
import os, sys
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.dup2(int(sys.argv[1]), 3)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture
def manager(directory: Path) -> Iterator[socket.socket]:
    """Socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "notify"))
        manager.settimeout(PATIENCE)
        yield manager


def hear(manager: socket.socket, wanted: str) -> list[str]:
    """Return all messages up to the message with this line."""
    lines: list[str] = []
    while wanted not in lines:
        lines += manager.recv(4096).decode().split("\n")
    return lines


def test_serves_on_the_socket_of_a_service_manager_and_reports_to_it(
    directory: Path, manager: socket.socket
) -> None:
    path = directory / "api"
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(directory / "notify"),
        "WATCHDOG_USEC": "200000",
    }
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fake = (str(FAKE_SERVER), str(Commands.path("slipway")), "serve")
        process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATE, str(listener.fileno()), *fake],
            pass_fds=[listener.fileno()],
            env=environment,
            stderr=subprocess.PIPE,
        )
    try:
        ready = hear(manager, "READY=1")
        hear(manager, "WATCHDOG=1")
        hear(manager, "WATCHDOG=1")
        status, _ = ask(path, "GET", "/v1/health")
        process.terminate()
        hear(manager, "STOPPING=1")
        _, stderr = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait(PATIENCE)

    assert any(line.startswith("STATUS=") for line in ready)
    assert status == 200
    assert process.returncode == 0, stderr
    assert path.is_socket()  # it is the manager's to remove
    assert not (directory / "api.d").exists()
