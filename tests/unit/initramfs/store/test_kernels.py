"""Kernels of a store: which one is in use, and their removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.store.disk_use import measure_disk_use
from slipway_initramfs.store.garbage_collection import find_prunable, prune, remove_kernel
from slipway_initramfs.store.records import DEBIAN_KERNEL, SMALL_KERNEL, build_kernel_key
from support.stores import flip_a_byte, names, put_kernel

if TYPE_CHECKING:
    from slipway_initramfs.store.image_store import ImageStore


def used(store: ImageStore) -> str:
    kernel = store.kernel("amd64")
    return "" if kernel is None else kernel.name


def put_both(store: ImageStore) -> None:
    put_kernel(store)
    put_kernel(store, name=SMALL_KERNEL, content=b"small")


def test_debians_kernel_is_in_use_where_no_other_is(store: ImageStore) -> None:
    assert used(store) == ""
    put_kernel(store)

    assert used(store) == DEBIAN_KERNEL


def test_the_small_kernel_is_in_use_once_it_is_there(store: ImageStore) -> None:
    put_both(store)

    assert used(store) == SMALL_KERNEL
    assert [kernel.name for kernel in store.kernels()] == [DEBIAN_KERNEL, SMALL_KERNEL]
    assert store.kernel("arm64") is None


def test_a_chosen_kernel_is_in_use_until_another_is_chosen(store: ImageStore) -> None:
    put_both(store)

    store.choose_kernel(DEBIAN_KERNEL, "amd64")
    assert used(store) == DEBIAN_KERNEL
    store.choose_kernel(SMALL_KERNEL, "amd64")
    assert used(store) == SMALL_KERNEL


def test_a_kernel_that_is_missing_cannot_be_chosen(store: ImageStore) -> None:
    put_kernel(store)

    with pytest.raises(ImageError, match="no kernel 'small' for amd64") as raised:
        store.choose_kernel(SMALL_KERNEL, "amd64")

    assert "slipway kernel build --arch amd64" in raised.value.hint


def test_a_small_kernel_of_another_version_is_not_used_and_pruned(store: ImageStore) -> None:
    put_kernel(store)
    small = put_kernel(store, name=SMALL_KERNEL, content=b"small" * 1000, builder=0)

    assert used(store) == DEBIAN_KERNEL
    assert small.image.path in [found.path for found in find_prunable(store)]
    assert prune(store) >= 5000
    assert [kernel.name for kernel in store.kernels()] == [DEBIAN_KERNEL]
    assert small.digest not in names(store.root / "blobs")


def test_prune_keeps_both_kernels(store: ImageStore) -> None:
    put_both(store)

    prune(store)

    for kernel in store.kernels():
        kernel.verify()
    assert used(store) == SMALL_KERNEL


def test_removal_of_the_chosen_kernel_takes_the_choice_along(store: ImageStore) -> None:
    put_both(store)
    store.choose_kernel(SMALL_KERNEL, "amd64")

    assert remove_kernel(store, "amd64", SMALL_KERNEL) >= len(b"small")

    assert used(store) == DEBIAN_KERNEL
    assert store.kernel_choice("amd64") == ""
    with pytest.raises(ImageError, match="no kernel 'small' for amd64"):
        remove_kernel(store, "amd64", SMALL_KERNEL)


def test_a_damaged_small_kernel_gives_way_to_debians(store: ImageStore) -> None:
    put_both(store)
    small = store.find_kernel("amd64", SMALL_KERNEL)
    assert small is not None
    flip_a_byte(small.path)
    lines: list[str] = []

    kernel = build_kernel(store, architecture="amd64", progress=lines.append)

    assert kernel.name == used(store) == DEBIAN_KERNEL
    assert any("slipway kernel build" in line for line in lines)


@pytest.mark.parametrize("chosen", [DEBIAN_KERNEL, SMALL_KERNEL])
@pytest.mark.parametrize("name", [DEBIAN_KERNEL, SMALL_KERNEL])
def test_a_kernel_that_a_run_names_need_not_be_in_use(
    store: ImageStore, chosen: str, name: str
) -> None:
    put_both(store)
    store.choose_kernel(chosen, "amd64")

    kernel = build_kernel(store, architecture="amd64", name=name, progress=print)

    assert kernel.name == name
    assert used(store) == chosen


def test_a_small_kernel_that_a_run_names_has_no_substitute(store: ImageStore) -> None:
    put_kernel(store)
    stale = put_kernel(store, name=SMALL_KERNEL, builder=0)

    with pytest.raises(ImageError, match="no kernel 'small' for amd64") as raised:
        build_kernel(store, architecture="amd64", name=SMALL_KERNEL, progress=print)

    assert not stale.is_current
    assert "slipway kernel build --arch amd64" in raised.value.hint


def test_a_damaged_record_of_the_small_kernel_gives_way_to_debians(store: ImageStore) -> None:
    put_both(store)
    small = store.kernel("amd64")
    assert small is not None
    (store.root / "manifests" / f"{small.digest}.json").write_text("{")

    assert used(store) == DEBIAN_KERNEL


def test_a_kernel_copied_into_the_place_of_another_architecture_is_corrupted(
    store: ImageStore,
) -> None:
    put_both(store)
    places = store.root / "refs/kernel"

    for name in (DEBIAN_KERNEL, SMALL_KERNEL):
        there = build_kernel_key("arm64", name)
        (places / there).write_bytes((places / build_kernel_key("amd64", name)).read_bytes())
        with pytest.raises(ImageCorrupted, match=f"kernel {there} in the store is in truth amd64"):
            store.find_kernel("arm64", name)

    assert {kernel.architecture for kernel in store.kernels()} == {"amd64"}


def test_disk_use_names_each_kernel(store: ImageStore) -> None:
    put_both(store)

    found = {use.name for use in measure_disk_use(store).uses if use.kind == "kernel"}

    assert found == {"amd64", "amd64-small"}
