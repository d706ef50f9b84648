"""What all tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slipway.machine import MACHINES

if TYPE_CHECKING:
    from collections.abc import Callable

# Those of support/ways.py, which imports more than most tests need.
WAYS = ("guest", "clone", "runtime", "client", "cli")

# The suite is to do the same whether or not this machine reaches Docker Hub.
os.environ.setdefault("SLIPWAY_SOURCE", "debian")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--machine",
        action="append",
        choices=MACHINES,
        help="the machine that the behaviour suite runs on; may be given again"
        " (default: qemu, and kvm where this host's is usable)",
    )
    parser.addoption(
        "--through",
        action="append",
        choices=WAYS,
        help="how the behaviour suite's programs get to a machine; may be given again. guest: all"
        " of a language to one machine, directly; clone: each to a clone of a ready one; runtime,"
        " client and cli: as users do it, each to a machine of its own (default: guest for all"
        " languages, the others for few)",
    )


@pytest.fixture(scope="session")
def progress(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line at once: making an image takes a while, and captured output shows nothing."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    terminal = request.config.pluginmanager.getplugin("terminalreporter")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.write_line(line)

    return show
