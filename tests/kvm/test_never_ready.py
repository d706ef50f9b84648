"""Guests in which no agent ever gets ready: one clear error, in time, and nothing stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from slipway import HostError
from slipway._run import guest as _guest
from slipway._run.guest import Guest
from support.guest_code import COM1, CRASH, PLACE, PORT_WRITTEN, Code

if TYPE_CHECKING:
    from kvm.conftest import Boot

SECONDS = 1.0
UNKNOWN = 0x5EC0  # a port that no device has


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guest, "BOOT_SECONDS", SECONDS)


async def error_of(boot: Boot, code: Code) -> HostError:
    """What waiting for the agent ends with; the machine is stopped after it."""
    guest = Guest(await boot(code))
    pid = guest.machine.pid
    try:
        with pytest.raises(HostError) as caught:
            await guest.wait_ready()
    finally:
        await guest.stop()
    assert not psutil.pid_exists(pid)
    assert "Traceback" not in caught.value.message
    return caught.value


async def test_guest_that_halts_for_ever(boot: Boot) -> None:
    error = await error_of(boot, Code().text(COM1, b"good night").halt())

    assert f"not ready after {SECONDS:g} s" in error.message
    assert "it goes on: " in error.message
    assert error.message.endswith("good night")
    assert "--boot-log" in error.hint


async def test_guest_that_spins(boot: Boot) -> None:
    error = await error_of(boot, Code().spin())

    assert error.message.startswith(f"the agent was not ready after {SECONDS:g} s")
    assert error.message.endswith("its console is empty")


async def test_guest_that_writes_to_an_unknown_port_in_a_loop(boot: Boot) -> None:
    error = await error_of(boot, Code().label("again").out(UNKNOWN, 1).jump("again"))

    assert f"{PORT_WRITTEN} {UNKNOWN:#x}" in error.message


async def test_guest_that_floods_its_console(boot: Boot) -> None:
    error = await error_of(boot, Code().label("again").text(COM1, b"spam\n" * 20).jump("again"))

    assert "not ready" in error.message
    assert len(error.message) < 2000


async def test_guest_that_crashes(boot: Boot) -> None:
    error = await error_of(boot, Code().text(COM1, b"oh").crash())

    assert error.message.startswith("the machine ended by itself before the agent was ready")
    assert CRASH in error.message
    assert f"{PLACE} " in error.message
    assert error.message.endswith("oh")
