"""Directories of builds: removed after success, failure and the death of a build."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slipway_initramfs.disk import build_directories

# Makes a directory with a file, and stays in it until its stdin ends; "kill" ends it at once.
BUILD = """
import os, signal, sys
from pathlib import Path
from slipway_initramfs.disk import build_directories
with build_directories.make_directory(Path(sys.argv[1])) as place:
    (place.path / "object.o").write_bytes(bytes(50_000))
    print(place.path.parent, flush=True)
    if sys.stdin.readline() == "kill\\n":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let root's directories be made in the test's own directory, too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def start(tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    build = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert build.stdout is not None
    return build, Path(build.stdout.readline().strip())


def end(build: subprocess.Popen[str], word: str) -> int:
    build.communicate(f"{word}\n", timeout=60)
    return build.returncode


def test_the_directory_of_an_ended_build_is_gone(tmp_path: Path) -> None:
    with build_directories.make_directory(tmp_path) as place:
        (place.path / "file").touch()

    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_killed_build_is_swept(tmp_path: Path) -> None:
    build, directory = start(tmp_path)
    assert end(build, "kill") == -signal.SIGKILL
    assert directory.exists()

    freed = build_directories.sweep(tmp_path)

    assert freed >= 50_000
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_running_build_stays(tmp_path: Path) -> None:
    build, directory = start(tmp_path)

    assert build_directories.sweep(tmp_path) == 0

    assert [path.name for path in directory.iterdir()] == ["build"]
    assert end(build, "go on") == 0
    assert list(tmp_path.iterdir()) == []


def test_links_and_other_names_are_not_swept(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "slipway-build-link").symlink_to("other")
    (tmp_path / "slipway-build-file").touch()

    assert build_directories.sweep(tmp_path) == 0

    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has others' rights to give")
def test_a_build_of_root_belongs_to_a_user_without_rights(tmp_path: Path) -> None:
    with build_directories.make_directory(tmp_path) as place:
        owner = place.path.stat().st_uid
        outer = place.path.parent.stat()

    assert place.user == owner == build_directories.NOBODY
    assert (outer.st_uid, outer.st_mode & 0o777) == (0, 0o711)
