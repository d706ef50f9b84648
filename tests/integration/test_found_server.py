"""``vmm-run`` uses the server of its user, or else a machine of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slipway_initramfs.store.root import default_root
from slipway_protocol import __version__
from support.commands import Commands, Ended
from support.scripted_server import ScriptedServer
from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

# A run of this fails at once in a machine of the command: it has no such language.
LOCAL_FAILURE = ("--language", "nonsense", "-c", "x")
HEALTH = {"status": "ok", "version": __version__, "machines": 0, "waiting": 0}


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory for XDG_RUNTIME_DIR, with a short path, as Unix sockets need it."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as path:
        yield Path(path)


@pytest.fixture
def directory(runtime: Path) -> Path:
    """The directory of the default socket."""
    path = runtime / "slipway"
    path.mkdir(0o700)
    return path


@pytest.fixture
def command(runtime: Path, tmp_path: Path) -> Commands:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return Commands(temporary, {"XDG_RUNTIME_DIR": str(runtime)})


@pytest.fixture
def found(directory: Path) -> Iterator[Server]:
    """A server of fake machines on the default socket."""
    with Server(directory, "--max-machines", "2", fake=True) as server:
        yield server


def run_locally(command: Commands, *options: str) -> Ended:
    """Run a program that fails in a machine of the command itself."""
    ended = command("vmm-run", *options, *LOCAL_FAILURE)
    assert ended.code == 2
    assert "error: unknown language 'nonsense'" in ended.stderr
    return ended


@pytest.mark.usefixtures("found")
def test_server_of_the_user_is_found_and_used(command: Commands, tmp_path: Path) -> None:
    program = tmp_path / "main.sh"
    program.write_text("print hello\nerror oh\necho\nexit 3")

    plain = command("vmm-run", program, stdin=b"\xffgiven")
    record = json.loads(command("vmm-run", "--json", program).stdout)

    told = command("vmm-run", "--verbose", program)

    assert plain == Ended(3, b"hello\n\xffgiven", "oh\n")
    assert told.stderr.startswith("slipway: on the server at ")
    assert (record["verdict"], record["run"]["stdout"]["text"]) == ("failed", "hello\n")
    assert not command.leftovers()


@pytest.mark.usefixtures("found")
def test_source_on_stdin_reaches_the_found_server(command: Commands) -> None:
    ended = command("vmm-run", "--language", "bash", "-", stdin=b"print hi")

    assert (ended.code, ended.stdout) == (0, b"hi\n")


@pytest.mark.usefixtures("found")
def test_server_is_not_asked_with_no_server(command: Commands) -> None:
    ended = run_locally(command, "--no-server", "--verbose")

    assert "server" not in ended.stderr


def test_server_is_named_or_excluded(command: Commands) -> None:
    ended = command("vmm-run", "--no-server", "--api-sock", "/x", *LOCAL_FAILURE)

    assert ended.code == 2
    assert "--no-server and --api-sock exclude each other" in ended.stderr


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--cold",), "--cold"),
        (("--store", "/nonexistent"), "--store"),
        (("--boot-log",), "--boot-log"),
        (("--network", "open"), "a network"),
        (("--publish", "8000"), "a network"),
    ],
    ids=str,
)
def test_options_of_local_machines_are_run_locally(
    command: Commands, options: tuple[str, ...], named: str
) -> None:
    told = command("vmm-run", "--verbose", *options, *LOCAL_FAILURE)
    silent = command("vmm-run", *options, *LOCAL_FAILURE)

    assert f"is not used: {named} needs a machine of this command" in told.stderr
    assert "is not used" not in silent.stderr


@pytest.mark.usefixtures("found")
def test_refused_run_is_tried_locally(command: Commands) -> None:
    told, silent = run_locally(command, "--verbose"), run_locally(command)

    assert "is not used: unknown language 'nonsense'" in told.stderr
    assert "is not used" not in silent.stderr


def test_dead_socket_is_passed_over(command: Commands, directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(directory / "api"))

    told, silent = run_locally(command, "--verbose"), run_locally(command)

    assert f"the server at {directory / 'api'} is not used: no server listens" in told.stderr
    assert "server" not in silent.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("open", "other users can write to its directory"),
        ("link", "its directory is a link or a file"),
        ("linked socket", "it is no socket"),
        ("foreign", "it belongs to another user"),
    ],
)
def test_socket_that_others_may_have_made_is_not_used(
    found: Server, command: Commands, directory: Path, change: str, reason: str
) -> None:
    match change:
        case "open":
            directory.chmod(0o777)
        case "link":
            directory.rename(directory.with_name("moved"))
            directory.symlink_to("moved")
        case "linked socket":
            found.path.rename(directory / "moved")
            found.path.symlink_to("moved")
        case "foreign":
            if os.geteuid() != 0:
                pytest.skip("only root can give a directory away")
            os.chown(directory, 1, 1)

    told = run_locally(command, "--verbose")

    assert f"is not used: {reason}" in told.stderr


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ((200, {**HEALTH, "version": "9.8\x1b"}), "it is of version 9.8 , and this command of"),
        ((200, {**HEALTH, "store": "/elsewhere"}), "it has another image store: /elsewhere"),
        ((200, HEALTH), "it has another image store"),
        ((503, {"type": "urn:slipway:draining", "detail": "it ends"}), "it ends"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n", "the server broke the protocol"),
        (b"", "the server at"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_server_of_another_kind_is_not_used(
    command: Commands, directory: Path, health: Any, reason: str
) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["GET", "health"] = health
        told = await asyncio.to_thread(run_locally, command, "--verbose")
        silent = await asyncio.to_thread(run_locally, command)

    assert f"is not used: {reason}" in told.stderr
    # A forgotten server of another version would cost its user much time.
    assert ("is not used" in silent.stderr) == ("version" in reason)
    assert {method for method, _ in server.targets()} == {"GET"}


async def test_server_that_hangs_is_left_alone(command: Commands, directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.hold.clear()
        told = await asyncio.to_thread(run_locally, command, "--verbose")

    assert "is not used: the server at" in told.stderr
    assert "did not answer GET /v1/health within 3 s" in told.stderr


async def test_run_that_may_have_started_is_not_started_again(
    command: Commands, directory: Path
) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["GET", "health"] = 200, {**HEALTH, "store": str(default_root())}
        server.answers["POST", "start"] = b""
        ended = await asyncio.to_thread(command, "vmm-run", *LOCAL_FAILURE)

    assert ended.code == 125
    assert "went away while it handled POST /v1/start" in ended.stderr
    assert "nonsense" not in ended.stderr


def test_signal_ends_the_run_on_the_found_server(found: Server, command: Commands) -> None:
    process = command.start("vmm-run", "--language", "bash", "-c", "print ready\nforever")
    assert process.stdout is not None
    ready = process.stdout.readline()

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert (ready, process.returncode) == (b"ready\n", 128 + signal.SIGTERM)
    assert found.stop() == 0
    assert not found.leftovers()


class DefaultServer(Server):
    """Server that chooses its socket itself."""

    def __init__(self, runtime: Path) -> None:
        super().__init__(runtime, fake=True)
        self.path = runtime / "slipway" / "api"
        self.run_directory = runtime / "slipway" / "api.d"
        self.commands.environment["XDG_RUNTIME_DIR"] = str(runtime)

    def list_arguments(self) -> tuple[str, ...]:
        """See :meth:`Server.list_arguments`."""
        return ("serve", "--pool", "0")


def test_server_without_a_path_is_where_runs_look(runtime: Path, command: Commands) -> None:
    with DefaultServer(runtime) as server:
        ended = command("vmm-run", "--language", "bash", "-c", "print hello")
        mode = server.path.parent.stat().st_mode & 0o777

    assert (ended.code, ended.stdout, mode) == (0, b"hello\n", 0o700)
    assert not server.leftovers()
    assert not server.path.parent.exists()


@pytest.mark.parametrize("change", ["open", "link"])
def test_server_needs_a_default_directory_of_its_own(
    command: Commands, directory: Path, tmp_path: Path, change: str
) -> None:
    if change == "open":
        directory.chmod(0o777)
    else:
        directory.rename(directory.with_name("moved"))
        directory.symlink_to("moved")

    ended = command("slipway", "serve", "--store", str(tmp_path), "--machine", "auto")

    assert ended.code == 125
    assert "is not a directory of this user alone" in ended.stderr


def test_server_without_a_path_needs_the_runtime_directory(
    command: Commands, runtime: Path
) -> None:
    command.environment["XDG_RUNTIME_DIR"] = str(runtime / "none")

    ended = command("slipway", "serve", "--store", str(runtime), "--machine", "auto")

    assert ended.code == 125
    assert f"cannot create {runtime / 'none' / 'slipway'}" in ended.stderr
    assert "slipway serve --api-sock PATH" in ended.stderr
