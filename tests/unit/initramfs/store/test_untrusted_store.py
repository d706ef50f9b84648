"""A store that others could change is refused, and nothing outside of it is touched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.disk import locks
from slipway_initramfs.disk.trusted_tree import find_distrust
from slipway_initramfs.errors import UntrustedFile
from slipway_initramfs.store.garbage_collection import find_prunable, prune, remove_image
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.initrds import find_initrd
from support.stores import put_agent, put_image, put_kernel
from support.untrusted_files import OF_DIRECTORIES, OF_FILES, replace_by_link

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Harm = Callable[[Path], str]

FILES = {
    "reference": "refs/image/toy-amd64",
    "manifest": "manifests/{image}.json",
    "root": "blobs/{root}",
    "kernel": "blobs/{kernel}",
    "kernel's reference": "refs/kernel/amd64",
    "agent": "blobs/{agent}",
    "initrd": "initrds/{initrd}",
}
DIRECTORIES = ("", "refs", "refs/image", "manifests", "blobs", "initrds")
SWEPT = ("blobs", "manifests", "initrds", "verified", "layers", "tmp", "locks", "refs")


def boot(store: ImageStore) -> Path:
    """Do what a run does with a store before its machine starts; return the initrd."""
    image, kernel = store.image("toy", "amd64"), store.kernel("amd64")
    agent = store.archive("agent", "1-amd64")
    assert image is not None
    assert kernel is not None
    assert agent is not None
    for part in (image, kernel, agent):
        part.quick_check()
    return find_initrd(store, image, kernel, agent.path)


@pytest.fixture
def names(store: ImageStore) -> dict[str, str]:
    """Fill the store with what a run needs; return the names of its files."""
    image, kernel, agent = put_image(store), put_kernel(store), put_agent(store)
    return {
        "image": image.digest,
        "root": image.root.digest,
        "kernel": kernel.image.digest,
        "agent": agent.path.name,
        "initrd": boot(store).name,
    }


@pytest.mark.parametrize("harm", OF_FILES)
@pytest.mark.parametrize("kind", FILES)
def test_file_that_others_decide_on_is_refused(
    store: ImageStore, names: dict[str, str], kind: str, harm: Harm
) -> None:
    path = store.root / FILES[kind].format(**names)
    said = harm(path)

    with pytest.raises(UntrustedFile) as caught:
        boot(ImageStore(store.root))

    assert str(path) in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (name, harm)
        for name in DIRECTORIES
        for harm in OF_DIRECTORIES
        # The path of a store is the caller's choice, and may be a link.
        if name or harm is not replace_by_link
    ],
)
def test_directory_that_others_decide_on_is_refused(
    store: ImageStore, names: dict[str, str], name: str, harm: Harm
) -> None:
    said = harm(store.root / name)

    with pytest.raises(UntrustedFile) as caught:
        boot(ImageStore(store.root))

    assert said in caught.value.message
    assert caught.value.hint


def test_directory_of_root_is_trusted_by_all_users() -> None:
    assert find_distrust(os.stat("/"), is_directory=True) == ""  # noqa: PTH116


def test_store_may_be_named_by_a_link(
    store: ImageStore, names: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store.root)

    assert boot(ImageStore(tmp_path / "link")).name == names["initrd"]


@pytest.mark.parametrize("name", SWEPT)
def test_prune_removes_nothing_behind_a_link(
    store: ImageStore, names: dict[str, str], tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x" * 5000)
    path = store.root / name
    if path.exists():
        path.rename(path.with_name(f".{name}"))
    path.symlink_to(outside)

    with pytest.raises(UntrustedFile, match="is a symbolic link"):
        prune(ImageStore(store.root))
    if name != "locks":  # whose files no prune counts
        with pytest.raises(UntrustedFile, match="is a symbolic link"):
            find_prunable(ImageStore(store.root))

    assert [path.name for path in outside.iterdir()] == ["precious"]


@pytest.mark.parametrize("place", ["downloads", "amd64/partial"])
def test_prune_removes_no_download_behind_a_link(
    store: ImageStore, tmp_path: Path, place: str
) -> None:
    put_image(store)
    outside = tmp_path / "outside"
    (outside / "partial").mkdir(parents=True)
    (outside / "partial" / "precious").write_bytes(b"x")
    (outside / "precious").write_bytes(b"x")
    store.apt.mkdir()
    (store.apt / place.split("/")[0]).symlink_to(outside)

    with pytest.raises(UntrustedFile, match="is a symbolic link"):
        prune(store)

    assert (outside / "precious").exists()
    assert (outside / "partial" / "precious").exists()


@pytest.mark.parametrize("harm", OF_FILES)
def test_lock_that_others_decide_on_is_refused(
    store: ImageStore, names: dict[str, str], harm: Harm
) -> None:
    said = harm(store.root / "lock")

    for action in (prune, lambda store: remove_image(store, "toy", "amd64")):
        with pytest.raises(UntrustedFile) as caught:
            action(ImageStore(store.root))
        assert said in caught.value.message
    with pytest.raises(UntrustedFile), store.building("toy"):
        pass
    with pytest.raises(UntrustedFile), locks.open_lock(store.tree, store.root / "lock"):
        pass


@pytest.mark.parametrize("harm", OF_DIRECTORIES)
@pytest.mark.parametrize("name", ["tmp", "locks", "blobs", "manifests"])
def test_writer_refuses_a_directory_that_others_decide_on(
    store: ImageStore, names: dict[str, str], name: str, harm: Harm
) -> None:
    harm(store.root / name)

    with pytest.raises(UntrustedFile):
        put_image(ImageStore(store.root), "other", b"other")
