"""Files in memory that nobody can change."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway._util.errors import HostError
from slipway.machine import memory_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 64 * mmap.PAGESIZE


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = memory_files.create("test", SIZE)
    yield descriptor
    os.close(descriptor)


def test_new_file_is_one_hole(file: int) -> None:
    assert os.fstat(file).st_size == SIZE
    assert memory_files.is_empty(file)
    assert not memory_files.is_sealed(file)


def test_sealed_file_cannot_be_changed_by_any_way(file: int) -> None:
    os.pwrite(file, b"before", 0)

    memory_files.seal(file)

    again = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    try:
        for change in (
            lambda: os.pwrite(again, b"after", 0),
            lambda: os.ftruncate(again, 0),
            lambda: os.ftruncate(again, 2 * SIZE),
            lambda: mmap.mmap(again, SIZE),
        ):
            with pytest.raises(PermissionError):
                change()
        with mmap.mmap(again, SIZE, mmap.MAP_PRIVATE) as mine:
            mine[:5] = b"after"
    finally:
        os.close(again)
    assert os.pread(file, 6, 0) == b"before"
    assert memory_files.is_sealed(file)


def test_file_that_somebody_may_write_to_is_not_sealed(file: int) -> None:
    with mmap.mmap(file, SIZE), pytest.raises(HostError, match="sealed"):
        memory_files.seal(file)


@pytest.mark.parametrize("pages", [[], [0], [63], [3, 4, 40], range(64)])
def test_copy_is_sealed_and_has_the_same_holes(tmp_path: Path, pages: list[int]) -> None:
    path = tmp_path / "memory"
    with path.open("wb") as stored:
        stored.truncate(SIZE)
        for page in pages:
            stored.seek(page * mmap.PAGESIZE)
            stored.write(os.urandom(mmap.PAGESIZE))

    with path.open("rb") as stored:
        copy = memory_files.copy_sealed("copy", stored.fileno())

    try:
        assert os.pread(copy, 2 * SIZE, 0) == path.read_bytes()
        assert os.fstat(copy).st_blocks * 512 == len(pages) * mmap.PAGESIZE
        assert memory_files.is_sealed(copy)
    finally:
        os.close(copy)


def test_file_that_is_opened_again_has_an_offset_of_its_own(file: int) -> None:
    os.write(file, b"state")

    again = memory_files.reopen(file)

    assert os.read(again, 5) == b"state"
    os.close(again)


def test_file_that_is_not_there_is_told() -> None:
    with pytest.raises(HostError, match="opened again"):
        memory_files.reopen(1_000_000)
    assert not memory_files.is_sealed(1_000_000)


def test_copy_that_has_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "memory"
    path.write_bytes(b"x" * SIZE)
    monkeypatch.setattr(os, "sendfile", no_room)
    before = psutil.Process().num_fds()

    with path.open("rb") as stored, pytest.raises(HostError, match="No space left"):
        memory_files.copy_sealed("copy", stored.fileno())

    assert psutil.Process().num_fds() == before
