from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store.initrds import find_initrd, verify_initrd
from support.stores import put_agent, put_image, put_kernel

if TYPE_CHECKING:
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore


def test_the_initrd_is_agent_modules_and_root_in_this_order(store: ImageStore) -> None:
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)

    path = find_initrd(store, image, kernel, agent.path)

    assert path.read_bytes() == b"agent" + b"modules" + b"root archive"
    assert find_initrd(store, image, kernel, agent.path) == path
    verify_initrd(store, image, kernel, agent)


def test_the_initrd_of_a_foreign_kernel_has_no_modules(store: ImageStore) -> None:
    image, agent = put_image(store), put_agent(store)

    assert find_initrd(store, image, None, agent.path).read_bytes() == b"agent" + b"root archive"


def test_a_truncated_initrd_is_written_again(store: ImageStore) -> None:
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)
    find_initrd(store, image, kernel, agent.path).write_bytes(b"agent")

    assert find_initrd(store, image, kernel, agent.path).read_bytes().endswith(b"root archive")


@pytest.mark.parametrize("position", [0, 5, 12, 23])
def test_a_changed_byte_in_any_part_of_the_initrd_is_found(
    store: ImageStore, position: int
) -> None:
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)
    path = find_initrd(store, image, kernel, agent.path)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)

    with pytest.raises(ImageCorrupted):
        verify_initrd(store, image, kernel, agent)

    assert not path.exists()
    find_initrd(store, image, kernel, agent.path)
    verify_initrd(store, image, kernel, agent)


def test_an_initrd_of_a_lost_root_is_an_error_and_not_a_file(store: ImageStore) -> None:
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)
    image.root_archive.unlink()

    with pytest.raises(ImageCorrupted):
        find_initrd(store, image, kernel, agent.path)


def test_an_agent_that_is_not_of_the_store_is_refused(store: ImageStore, tmp_path: Path) -> None:
    image, kernel = put_image(store), put_kernel(store)

    with pytest.raises(ImageError, match="not an archive of the image store"):
        find_initrd(store, image, kernel, tmp_path / "agent.cpio")


def test_an_initrd_that_was_removed_is_not_sound(store: ImageStore) -> None:
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)
    find_initrd(store, image, kernel, agent.path).unlink()

    with pytest.raises(ImageCorrupted, match="'toy' is missing"):
        verify_initrd(store, image, kernel, agent)


def test_a_root_that_was_replaced_meanwhile_is_lost_and_no_disk_is_full(store: ImageStore) -> None:
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)
    put_image(store, root=b"a newer root")

    with pytest.raises(ImageCorrupted, match="is missing in the store"):
        find_initrd(store, image, kernel, agent.path)
