"""Commands refuse a store that another user could change: no wait, no file touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.untrusted_files import (
    give_away,
    open_to_all,
    replace_by_device,
    replace_by_fifo,
    replace_by_link,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands

    Harm = Callable[[Path], str]

HARMS: tuple[tuple[str, Harm], ...] = (
    ("tsc-khz", replace_by_fifo),
    ("refs/image/bash-amd64", replace_by_fifo),
    ("refs/kernel/amd64", replace_by_device),
    ("manifests", replace_by_link),
    ("blobs", open_to_all),
    ("", give_away),
)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.sh"
    path.write_text("echo hello")
    return path


@pytest.mark.parametrize(("name", "harm"), HARMS)
def test_run_refuses_a_store_that_others_decide_on(
    commands: Commands, store: ImageStore, hello: Path, name: str, harm: Harm
) -> None:
    path = store.root / name
    if name == "tsc-khz":
        path.touch()
    said = harm(path)

    ended = commands("vmm-run", "--machine", "qemu", "--store", store.root, hello)

    assert (ended.code, ended.stdout) == (125, b"")
    assert f"{path} {said}" in ended.stderr
    assert "hint:" in ended.stderr
    assert commands.leftovers() == []


@pytest.mark.parametrize(
    "command",
    [
        ("image", "list"),
        ("image", "prune"),
        ("image", "du"),
        ("image", "remove", "bash"),
        ("image", "export", "bash", "/dev/null"),
        ("image", "default", "bash"),
        ("kernel", "list"),
        ("snapshot", "list"),
    ],
)
def test_store_of_another_user_is_refused_by_each_command(
    commands: Commands, store: ImageStore, command: tuple[str, ...]
) -> None:
    before = sorted(path for path in store.root.rglob("*"))
    said = give_away(store.root)

    ended = commands("slipway", *command, "--store", store.root)

    assert (ended.code, ended.stdout) == (125, b"")
    assert f"{store.root} {said}" in ended.stderr
    assert "--store DIR" in ended.stderr
    assert sorted(path for path in store.root.rglob("*")) == before


def test_doctor_says_that_the_store_is_another_users(commands: Commands, store: ImageStore) -> None:
    said = give_away(store.root)

    ended = commands("slipway", "doctor", "--store", store.root)

    assert ended.code == 1
    assert said in " ".join(ended.stdout.decode().split())
