"""How much memory a machine gets for what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway._assets import _machine_memory
from slipway._request import MIB
from slipway._shapes import Shape
from slipway_initramfs.records import Blob, Image

BLOB = Blob(Path("/nonexistent"), "0" * 64, 0)
IMAGE = Image("toy", "amd64", "0" * 64, BLOB, {"memory": 0, "workload": 64 * MIB})


@pytest.mark.parametrize("more", [0, 1, 4096, MIB - 1])
def test_machine_has_whole_mebibytes_and_no_less_than_was_asked_for(more: int) -> None:
    asked = 300 * MIB + more

    memory = _machine_memory(IMAGE, asked)

    assert (memory % MIB, asked <= memory < asked + MIB) == (0, True)


def test_machines_of_different_memory_never_have_snapshots_of_one_name() -> None:
    asked = [300 * MIB + more for more in (-1, 0, 1, MIB - 1, MIB, MIB + 1)]

    sizes = {_machine_memory(IMAGE, memory) for memory in asked}

    assert len({Shape("toy", "qemu", size, 1, "").key for size in sizes}) == len(sizes) == 3
