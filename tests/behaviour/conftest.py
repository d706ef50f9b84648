"""The machines that the behaviour suite runs on, one guest at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway.vmm.kvm import usability
from support.microvm import Microvm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def machines(config: pytest.Config) -> list[str]:
    """The machines that were asked for, else all that can run here."""
    asked: list[str] | None = config.getoption("machine")
    usable, _ = usability.examine()
    return asked or (["qemu", "kvm"] if usable else ["qemu"])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "languages(*names): run the test in a guest of each")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that wants a guest gets one of each of its languages on each machine.

    One that makes its own wants the name of the ``machine``.
    """
    if "machine" in metafunc.fixturenames:
        metafunc.parametrize("machine", machines(metafunc.config))
    if "booted" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("languages")
        assert marker is not None, f"{metafunc.definition.nodeid} does not name its languages"
        wanted = machines(metafunc.config)
        guests = [(machine, language) for machine in wanted for language in marker.args]
        ids = ["-".join(guest) for guest in guests]
        metafunc.parametrize("booted", guests, indirect=True, ids=ids, scope="module")


@pytest.fixture(scope="module")
def booted(
    request: pytest.FixtureRequest, progress: Callable[[str], None]
) -> Iterator[Callable[[], Microvm]]:
    """Gives the guest of this language, and another one after it was lost.

    pytest groups tests by this parameter and ends one guest before the next boots.
    """
    machine, language = request.param
    vm = Microvm(language, machine)

    def alive() -> Microvm:
        if not vm.alive:
            vm.boot(progress)
        return vm

    yield alive
    vm.close()


@pytest.fixture
def vm(booted: Callable[[], Microvm]) -> Microvm:
    """A booted guest of the test's language; those before it ran in it, too."""
    return booted()
