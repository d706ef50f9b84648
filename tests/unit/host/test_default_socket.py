"""Default path of the API socket."""

from __future__ import annotations

import os

import pytest

from slipway._util.default_socket import find_default_socket


@pytest.mark.parametrize(
    ("user", "environment", "expected"),
    [
        (1000, {"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000/slipway/api"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0/"}, "/run/user/0/slipway/api"),
        (0, {}, "/run/slipway/api"),
        (0, {"XDG_RUNTIME_DIR": "relative"}, "/run/slipway/api"),
        (1000, {}, None),
        (1000, {"XDG_RUNTIME_DIR": ""}, None),
    ],
)
def test_socket_is_in_the_runtime_directory_of_the_user(
    monkeypatch: pytest.MonkeyPatch, user: int, environment: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)

    assert find_default_socket(environment) == expected
