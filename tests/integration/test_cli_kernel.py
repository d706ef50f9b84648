"""``slipway kernel``: kernels of a store, as commands show and change them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.linux.configuration import read_configuration
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import DEBIAN_KERNEL, SMALL_KERNEL
from support.stores import flip_a_byte, put_kernel

if TYPE_CHECKING:
    from pathlib import Path

    from support.commands import Commands

pytestmark = pytest.mark.skipif(machine_architecture() != "amd64", reason="kernels of amd64")


@pytest.fixture
def kernels(tmp_path: Path) -> ImageStore:
    """A store with two kernels that no machine boots."""
    store = ImageStore(tmp_path / "kernels")
    put_kernel(store)
    put_kernel(store, name=SMALL_KERNEL, version="6.1-slipway", content=b"small")
    return store


def list_kernels(commands: Commands, store: ImageStore) -> dict[str, dict[str, object]]:
    ended = commands("slipway", "kernel", "list", "--json", "--store", store.root)
    assert ended.code == 0
    return {record["name"]: record for record in json.loads(ended.stdout)}


def test_list_marks_the_kernel_in_use(commands: Commands, kernels: ImageStore) -> None:
    ended = commands("slipway", "kernel", "list", "--store", kernels.root)
    records = list_kernels(commands, kernels)

    assert ended.code == 0
    assert "small*" in ended.stdout.decode()
    assert "debian*" not in ended.stdout.decode()
    assert {name: record["in_use"] for name, record in records.items()} == {
        DEBIAN_KERNEL: False,
        SMALL_KERNEL: True,
    }
    assert records[SMALL_KERNEL]["version"] == "6.1-slipway"


def test_use_changes_the_kernel_that_machines_boot(commands: Commands, kernels: ImageStore) -> None:
    back = commands("slipway", "kernel", "use", "debian", "--store", kernels.root)
    first = list_kernels(commands, kernels)
    forth = commands("slipway", "kernel", "use", "small", "--store", kernels.root)

    assert (back.code, forth.code) == (0, 0)
    assert "boot Linux 6.1 (debian)" in back.stderr
    assert "boot Linux 6.1-slipway (small)" in forth.stderr
    assert first[DEBIAN_KERNEL]["in_use"]
    assert list_kernels(commands, kernels)[SMALL_KERNEL]["in_use"]


def test_a_kernel_that_was_not_built_cannot_be_used(
    commands: Commands, kernels: ImageStore
) -> None:
    ended = commands(
        "slipway", "kernel", "use", "small", "--arch", "arm64", "--store", kernels.root
    )

    assert ended.code == 125
    assert "no kernel 'small' for arm64" in ended.stderr
    assert "slipway kernel build --arch arm64" in ended.stderr


def test_debians_kernel_can_be_chosen_before_it_is_there(
    commands: Commands, tmp_path: Path
) -> None:
    ended = commands("slipway", "kernel", "use", "debian", "--store", tmp_path / "empty")

    assert ended.code == 0
    assert "which the next run fetches" in ended.stderr


def test_an_older_configuration_is_told(commands: Commands, kernels: ImageStore) -> None:
    before = list_kernels(commands, kernels)[SMALL_KERNEL]
    small = kernels.find_kernel("amd64", SMALL_KERNEL)
    assert small is not None
    digest = read_configuration("amd64").sha256
    with kernels.building("kernel"):
        kernels.put_record("kernel", small.key, {**small.manifest, "configuration": digest})

    assert "configuration has changed" in str(before["stale"])
    assert list_kernels(commands, kernels)[SMALL_KERNEL]["current"]


def test_remove_leaves_the_other_kernel(commands: Commands, kernels: ImageStore) -> None:
    ended = commands("slipway", "kernel", "remove", "small", "--store", kernels.root)
    again = commands("slipway", "kernel", "remove", "small", "--store", kernels.root)

    assert ended.code == 0
    assert "removed small for amd64" in ended.stderr
    assert list(list_kernels(commands, kernels)) == [DEBIAN_KERNEL]
    assert again.code == 125
    assert "slipway kernel list" in again.stderr


def test_doctor_names_each_kernel_and_finds_damage(commands: Commands, kernels: ImageStore) -> None:
    sound = commands("slipway", "doctor", "--json", "--store", kernels.root)
    small = kernels.find_kernel("amd64", SMALL_KERNEL)
    assert small is not None
    flip_a_byte(small.path)
    damaged = commands("slipway", "doctor", "--json", "--store", kernels.root)

    found = [row["found"] for row in json.loads(sound.stdout) if row["need"] == "kernel"]
    assert found == ["Linux 6.1 (debian, amd64)", "Linux 6.1-slipway (small, amd64), in use"]
    rows = [row for row in json.loads(damaged.stdout) if row["need"] == "kernel"]
    assert [row["met"] for row in rows] == [True, False]
    assert rows[1]["fix"] == "slipway kernel build --arch amd64"


@pytest.mark.parametrize("arguments", [("serve", "--pool", "0", "--api-sock", "api"), ("mcp",)])
def test_a_server_does_not_start_without_the_kernel_of_its_runs(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)

    ended = commands("slipway", *arguments, "--kernel", "small", "--store", tmp_path / "empty")

    assert ended.code == 125
    assert "no kernel 'small' for amd64" in ended.stderr
    assert "slipway kernel build --arch amd64" in ended.stderr
    assert not (tmp_path / "api").exists()


def test_an_empty_store_has_no_kernels(commands: Commands, tmp_path: Path) -> None:
    ended = commands("slipway", "kernel", "list", "--store", tmp_path / "empty")

    assert ended.code == 0
    assert "slipway kernel build" in ended.stderr


@pytest.mark.debian("apt-get")
def test_missing_tools_are_told_before_anything_is_fetched(
    commands: Commands, tmp_path: Path
) -> None:
    commands.prefix = (
        *("unshare", "-Urm", "sh", "-c"),
        'mount --bind /dev/null /usr/bin/make && exec "$@"',
        "sh",
    )
    if commands("slipway", "--version").code != 0:
        pytest.skip("this user may not hide a program")

    ended = commands("slipway", "kernel", "build", "--store", tmp_path / "store")

    assert ended.code == 125
    assert "compiling a kernel takes" in ended.stderr
    assert "make" in ended.stderr
    assert "apt-get install" in ended.stderr
    assert not (tmp_path / "store" / "apt").exists()
