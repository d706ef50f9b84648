"""Commands, and image stores that may be damaged."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from slipway._assets import find_assets, find_language
from slipway._request import Options
from slipway_initramfs.store import ImageStore
from support.commands import Commands
from support.stores import copy_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway._assets import Assets


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Runs slipway's commands with a temporary directory of their own."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return Commands(temporary)


@pytest.fixture(scope="session")
def bash(progress: Callable[[str], None]) -> Assets:
    """What bash boots from, in the user's store; no image boots faster."""
    return find_assets(find_language("bash"), Options(), ImageStore(), progress)


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
