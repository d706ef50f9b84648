from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from slipway._server.systemd import Notifier, parse_socket_name, take_inherited_socket
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def activation(**told: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api", **told}


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_inherited_socket_is_taken(tmp_path: Path) -> None:
    environment = activation(HOME="/")
    listener = listening(tmp_path / "api")

    inherited = take_inherited_socket(environment, listener.detach())

    assert inherited is not None
    with inherited:
        assert parse_socket_name(inherited.getsockname()) == str(tmp_path / "api")
        assert not inherited.get_inheritable()
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "1"}],
    ids=["none", "no-pid", "other", "no-count"],
)
def test_socket_for_another_process_is_not_taken(environment: dict[str, str]) -> None:
    assert take_inherited_socket(environment) is None
    assert not environment


def test_refuses_several_sockets() -> None:
    with pytest.raises(InputError, match="2 sockets"):
        take_inherited_socket(activation(LISTEN_FDS="2"))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_refuses_a_socket_that_does_not_listen(kind: int) -> None:
    other = socket.socket(socket.AF_UNIX, kind)

    with pytest.raises(InputError, match="not a listening"):
        take_inherited_socket(activation(), other.detach())


@pytest.mark.parametrize("name", ["", b"\0abstract", "relative", ("127.0.0.1", 1)])
def test_refuses_a_socket_without_an_absolute_path(name: object) -> None:
    with pytest.raises(InputError, match="absolute path"):
        parse_socket_name(name)


@pytest.mark.parametrize("abstract", [False, True])
def test_manager_receives_the_state(tmp_path: Path, abstract: bool) -> None:
    path = f"@slipway-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0", 1) if abstract else path)
        environment = {"NOTIFY_SOCKET": path}
        notify = Notifier(environment)

        notify("READY=1", "STATUS=well")

        assert manager.recv(100) == b"READY=1\nSTATUS=well"
        assert not environment


def test_without_a_manager_nothing_is_sent(tmp_path: Path) -> None:
    Notifier({})("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})("READY=1")


def test_feeds_a_watchdog_twice_in_its_time() -> None:
    notify = Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000"})

    assert notify.watchdog_seconds == 1.5


@pytest.mark.parametrize(
    "environment",
    [
        {"NOTIFY_SOCKET": "/x"},
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
    ids=["none", "no-manager", "zero", "no-number", "other"],
)
def test_watchdog_of_another_process_is_not_fed(environment: dict[str, str]) -> None:
    assert Notifier(environment).watchdog_seconds is None
