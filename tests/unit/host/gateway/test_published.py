"""Listeners of published ports: bound as requested, or refused with the option's name."""

from __future__ import annotations

import socket
import stat
from typing import TYPE_CHECKING

import pytest

from slipway._util.errors import InputError
from slipway.machine.gateway.published import format_ports, open_listeners

if TYPE_CHECKING:
    from pathlib import Path


def test_port_0_is_chosen_by_the_kernel() -> None:
    (listener,) = open_listeners("8000 127.0.0.1 0")

    chosen = int(format_ports([listener]))
    with socket.create_connection(("127.0.0.1", chosen), 10):
        accepted = listener.accept()

    assert chosen > 0
    assert accepted is not None
    assert not accepted.getblocking()
    accepted.close()
    listener.close()
    assert listener.guest_port == 8000


def test_socket_in_the_file_system_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "a socket"

    (listener,) = open_listeners(f"80 unix {path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        accepted = listener.accept()

    assert accepted is not None
    accepted.close()
    listener.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert format_ports([listener]) == "0"


def test_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(InputError, match=f"port 127.0.0.1:{port} cannot be bound") as caught:
            open_listeners(f"8000 127.0.0.1 {port}")

    assert "Leave out the port" in caught.value.hint


def test_address_that_is_not_of_this_host_is_named() -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1:0 cannot be bound") as caught:
        open_listeners("8000 192.0.2.1 0")

    assert "an address of this host" in caught.value.hint


def test_path_that_exists_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")

    with pytest.raises(InputError, match="cannot be bound"):
        open_listeners(f"80 unix {path}")

    assert path.read_text() == "mine"


def test_socket_that_a_killed_process_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (left,) = open_listeners(f"80 unix {path}")
    left.close()

    (listener,) = open_listeners(f"80 unix {path}")

    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    listener.close()


def test_socket_of_another_server_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (other,) = open_listeners(f"80 unix {path}")

    with pytest.raises(InputError, match="cannot be bound"):
        open_listeners(f"80 unix {path}")

    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    other.close()


def test_listener_without_a_caller_accepts_nothing() -> None:
    (listener,) = open_listeners("8000 127.0.0.1 0")

    accepted = listener.accept()
    listener.close()

    assert accepted is None


def test_no_line_is_no_listener() -> None:
    assert open_listeners("") == []
    assert format_ports([]) == ""
