from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_protocol import messages as m
from support.agent import Host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose agent is awake; in the end the agent is well."""
    host = Host(tmp_path)
    host.expect(m.Awake)
    yield host
    host.close()
    assert host.process.returncode == 0
