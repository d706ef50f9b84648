"""The files that ``slipway run --file`` names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slipway._cli.run_inputs import read_input_files
from slipway._model.bounds import MAX_FILES
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a tree of files."""
    for name in ("tree/b", "tree/a/deep/file", "tree/.hidden", "single"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "tree/b").chmod(0o750)
    (tmp_path / "tree/empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "prefix"),
    [("tree", "tree/"), ("tree/", "tree/"), ("./tree", "tree/"), ("tree:x/y", "x/y/")],
)
def test_directory_stands_for_its_files(wanted: str, prefix: str) -> None:
    files = read_input_files([wanted])

    assert [file.path for file in files] == [
        f"{prefix}{name}" for name in (".hidden", "a/deep/file", "b")
    ]
    assert files[1].data == b"tree/a/deep/file"
    assert files[2].mode == 0o750


def test_files_go_to_the_top_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    named = read_input_files(["tree:."])
    monkeypatch.chdir("tree")

    assert named == read_input_files(["."])
    assert [file.path for file in named] == [".hidden", "a/deep/file", "b"]


def test_file_keeps_its_name_without_the_dot() -> None:
    assert [file.path for file in read_input_files(["./single", "single:./x"])] == ["single", "./x"]


def test_link_that_stays_inside_is_the_file(here: Path) -> None:
    (here / "tree/link").symlink_to("a/deep/file")
    (here / "other").symlink_to("tree")

    assert [file.data for file in read_input_files(["tree"])][-1] == b"tree/a/deep/file"
    assert len(read_input_files(["other"])) == 4


@pytest.mark.parametrize("target", ["../single", "/etc/passwd", "missing", "a", "link", "."])
def test_link_to_anything_else_is_refused(here: Path, target: str) -> None:
    (here / "tree/link").symlink_to(target)

    with pytest.raises(InputError, match="tree/link is a link to ") as refusal:
        read_input_files(["tree"])

    assert "--file" in refusal.value.hint


def test_file_that_goes_while_it_is_read_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_and_remove(path: Path, *_: object) -> bytes:
        path.unlink()
        return b""

    monkeypatch.setattr("slipway._cli.run_inputs.read_local_file", read_and_remove)

    with pytest.raises(InputError, match="cannot read single: No such file"):
        read_input_files(["single"])


def test_link_whose_target_cannot_be_looked_at_is_told(here: Path) -> None:
    (here / "tree/link").symlink_to("x" * 300)

    with pytest.raises(InputError, match="tree/link"):
        read_input_files(["tree"])


def test_what_is_no_file_is_refused(here: Path) -> None:
    os.mkfifo(here / "tree/fifo")

    with pytest.raises(InputError, match="tree/fifo is neither a file nor a directory"):
        read_input_files(["tree"])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("tree/empty", "is an empty directory"),
        ("missing", "No such file"),
        ("..", "lies outside the working directory"),
        ("/", "lies outside the working directory"),
        ("n" * 300, "too long"),
        (":x", "missing name in --file"),
    ],
)
def test_wrong_name_is_told(wanted: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_input_files([wanted])


def test_walk_ends_where_files_are_too_many(here: Path) -> None:
    for number in range(MAX_FILES):
        (here / f"tree/empty/{number}").touch()

    with pytest.raises(InputError, match=f"more than {MAX_FILES} files") as refusal:
        read_input_files(["tree"])

    assert "archive" in refusal.value.hint


@pytest.mark.parametrize("source", ["tree/b", "./tree/../tree/b"])
def test_source_is_left_out_of_its_directory_alone(source: str) -> None:
    files = read_input_files(["tree", "tree/b:data"], source)

    assert [file.path for file in files] == ["tree/.hidden", "tree/a/deep/file", "data"]


@pytest.mark.parametrize("source", [None, "-", "missing", "nul\0"])
def test_source_that_is_elsewhere_leaves_nothing_out(source: str | None) -> None:
    assert len(read_input_files(["tree"], source)) == 3
