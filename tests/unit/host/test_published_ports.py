"""Published ports: their grammar and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._model.network import Network
from slipway._model.published_ports import MAX_PUBLISHED, PublishedPort, read_published_port
from slipway._util.errors import InputError


@pytest.mark.parametrize(
    ("given_port", "mapping"),
    [
        (8000, PublishedPort(8000)),
        ("8000", PublishedPort(8000)),
        ("8080:80", PublishedPort(80, port=8080)),
        ("0.0.0.0:80", PublishedPort(80, "0.0.0.0")),
        ("192.168.1.5:8080:80", PublishedPort(80, "192.168.1.5", 8080)),
        ("[::1]:80", PublishedPort(80, "::1")),
        ("[::1]:8080:80", PublishedPort(80, "::1", 8080)),
        ("unix:/tmp/web.sock:80", PublishedPort(80, "unix", path="/tmp/web.sock")),
        ("unix:/tmp/a:b:80", PublishedPort(80, "unix", path="/tmp/a:b")),
    ],
)
def test_port_is_read(given_port: str | int, mapping: PublishedPort) -> None:
    assert read_published_port(given_port) == mapping
    assert read_published_port(str(mapping)) == mapping


@pytest.mark.parametrize(
    ("given_port", "words"),
    [
        ("", "''"),
        (0, "'0'"),
        (70000, "'70000'"),
        (-1, "'-1'"),
        (1, "which its agent uses"),
        ("0:80", "Ports are 1 to 65535"),
        ("80:", "''"),
        (":80", "invalid address"),
        ("localhost:8080:80", "'localhost'"),
        ("::1:8080:80", "'::1'"),
        ("[127.0.0.1]:80", "'[127.0.0.1]'"),
        ("fe80::1%eth0:8080:80", "invalid address"),
        ("unix::80", "no path"),
        (f"unix:/{'a' * 107}:80", "no path"),
        ("unix:/tmp/a\nb:80", "no path"),
    ],
)
def test_wrong_port_is_named(given_port: str | int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        Network(publish=(given_port,))

    assert repr(str(given_port)[:80]) in caught.value.message
    assert words in f"{caught.value.message}. {caught.value.hint}"


def test_number_that_python_does_not_write_is_refused_as_others() -> None:
    with pytest.raises(InputError, match="invalid port"):
        Network(publish=(10**5000,))


def test_place_of_the_host_is_published_once() -> None:
    with pytest.raises(InputError, match=r"127\.0\.0\.1:8080"):
        Network(publish=("8080:80", "127.0.0.1:8080:81"))
    with pytest.raises(InputError, match=r"web\.sock"):
        Network(publish=("unix:/tmp/web.sock:80", "unix:/tmp/web.sock:81"))

    assert len(Network(publish=(80, 80)).published_ports) == 2


def test_number_of_published_ports_is_bounded() -> None:
    with pytest.raises(InputError, match="at most 32"):
        Network(publish=(80,) * (MAX_PUBLISHED + 1))


@pytest.mark.parametrize("wrong", [None, 8.5, True, b"80"])
def test_port_is_a_text_or_an_integer(wrong: object) -> None:
    with pytest.raises(InputError, match="publish of a network"):
        Network(publish=(wrong,))  # type: ignore[arg-type]


@given(st.text(alphabet="0123456789:.[]unix/ab%\n", max_size=40))
def test_any_text_is_a_port_or_an_input_error(text: str) -> None:
    try:
        mapping = read_published_port(text)
    except InputError:
        return

    assert read_published_port(str(mapping)) == mapping
