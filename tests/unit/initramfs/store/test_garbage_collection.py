from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageError
from slipway_initramfs.store.disk_use import measure_disk_use
from slipway_initramfs.store.garbage_collection import find_prunable, prune, remove_image
from support.stores import names, put_agent, put_image, put_kernel, writer

if TYPE_CHECKING:
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore


def test_remove_frees_exclusive_files_of_the_image(store: ImageStore) -> None:
    put_image(store, "one", b"shared")
    put_image(store, "two", b"shared")
    put_image(store, "three", b"own" * 1000)

    assert remove_image(store, "three", "amd64") >= 3000
    assert remove_image(store, "two", "amd64") < 3000

    one = store.image("one", "amd64")
    assert one is not None
    one.verify()
    assert store.image("three", "amd64") is None


def test_remove_of_an_unknown_image_is_an_error(store: ImageStore) -> None:
    with pytest.raises(ImageError, match="unknown image 'none'"):
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


def test_prunable_files_are_listed_without_a_change(store: ImageStore) -> None:
    put_image(store, "toy", b"old" * 1000)
    put_image(store, "toy", b"new")
    put_image(store, "gone", b"gone" * 1000)
    (store.root / "refs" / "image" / "gone-amd64").write_text("0" * 64)
    for place in (store.apt / "downloads", store.apt / "amd64" / "partial", store.layers):
        place.mkdir(parents=True)
        (place / "x").write_bytes(b"x" * 5000)
    (store.temporary / "left").write_bytes(b"x")
    before = sorted(path for path in store.root.rglob("*"))

    found = find_prunable(store)

    assert sorted(path for path in store.root.rglob("*")) == before
    size = prune(store)
    after = set(store.root.rglob("*"))
    left = {each.path for each in found} | {store.root / "refs" / "image" / "gone-amd64"}
    assert {path for path in before if path not in after and "locks" not in path.parts} == left
    assert sum(each.size for each in found) == size > 15_000


def test_files_of_a_removed_snapshot_are_prunable(store: ImageStore) -> None:
    image = put_image(store, "toy")
    with store.building("snapshot-toy"):
        blob = store.put_blob(writer(b"memory" * 1000))
        part = {"digest": blob.digest, "size": blob.size}
        store.put_record("snapshot", "toy-1", {"memory": part, "image_digest": image.digest})

    assert find_prunable(store) == []
    assert blob.path in {each.path for each in find_prunable(store, {("snapshot", "toy-1")})}


def test_downloads_of_a_linked_store_are_not_pruned(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "apt" / "downloads").mkdir(parents=True)
    (tmp_path / "apt" / "downloads" / "x.deb").write_bytes(b"x" * 5000)
    put_image(store, "toy")
    store.apt.symlink_to(tmp_path / "apt")

    assert find_prunable(store) == []
    prune(store)

    assert names(tmp_path / "apt" / "downloads") == ["x.deb"]
    assert "packages" not in {use.kind for use in measure_disk_use(store).uses}


def test_disk_use_includes_shared_bytes(store: ImageStore) -> None:
    put_image(store, "one", b"shared" * 1000)
    put_image(store, "two", b"shared" * 1000)
    put_image(store, "three", b"own" * 1000)
    put_kernel(store)
    put_agent(store)
    (store.layers).mkdir()
    (store.layers / "x.partial").write_bytes(b"x" * 7000)
    (store.root / "initrds").mkdir()
    (store.root / "initrds" / "x").write_bytes(b"x" * 9000)

    found = measure_disk_use(store)

    uses = {(use.kind, use.name): (use.size, use.shared) for use in found.uses}
    assert uses["image", "one-amd64"] == uses["image", "two-amd64"] == (6000, 6000)
    assert uses["image", "three-amd64"] == (3000, 0)
    assert uses["kernel", "amd64"] == (len(b"kernelmodules"), 0)
    assert uses["layers", ""] == (7000, 0)
    assert uses["initrds", ""] == (9000, 0)
    assert found.total == sum(size for size, _ in uses.values()) - 6000
    assert found.prunable == 16_000


def test_disk_use_is_measured_during_writes(store: ImageStore) -> None:
    with store.building("x"):
        store.put_blob(writer(b"x" * 5000))
        found = measure_disk_use(store)

    assert {use.kind: use.size for use in found.uses} == {"unreferenced": 5000}
    assert found.prunable is None


def test_prune_while_another_builds_is_an_error(store: ImageStore) -> None:
    with store.building("x"), pytest.raises(ImageError, match="another process"):
        prune(store)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the images of this test are amd64's")
def test_a_removed_image_is_no_default_any_more(store: ImageStore) -> None:
    plain, _ = put_image(store, "toy"), put_image(store, "toy@1.80", b"another")
    store.set_default("toy@1.80")

    remove_image(store, "toy@1.80")

    assert store.image("toy") == plain


def test_an_added_language_is_removed_with_its_last_image(store: ImageStore) -> None:
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


def test_default_stays_until_its_image_is_removed_on_each_architecture(store: ImageStore) -> None:
    for name in ("amd64", "arm64"):
        put_image(store, "toy@1.80", name.encode(), name)
    store.set_default("toy@1.80")

    remove_image(store, "toy@1.80", "amd64")
    left = store.default("toy", "amd64"), store.default("toy", "arm64")
    remove_image(store, "toy@1.80", "arm64")
    put_image(store, "toy@1.80", b"again", "arm64")

    assert left == ("", "toy@1.80")
    assert store.default("toy", "arm64") == ""


def test_files_that_are_no_records_do_no_harm(store: ImageStore) -> None:
    image = put_image(store, "toy")
    stray = store.root / "refs" / "image" / ".nfs0001"
    stray.write_bytes(b"")

    prune(store)

    assert store.images() == [image]
    assert stray.exists()
