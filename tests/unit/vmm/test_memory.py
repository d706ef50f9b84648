"""Guest memory: what is in it, what is not, and where the host has it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import HostError
from slipway._util.units import MIB
from slipway.vmm.arch.x86_64 import layout
from slipway.vmm.arch.x86_64.architecture import place_memory
from slipway.vmm.memory import HUGE_PAGE, GuestAddressError, GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

HIGH = layout.HOLE_END
REGIONS = [(0, 2 * MIB), (HIGH, MIB)]


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with closing(GuestMemory(REGIONS)) as memory:
        yield memory


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def count_mapped_bytes() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096


# --- Bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0, 0),
        (0, 2 * MIB),
        (2 * MIB - 1, 1),
        (2 * MIB, 0),
        (HIGH, MIB),
        (HIGH + MIB - 1, 1),
        (HIGH + MIB, 0),
    ],
)
def test_view_of_memory_is_as_long_as_it_was_asked_for(
    memory: GuestMemory, address: int, length: int
) -> None:
    assert len(memory.view(address, length)) == length


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (-1, 1),
        (-1, 2),
        (0, -1),
        (MIB, -MIB),
        (0, 2 * MIB + 1),
        (2 * MIB - 1, 2),
        (2 * MIB, 1),
        (2 * MIB + 1, 0),
        (HIGH - 1, 1),
        (HIGH - 1, 2),
        (HIGH, MIB + 1),
        (HIGH + MIB, 1),
        (0, HIGH + MIB),
        (0, 1 << 64),
        (1 << 64, 1),
        (1 << 1000, 1 << 1000),
        (2 * MIB - 1, -(1 << 70)),
    ],
)
def test_access_that_is_not_all_memory_is_refused(
    memory: GuestMemory, address: int, length: int
) -> None:
    with pytest.raises(GuestAddressError, match="are not all memory"):
        memory.view(address, length)
    with pytest.raises(GuestAddressError):
        memory.read(address, length)


def test_write_across_an_end_changes_nothing(memory: GuestMemory) -> None:
    with pytest.raises(GuestAddressError):
        memory.write(2 * MIB - 2, b"abc")

    assert memory.read(2 * MIB - 2, 2) == b"\0\0"


def test_regions_that_touch_are_still_two() -> None:
    with closing(GuestMemory([(0, MIB), (MIB, MIB)])) as memory:
        memory.write(MIB - 1, b"a")
        memory.write(MIB, b"b")

        assert memory.read(MIB, 1) == b"b"
        with pytest.raises(GuestAddressError):
            memory.view(MIB - 1, 2)


@given(data=st.data())
@settings(deadline=None, derandomize=True, database=None, max_examples=200)
def test_memory_is_like_two_arrays_of_bytes(data: st.DataObject) -> None:
    model = {address: bytearray(size) for address, size in [(0, 48), (64, 16)]}
    with closing(GuestMemory([(0, 48), (64, 16)])) as memory:
        for _ in range(data.draw(st.integers(1, 10))):
            address = data.draw(st.integers(-4, 90))
            new = data.draw(st.binary(max_size=50))
            home = next(
                (at for at, part in model.items() if at <= address <= at + len(part) - len(new)),
                None,
            )
            if home is None:
                with pytest.raises(GuestAddressError):
                    memory.write(address, new)
            else:
                memory.write(address, new)
                model[home][address - home : address - home + len(new)] = new
        assert {at: memory.read(at, len(part)) for at, part in model.items()} == model


def test_read_is_a_copy_and_view_is_none(memory: GuestMemory) -> None:
    copy, view = memory.read(HIGH, 4), memory.view(HIGH, 4)

    memory.write(HIGH, b"then")

    assert copy == b"\0\0\0\0"
    assert bytes(view) == b"then"
    view[:] = b"last"
    assert memory.read(HIGH, 4) == b"last"


# --- Where it is --------------------------------------------------------------------------------


def test_memory_has_one_region_up_to_the_hole() -> None:
    assert place_memory(64 * MIB) == [(0, 64 * MIB)]
    assert place_memory(layout.HOLE) == [(0, layout.HOLE)]


def test_memory_has_the_rest_above_4_gib() -> None:
    assert place_memory(layout.HOLE + MIB) == [(0, layout.HOLE), (1 << 32, MIB)]


def test_guest_and_host_addresses_are_equal_in_a_huge_page() -> None:
    for _ in range(10):
        with closing(GuestMemory(place_memory(layout.HOLE + MIB))) as memory:
            assert memory.size == layout.HOLE + MIB
            for region in memory.regions:
                host = memory.host_address + region.offset
                assert (host - region.address) % HUGE_PAGE == 0


def test_parts_of_the_mapping_are_in_order() -> None:
    with closing(GuestMemory(place_memory(layout.HOLE + MIB))) as memory:
        low, high = memory.regions

    assert (low.offset, low.end) == (0, layout.HOLE)
    assert (high.offset, high.end) == (low.size, layout.HOLE_END + MIB)


# --- From a file --------------------------------------------------------------------------------


def test_file_is_loaded_from_its_start(memory: GuestMemory, file: int) -> None:
    os.lseek(file, 100, os.SEEK_SET)

    memory.load(MIB, file, 4096)

    assert memory.read(MIB, 4097) == bytes(range(256)) * 16 + b"\0"


def test_part_of_a_file_is_loaded(memory: GuestMemory, file: int) -> None:
    memory.load(2 * MIB - 3, file, 3)

    assert memory.read(2 * MIB - 3, 3) == b"\0\1\2"


def test_file_that_became_shorter_is_told(memory: GuestMemory, file: int) -> None:
    with pytest.raises(HostError, match="ends after 4096 of 5000 bytes"):
        memory.load(0, file, 5000)


def test_file_that_does_not_fit_is_refused(memory: GuestMemory, file: int) -> None:
    with pytest.raises(GuestAddressError):
        memory.load(2 * MIB - 100, file, 4096)


def test_file_that_cannot_be_read_is_told(memory: GuestMemory, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(HostError, match="cannot read a boot file: Is a directory"):
        memory.load(0, directory, 1)
    os.close(directory)


# --- Its end, and too much of it ----------------------------------------------------------------


def test_closed_memory_is_given_back() -> None:
    GuestMemory([(0, MIB)]).close()
    before = count_mapped_bytes()

    memory = GuestMemory([(0, 1 << 30)])
    assert count_mapped_bytes() >= before + (1 << 30)
    memory.close()

    assert count_mapped_bytes() < before + (1 << 29)


def test_memory_that_is_not_touched_costs_none() -> None:
    """More than the host has, perhaps."""
    with closing(GuestMemory([(0, 1 << 40)])) as memory:
        memory.write((1 << 40) - 1, b"x")

        assert memory.read((1 << 40) - 1, 1) == b"x"


@pytest.mark.parametrize("size", [1 << 62, 1 << 64, 1 << 100, -(1 << 30)])
def test_memory_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(HostError, match="of memory for the guest cannot be mapped") as caught:
        GuestMemory([(0, size)])

    assert "--memory" in caught.value.hint


def test_memory_that_the_process_may_not_have_is_refused() -> None:
    source = (
        "import resource\n"
        "from slipway import HostError\n"
        "from slipway.vmm.memory import GuestMemory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try:\n"
        "    GuestMemory([(0, 1 << 31)])\n"
        "except HostError as error:\n"
        "    print(error.message, error.hint, sep='\\n')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )

    message, hint = ended.stdout.splitlines()
    assert message == ("2048 MiB of memory for the guest cannot be mapped: Cannot allocate memory")
    assert "--memory" in hint
