"""Files that a guest boots from, and what else may be in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway import HostError
from slipway.vmm.files import open_files


def list_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_files_are_open_in_their_order_with_their_sizes(tmp_path: Path) -> None:
    paths = []
    for number, content in enumerate((b"first", b"", b"the third")):
        path = tmp_path / str(number)
        path.write_bytes(content)
        paths.append(str(path))

    with open_files(paths) as files:
        contents = [os.pread(descriptor, 100, 0) for descriptor, _ in files]
        sizes = [size for _, size in files]
        inherited = [os.get_inheritable(descriptor) for descriptor, _ in files]

    assert contents == [b"first", b"", b"the third"]
    assert sizes == [5, 0, 9]
    assert not any(inherited)


def test_no_files_are_none() -> None:
    with open_files([]) as files:
        assert files == []


def test_all_are_closed_whatever_happens(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    before = list_descriptors()

    with pytest.raises(ZeroDivisionError), open_files([str(path)] * 3):
        1 / 0  # noqa: B018
    with pytest.raises(HostError), open_files([str(path), str(tmp_path / "none")]):
        pass
    with pytest.raises(HostError), open_files([str(path), str(tmp_path)]):
        pass

    assert list_descriptors() == before


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none")

    with pytest.raises(HostError) as caught, open_files([path]):
        pass

    assert caught.value.message == f"cannot open {path}: No such file or directory"


def test_file_that_is_in_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HostError, match="Not a directory"), open_files([str(tmp_path / "file/x")]):
        pass


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path), "/dev/null", str(tmp_path / "fifo")):
        with pytest.raises(HostError, match=f"{path} is not a file"), open_files([path]):
            pass


def test_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(HostError, match="cannot open"), open_files(["nul\0"]):
        pass
