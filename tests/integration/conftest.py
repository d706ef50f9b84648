"""Commands, and image stores that may be damaged."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway.machine.qemu_targets import find_target
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.root import default_root
from support.commands import Commands
from support.host_programs import need_program
from support.serving import Server
from support.stores import copy_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import httpx

    from slipway._run.assets import Assets
    from support.api_server import Served


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Runs slipway's commands with a temporary directory of their own."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return Commands(temporary)


@pytest.fixture
def hypervisor(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a QEMU program that is never started."""
    program = tmp_path / find_target().program
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.fixture(scope="session")
def apt() -> Path:
    """The directory with package lists and downloads that all stores of these tests share."""
    need_program("apt-get")
    configured = os.environ.get("SLIPWAY_TEST_STORE")
    return ImageStore(Path(configured) if configured else default_root()).apt


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory, apt: Path) -> Callable[[], ImageStore]:
    """Makes empty stores, for which nothing is downloaded again."""

    def make() -> ImageStore:
        store = ImageStore(tmp_path_factory.mktemp("store"))
        store.apt = apt
        return store

    return make


@pytest.fixture(scope="session")
def pristine_store(bash: Assets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing but what bash needs; not to be changed."""
    root = tmp_path_factory.mktemp("pristine") / "store"
    copy_store(bash, root)
    return root


@pytest.fixture
def store(pristine_store: Path, tmp_path: Path) -> ImageStore:
    """A store of the test's own that has bash."""
    return ImageStore(shutil.copytree(pristine_store, tmp_path / "store"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of fake machines, in a process of its own; it leaves nothing."""
    # Not pytest's directory: its path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        with Server(Path(directory), "--max-machines", "2", "--cpus", "8", fake=True) as made:
            yield made
        assert not made.leftovers()


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    """Serve the API with fake machines."""
    # Here: the Arm lab, which runs tests of this directory, lacks the server's compiled packages.
    from support.api_server import serve_api

    async with serve_api() as server:
        yield server


@pytest.fixture
async def http(api: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Connect to the API."""
    async with api.client() as client:
        yield client
