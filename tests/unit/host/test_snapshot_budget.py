"""The budget for snapshots: which of them go, which stay, and what does not fit."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slipway._snapshots import budget
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.lease import SnapshotLease
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import ImageError
from slipway._util.units import GIB, MIB
from slipway.machine import memory_files
from slipway.machine.model import PortKind, Snapshot
from slipway_initramfs.store.image_store import ImageStore
from support.stores import names, put_image

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._snapshots.stored_snapshot import StoredSnapshot

MEMORY = 4 * MIB
DATA = MIB


class BudgetBench:
    """A store of snapshots with 1 MiB of data each."""

    def __init__(self, root: Path) -> None:
        self.images = ImageStore(root)
        self.store = SnapshotStore(self.images)
        image = put_image(self.images)
        self.key = SnapshotKey(
            "toy", "amd64", "qemu", MEMORY, 1, "ab" * 32, (("image", image.digest),)
        )

    def save(self, cpus: int, budget: int | None = None, data: int = DATA) -> StoredSnapshot:
        """Save a snapshot of a machine with so many CPUs, the name's only difference."""
        memory = memory_files.create("test", MEMORY)
        state = memory_files.create("test", 4096)
        os.pwrite(memory, bytes([cpus]) * data, 0)
        os.pwrite(state, bytes([cpus]) * 4096, 0)
        snapshot = Snapshot("qemu", "amd64", MEMORY, cpus, PortKind.VIRTIO, memory, state)
        try:
            return self.store.save(replace(self.key, cpus=cpus), snapshot, budget)
        finally:
            snapshot.close()

    @property
    def cpus(self) -> list[int]:
        """The snapshots that the store has."""
        return [stored.key.cpus for stored in self.store.list()]


def use_at(stored: StoredSnapshot, seconds: int) -> None:
    """Set the time of the last use."""
    os.utime(stored.reference, (seconds, seconds))


@pytest.fixture
def bench(tmp_path: Path) -> BudgetBench:
    return BudgetBench(tmp_path / "store")


def test_least_recently_used_goes_first_and_its_files_too(bench: BudgetBench) -> None:
    saved = [bench.save(cpus) for cpus in (1, 2, 3)]
    for stored, seconds in zip(saved, (3000, 1000, 2000), strict=True):
        use_at(stored, seconds)
    before = len(names(bench.images.root / "blobs"))

    bench.save(4, 3 * DATA + MIB // 2)

    assert bench.cpus == [1, 3, 4]
    assert len(names(bench.images.root / "blobs")) == before
    assert not saved[1].memory.path.exists()


def test_snapshot_in_use_stays_though_it_is_the_oldest(bench: BudgetBench) -> None:
    saved = [bench.save(cpus) for cpus in (1, 2)]
    with SnapshotLease(saved[0]):
        for stored, seconds in zip(saved, (1000, 2000), strict=True):
            use_at(stored, seconds)

        bench.save(3, 2 * DATA + MIB // 2)

        assert bench.cpus == [1, 3]


def test_what_does_not_fit_beside_those_in_use_is_refused_and_evicts_nothing(
    bench: BudgetBench,
) -> None:
    saved = [bench.save(cpus) for cpus in (1, 2)]
    blobs = names(bench.images.root / "blobs")

    with SnapshotLease(saved[0]), pytest.raises(ImageError) as error:
        bench.save(3, 2 * DATA, data=2 * DATA)

    assert "the budget for snapshots is 2 MiB, of which snapshots in use take 1 MiB" in str(
        error.value
    )
    assert bench.cpus == [1, 2]
    assert names(bench.images.root / "blobs") == blobs
    assert names(bench.images.temporary) == []


def test_replaced_snapshot_does_not_count_and_its_files_go(bench: BudgetBench) -> None:
    first = bench.save(1)
    bench.key = replace(bench.key, inputs="cd" * 32)

    second = bench.save(1, DATA + MIB // 2, data=DATA - 4096)

    assert bench.store.list() == [second]
    assert not first.memory.path.exists()


def test_budget_of_nothing_takes_no_snapshot(bench: BudgetBench) -> None:
    with pytest.raises(ImageError, match="the budget for snapshots is 0 MiB"):
        bench.save(1, 0)

    assert bench.cpus == []


def test_default_is_a_part_of_the_disk_that_is_free_or_taken_by_snapshots(
    bench: BudgetBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.save(1)
    free = shutil.disk_usage(bench.images.root).free
    whole = budget.measure_use(bench.store.list(), bench.images.root)
    monkeypatch.setattr(budget, "MAX_SNAPSHOTS", 1 << 62)
    part = budget.measure_use(bench.store.list(), bench.images.root)

    assert (whole.count, whole.used) == (1, bench.store.list()[0].disk_bytes)
    assert whole.budget == min(8 * GIB, part.budget)
    assert abs(part.budget - (free + whole.used) // 4) < GIB
    assert str(replace(whole, budget=8 * GIB)) == "1 snapshot takes 1 MiB of at most 8192 MiB"


def test_surplus_is_what_a_smaller_budget_would_evict(bench: BudgetBench) -> None:
    saved = [bench.save(cpus) for cpus in (1, 2, 3)]
    for stored, seconds in zip(saved, (3000, 1000, 2000), strict=True):
        use_at(stored, seconds)

    surplus = budget.find_surplus(bench.store.list(), bench.images.root, DATA + MIB // 2)

    assert [stored.key.cpus for stored in surplus] == [2, 3]
    assert bench.cpus == [1, 2, 3]


def test_lease_of_a_lost_file_is_none(bench: BudgetBench) -> None:
    stored = bench.save(1)
    stored.memory.path.unlink()

    with SnapshotLease(stored):
        bench.save(2, DATA + 4096)

    assert bench.cpus == [2]
