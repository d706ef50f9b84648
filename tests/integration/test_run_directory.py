"""The server's directory and its socket: locks, leftovers, and paths that cannot be used."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slipway._server.run_directory import RunDirectory
from slipway._server.socket_access import SocketAccess
from slipway._util.errors import HostError, InputError
from slipway._util.socket_limits import MAX_SOCKET_PATH
from support.output_clients import connect, short_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ID = "0123456789abcdef" * 2
OTHER = 12345


def _bound(path: Path) -> None:
    """Create a socket without a listener."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))


def _all(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*"))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def api(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


def test_nothing_is_left(api: Path) -> None:
    with RunDirectory(api) as directory, directory.listen(8) as listener:
        connect(api).close()
        during = _all(api.parent)
        assert listener.getsockname() == str(api)

    assert during == ["api.sock", "api.sock.d", "api.sock.lock"]
    assert _all(api.parent) == []


@pytest.mark.parametrize(("mode", "directory"), [(0o600, 0o700), (0o660, 0o711), (0o666, 0o711)])
def test_sockets_have_the_requested_access(api: Path, mode: int, directory: int) -> None:
    umask = os.umask(0o077)
    try:
        with RunDirectory(api, access=SocketAccess(mode)) as ours, ours.listen(8):
            found = [stat.S_IMODE(path.stat().st_mode) for path in (api, ours.path)]
    finally:
        os.umask(umask)

    assert found == [mode, directory]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give things away")
def test_socket_belongs_to_the_owner_and_its_directory_to_us(api: Path) -> None:
    with (
        RunDirectory(api, access=SocketAccess(0o660, OTHER, OTHER)) as directory,
        directory.listen(8),
    ):
        found = api.stat()
        around = directory.path.stat()

    assert (found.st_uid, found.st_gid) == (OTHER, OTHER)
    assert (around.st_uid, stat.S_IMODE(around.st_mode)) == (0, 0o711)


def test_refuses_a_second_server_on_the_same_path(api: Path) -> None:
    with RunDirectory(api) as directory, directory.listen(8):
        with pytest.raises(HostError, match="another server uses the directory"):
            RunDirectory(api).__enter__()
        with (
            RunDirectory(api, api.parent / "other") as second,
            pytest.raises(HostError, match=f"another server listens on {api}"),
        ):
            second.listen(8)
        connect(api).close()

    assert _all(api.parent) == []


def test_refuses_a_socket_of_another_program(api: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(api))
        other.listen(1)
        with RunDirectory(api) as directory, pytest.raises(HostError, match="listens on"):
            directory.listen(8)

    assert _all(api.parent) == ["api.sock"]


def test_refuses_a_socket_of_another_program_that_does_not_accept(api: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(api))
        other.listen(0)
        with connect(api), RunDirectory(api) as directory, pytest.raises(HostError):
            directory.listen(8)


def test_refuses_a_datagram_socket(api: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(api))
        with RunDirectory(api) as directory, pytest.raises(HostError, match="listens on"):
            directory.listen(8)

    assert api.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link"])
def test_other_files_at_the_path_are_refused_and_kept(api: Path, kind: str) -> None:
    target = api.parent / "target"
    match kind:
        case "file":
            api.write_text("precious")
        case "directory":
            api.mkdir()
        case "link":
            _bound(target)
            api.symlink_to(target)
        case _:
            api.symlink_to(target)
    before = _all(api.parent)

    with RunDirectory(api) as directory, pytest.raises(InputError, match="is not a socket"):
        directory.listen(8)

    assert _all(api.parent) == before


def test_socket_without_a_listener_is_replaced(api: Path) -> None:
    _bound(api)

    with RunDirectory(api) as directory, directory.listen(8):
        connect(api).close()

    assert not api.exists()


def test_a_start_after_kill_9_cleans_up(api: Path) -> None:
    program = (
        "import os, signal, socket, sys; from pathlib import Path;"
        "from slipway._server.run_directory import RunDirectory;"
        "d = RunDirectory(Path(sys.argv[1])).__enter__(); l = d.listen(8);"
        f"p = d.path / '{ID}'; p.mkdir(); s = socket.socket(socket.AF_UNIX);"
        "s.bind(str(p / 'output')); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(api)], check=False)
    left = _all(api.parent)

    with RunDirectory(api) as directory, directory.listen(8):
        connect(api).close()
        during = _all(api.parent)

    assert f"api.sock.d/{ID}/output" in left
    assert during == ["api.sock", "api.sock.d", "api.sock.lock"]
    assert _all(api.parent) == []


def test_only_directories_of_servers_are_swept(tmp_path: Path, api: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir(0o700)
    elsewhere.mkdir()
    _bound(elsewhere / "output")
    (run / ("a" * 32)).mkdir()
    _bound(run / ("a" * 32) / "output")
    (run / ("b" * 32)).mkdir()
    (run / ("b" * 32) / "output").write_text("no socket")
    (run / ("c" * 32)).symlink_to(elsewhere)
    (run / ("d" * 32)).write_text("no directory")
    (run / "data").mkdir()
    (run / ("e" * 32)).mkdir()
    _bound(run / ("e" * 32) / "output")
    (run / ("e" * 32) / "more").write_text("not ours")

    with RunDirectory(api, run):
        pass

    left = ["b" * 32, "b" * 32 + "/output", "c" * 32, "d" * 32, "data"]
    assert _all(run) == sorted([*left, "e" * 32, "e" * 32 + "/more"])
    assert _all(elsewhere) == ["output"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give things away")
def test_files_of_other_users_are_not_swept(tmp_path: Path, api: Path) -> None:
    run = tmp_path / "run"
    (run / ID).mkdir(parents=True)
    os.chown(run / ID, OTHER, OTHER)

    with RunDirectory(api, run):
        pass

    assert _all(run) == [ID]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_refuses_a_directory_that_others_can_write_to(tmp_path: Path, api: Path, mode: int) -> None:
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(mode)

    with pytest.raises(HostError, match="users other than this server's can write"):
        RunDirectory(api, run).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give things away")
def test_refuses_a_directory_of_somebody_else(tmp_path: Path, api: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    os.chown(run, OTHER, OTHER)

    with pytest.raises(HostError, match="users other than this server's can write"):
        RunDirectory(api, run).__enter__()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_refuses_a_run_directory_that_is_a_file(tmp_path: Path, api: Path, kind: str) -> None:
    run = tmp_path / "run"
    if kind == "file":
        run.write_text("")
    else:
        (tmp_path / "target").mkdir()
        run.symlink_to(tmp_path / "target")

    with pytest.raises(HostError, match="is not a directory"):
        RunDirectory(api, run).__enter__()


def test_refuses_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH - len(str(tmp_path)) - 1

    with pytest.raises(InputError, match=f"API socket has {MAX_SOCKET_PATH + 1} bytes"):
        RunDirectory(tmp_path / ("x" * (room + 1)))
    with pytest.raises(InputError, match="an output socket has") as caught:
        RunDirectory(tmp_path / ("x" * room))

    assert "--run-dir" in caught.value.hint


def test_the_longest_path_for_a_socket_works(tmp_path: Path) -> None:
    api = tmp_path / ("x" * (MAX_SOCKET_PATH - len(str(tmp_path)) - 1))

    with RunDirectory(api, tmp_path / "r") as directory, directory.listen(8):
        connect(api).close()


def test_missing_parent_is_reported_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such file or directory") as caught:
        RunDirectory(tmp_path / "missing" / "api").__enter__()
    with (
        RunDirectory(tmp_path / "missing" / "api", tmp_path / "r") as directory,
        pytest.raises(HostError, match="no such file or directory"),
    ):
        directory.listen(8)

    assert "mkdir -p" in caught.value.hint


@pytest.mark.usefixtures("other_users")
def test_unwritable_parent_is_reported(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path;"
        "from slipway._server.run_directory import RunDirectory;"
        "from slipway._util.errors import HostError;"
        "os.setgid(12345); os.setuid(12345)\n"
        "try: RunDirectory(Path('/proc/1/api'), None).__enter__()\n"
        "except HostError as error: print(error.message)\n"
        "try: RunDirectory(Path('/api'), None).__enter__()\n"
        "except HostError as error: print(error.message)\n"
    )

    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert told.stdout.splitlines()[-1] == "cannot use /api.d: permission denied"


def test_another_socket_at_our_path_is_not_removed_at_the_end(api: Path) -> None:
    with RunDirectory(api) as directory, directory.listen(8):
        api.unlink()
        _bound(api)

    assert _all(api.parent) == ["api.sock"]


def test_refuses_a_lock_that_is_a_link(api: Path) -> None:
    target = api.parent / "target"
    (api.parent / "api.sock.lock").symlink_to(target)

    with RunDirectory(api) as directory, pytest.raises(HostError, match=r"cannot use .*\.lock"):
        directory.listen(8)

    assert not target.exists()


def test_one_of_many_concurrent_servers_listens(api: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from slipway._util.errors import HostError;"
        "from slipway._server.run_directory import RunDirectory\n"
        "sys.stdin.readline(); wins = 0\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        with RunDirectory(Path(sys.argv[1])) as d, d.listen(8):\n"
        "            assert d.path.is_dir() and Path(sys.argv[1]).is_socket(); wins += 1\n"
        "    except HostError as error:\n"
        "        assert 'another server' in error.message, error.message\n"
        "print(wins)\n"
    )
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(api)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]

    told = [server.communicate("\n") for server in servers]

    assert [errors for _, errors in told] == [""] * 4
    assert sum(int(wins) for wins, _ in told) >= 200
    assert _all(api.parent) == []
