"""The machines that the behaviour suite runs on, and the ways to them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway.vmm.kvm import usability
from slipway_initramfs.architectures import machine_architecture
from support.microvm import Microvm
from support.ways import OTHER_WAYS, PORT_WAYS, open_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.programs import Runner


def machines(config: pytest.Config) -> list[str]:
    """The machines that were asked for, else all that can run here."""
    asked: list[str] | None = config.getoption("machine")
    native = config.getoption("arch") in ("auto", machine_architecture())
    return asked or (["qemu", "kvm"] if native and _kvm_is_usable() else ["qemu"])


@cache
def _kvm_is_usable() -> bool:
    # Each test asks at its collection, and the answer runs a guest.
    return usability.examine()[0]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "languages(*names): run the test in a guest of each")
    config.addinivalue_line(
        "markers",
        "every_way(*names): go the ways that users have as well; unless told, for these languages",
    )
    config.addinivalue_line(
        "markers", "fewer(*names): where no ways are told, run only every_language's tests in these"
    )
    config.addinivalue_line("markers", "every_language: see fewer")
    config.addinivalue_line(
        "markers",
        "every_port: where no ways are told, run the test over each port of the agent as well",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All programs of this suite run in machines."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("image")
            item.add_marker("vm")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that wants a runner gets one of each of its languages, ways and machines.

    One that makes its own wants the name of the ``machine``.
    """
    if "machine" in metafunc.fixturenames:
        metafunc.parametrize("machine", machines(metafunc.config))
    if "start_runner" in metafunc.fixturenames:
        wanted = [
            (machine, way, language)
            for machine in machines(metafunc.config)
            for way, language in ways_and_languages(metafunc)
        ]
        ids = ["-".join(name for name in each if name != "guest") for each in wanted]
        metafunc.parametrize("start_runner", wanted, indirect=True, ids=ids, scope="module")


def ways_and_languages(metafunc: pytest.Metafunc) -> list[tuple[str, str]]:
    """What a test is to be run through."""
    languages = metafunc.definition.get_closest_marker("languages")
    assert languages is not None, f"{metafunc.definition.nodeid} does not name its languages"
    every_way = metafunc.definition.get_closest_marker("every_way")
    through: list[str] | None = metafunc.config.getoption("through")
    names = languages.args
    fewer = metafunc.definition.get_closest_marker("fewer")
    stands_for_all = metafunc.definition.get_closest_marker("every_language") is not None
    if fewer is not None and not through and not stands_for_all:
        names = tuple(name for name in names if name not in fewer.args)
    wanted = [("guest", language) for language in names]
    if every_way is not None:
        some = names if through else every_way.args
        wanted += [(way, language) for way in OTHER_WAYS for language in some]
        if through or metafunc.definition.get_closest_marker("every_port") is not None:
            wanted += [(way, language) for way in PORT_WAYS for language in every_way.args[:1]]
    return [(way, language) for way, language in wanted if not through or way in through]


@pytest.fixture(scope="module")
def start_runner(
    request: pytest.FixtureRequest, progress: Callable[[str], None]
) -> Iterator[Callable[[], Runner]]:
    """Gives what runs programs in this language; another guest after one was lost.

    pytest groups tests by this parameter and ends one guest before the next boots.
    """
    machine, way, language = request.param
    runner = open_way(way, language, machine, request.config.getoption("arch"))

    def alive() -> Runner:
        if isinstance(runner, Microvm):
            runner.fresh(progress)
        return runner

    yield alive
    runner.close()


@pytest.fixture
def vm(start_runner: Callable[[], Runner]) -> Runner:
    """What runs the test's program: mostly a guest that has run those before it, too."""
    return start_runner()
