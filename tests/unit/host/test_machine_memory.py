"""How much memory a machine gets for what was asked for, and what it is refused for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway import InputError
from slipway._model.input_file import InputFile
from slipway._model.options import MAX_MEMORY, Options
from slipway._run import sizing as _sizing
from slipway._run.sizing import check_room, choose_machine_memory
from slipway._snapshots.key import SnapshotKey
from slipway._util.units import MIB
from slipway_agent import guest_system
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.languages import catalogue
from slipway_initramfs.store.records import LOW_MEMORY, Blob, Image

if TYPE_CHECKING:
    from slipway_initramfs.languages.language import Language

BLOB = Blob(Path("/nonexistent"), "0" * 64, 20 * MIB, TrustedTree(Path("/")))
IMAGE = Image("toy", "amd64", "0" * 64, BLOB, {"memory": 0, "workload": 64 * MIB})
DEFAULT = IMAGE.default_memory


def rust() -> Language:
    return catalogue.find_language("rust")


def memory_of(**options: Any) -> int:
    return choose_machine_memory(IMAGE, rust(), Options(**options))


def check(has: int, **options: Any) -> None:
    check_room(IMAGE, rust(), has, Options(**options), 10)


@pytest.mark.parametrize("more", [0, 1, 4096, MIB - 1])
def test_machine_has_whole_mebibytes_and_no_less_than_was_asked_for(more: int) -> None:
    asked = 300 * MIB + more

    memory = memory_of(memory=asked)

    assert (memory % MIB, asked <= memory < asked + MIB) == (0, True)


def test_machines_of_different_memory_never_have_snapshots_of_one_name() -> None:
    asked = [300 * MIB + more for more in (-1, 0, 1, MIB - 1, MIB, MIB + 1)]

    sizes = {memory_of(memory=memory) for memory in asked}

    assert (
        len({SnapshotKey("toy", "amd64", "qemu", size, 1, "").name for size in sizes})
        == len(sizes)
        == 3
    )


@given(st.integers(1, MAX_MEMORY) | st.integers(LOW_MEMORY - 999 * MIB, LOW_MEMORY + 999 * MIB))
def test_machine_that_is_made_for_its_programs_has_room_for_them(room: int) -> None:
    memory = IMAGE.memory_for(room)

    assert IMAGE.room(memory) >= room
    assert memory % MIB == 0


def test_limit_that_fits_the_default_machine_does_not_change_it() -> None:
    assert memory_of() == DEFAULT
    assert memory_of(memory_limit=IMAGE.room(DEFAULT)) == DEFAULT
    assert memory_of(build_memory_limit=4 * MIB, memory_limit=8 * MIB) == DEFAULT


@pytest.mark.parametrize("name", ["memory_limit", "build_memory_limit"])
def test_machine_grows_with_a_limit(name: str) -> None:
    limit = 300 * MIB
    memory = memory_of(**{name: limit})

    assert limit <= IMAGE.room(memory) < limit + 3 * MIB
    check(memory, **{name: limit})
    # What lies on the disk is in the same memory.
    file = InputFile("large", bytes(10 * MIB))
    assert memory_of(**{name: limit}, files=(file,)) >= memory + 10 * MIB


def test_machine_of_a_language_that_is_not_built_does_not_grow_for_a_build() -> None:
    language = replace(rust(), build=None)

    assert choose_machine_memory(IMAGE, language, Options(build_memory_limit=999 * MIB)) == DEFAULT


@pytest.mark.parametrize("name", ["memory_limit", "build_memory_limit"])
def test_pair_that_does_not_fit_is_refused_by_both_names(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} is 300 MiB, .* memory is \d+ MiB") as caught:
        check(DEFAULT, **{name: 300 * MIB, "memory": DEFAULT})

    enough = int(caught.value.hint.split("--memory ")[1].split()[0])
    assert f"a smaller {name}" in caught.value.hint
    check(enough * MIB, **{name: 300 * MIB})


def test_machine_that_no_host_can_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"memory_limit of 65000 MiB needs a machine of"):
        memory_of(memory_limit=65000 * MIB)
    with pytest.raises(InputError, match=r"^memory is 65000 MiB"):
        memory_of(memory=65000 * MIB)


def test_files_that_do_not_fit_are_refused_with_the_memory_that_they_need() -> None:
    half = IMAGE.room(DEFAULT) // 2
    check(DEFAULT, files=(InputFile("a", bytes(half - 8192)),))

    with pytest.raises(InputError, match="input files take") as caught:
        check(DEFAULT, files=(InputFile("a", bytes(half // 2)), InputFile("b", bytes(half // 2))))

    enough = int(caught.value.hint.split("--memory ")[1].split()[0]) * MIB
    check(enough, files=(InputFile("a", bytes(half // 2)), InputFile("b", bytes(half // 2))))


def test_disk_is_as_large_as_the_agent_makes_it() -> None:
    assert _sizing.DISK_SHARE == guest_system.DISK_SHARE
