from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.collection import prune, remove_image
from slipway_initramfs.errors import ImageError
from support.stores import names, put_image

if TYPE_CHECKING:
    from slipway_initramfs.store import ImageStore


def test_remove_frees_what_only_this_image_needs(store: ImageStore) -> None:
    put_image(store, "one", b"shared")
    put_image(store, "two", b"shared")
    put_image(store, "three", b"own" * 1000)

    assert remove_image(store, "three", "amd64") >= 3000
    assert remove_image(store, "two", "amd64") < 3000

    one = store.image("one", "amd64")
    assert one is not None
    one.verify()
    assert store.image("three", "amd64") is None


def test_remove_of_nothing_is_an_error(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="no image 'none'"):
        remove_image(store, "none")


def test_prune_removes_downloads_leftovers_and_replaced_images(store: ImageStore) -> None:
    put_image(store, "toy", b"old" * 1000)
    image = put_image(store, "toy", b"new")
    (store.apt / "downloads").mkdir(parents=True)
    (store.apt / "downloads" / "x.deb").write_bytes(b"x" * 5000)
    (store.temporary / "left").write_bytes(b"x")

    freed = prune(store)

    assert freed >= 5000
    assert names(store.root / "blobs") == [image.root.digest]
    assert names(store.apt / "downloads") == names(store.temporary) == []


def test_prune_while_another_builds_is_an_error(store: ImageStore) -> None:
    with store.building("x"), pytest.raises(ImageError, match="another process"):
        prune(store)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the images of this test are amd64's")
def test_a_removed_image_is_no_default_any_more(store: ImageStore) -> None:
    plain, _ = put_image(store, "toy"), put_image(store, "toy@1.80", b"another")
    store.set_default("toy@1.80")

    remove_image(store, "toy@1.80")

    assert store.image("toy") == plain


def test_a_given_language_goes_with_its_last_image(store: ImageStore) -> None:
    put_image(store, "toy")
    put_image(store, "toy@2", b"another")
    with store.building("language-toy"):
        store.put_record("language", "toy", {"file": ""})

    remove_image(store, "toy@2", "amd64")
    assert store.names("language") == ["toy"]

    remove_image(store, "toy", "amd64")
    assert store.names("language") == []


def test_a_reference_goes_with_a_manifest_of_another_format(store: ImageStore) -> None:
    put_image(store, "old")
    old = store.root / "manifests" / f"{put_image(store, 'new', b'another').digest}.json"
    old.write_bytes(old.read_bytes().replace(b'"format": 2', b'"format": 1'))

    prune(store)

    assert [image.name for image in store.images()] == ["old"]
    assert names(store.root / "refs" / "image") == ["old-amd64"]
    assert store.image("new", "amd64") is None


def test_locks_are_not_handed_down_to_children(store: ImageStore) -> None:
    with store.building("x"):
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        prune(store)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the images of this test are amd64's")
def test_a_removed_default_does_not_come_back_with_its_image(store: ImageStore) -> None:
    plain, _ = put_image(store, "toy"), put_image(store, "toy@1.80", b"another")
    store.set_default("toy@1.80")
    remove_image(store, "toy@1.80")

    put_image(store, "toy@1.80", b"another")

    assert store.image("toy") == plain


def test_files_that_are_no_records_do_no_harm(store: ImageStore) -> None:
    image = put_image(store, "toy")
    stray = store.root / "refs" / "image" / ".nfs0001"
    stray.write_bytes(b"")

    prune(store)

    assert store.images() == [image]
    assert stray.exists()
