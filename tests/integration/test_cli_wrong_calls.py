"""Wrong calls: one sentence, exit code 2, and nothing was started."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from support.commands import Commands

if TYPE_CHECKING:
    from support.commands import Ended

pytestmark = pytest.mark.usefixtures("bash")

# The architecture that this host has not.
(FOREIGN,) = {"amd64", "arm64"} - {machine_architecture()}

SOURCES = {
    "good.sh": b"echo hello",
    "good.weird": b"echo hello",
    "good.pyy": b"print()",
    "no_suffix": b"echo hello",
    "long.sh": b"#" * 10_000_000,
    "beside": b"data",
    # As Debian calls them: arm64's Image, and a bzImage.
    "image-arm64": bytes(0x38) + b"ARM\x64" + bytes(0x200),
    "image-amd64": bytes(0x202) + b"HdrS",
    "packed": b"\x1f\x8b\x08" + bytes(range(200)),
    # Their headers name bytes behind the end of the file.
    "cut-arm64": bytes(0x38) + b"ARM\x64" + struct.pack("<I", 0x1000),
    "cut-amd64": struct.pack("<514x4sH46xH16xII", b"HdrS", 0x20F, 1, 0, 1000),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with sources of all kinds."""
    directory = tmp_path / "here"
    (directory / "directory.sh").mkdir(parents=True)
    (directory / "sub dir").mkdir()
    for name, content in SOURCES.items():
        (directory / name).write_bytes(content)
    (tmp_path / "above").write_bytes(b"data")
    with (directory / "large").open("wb") as file:
        file.truncate(240 << 20)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears when anything called QEMU is started."""
    touched = tmp_path / "qemu-was-started"
    programs = tmp_path / "bin"
    programs.mkdir()
    qemu = programs / "qemu-system-x86_64"
    qemu.write_text(f"#!/bin/sh\ntouch {touched}\necho no such board >&2\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return touched


@pytest.fixture
def run(here: Path, tripwire: Path, tmp_path: Path) -> Commands:
    """Runs commands where QEMU is a tripwire."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return Commands(temporary)


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2
    assert ended.stdout == b""
    assert "Traceback" not in ended.stderr
    error, *hint = [line for line in ended.stderr.splitlines() if not line.startswith("usage:")]
    assert "error: " in error
    assert len(hint) <= 1
    for word in words:
        assert word in ended.stderr


def test_tripwire_is_where_qemu_is_looked_for(run: Commands, tripwire: Path) -> None:
    ended = run("vmm-run", "good.sh")

    assert ended.code == 125
    assert "no such board" in ended.stderr
    assert tripwire.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.sh"], ["missing.sh", "No such file"]),
        (["directory.sh"], ["directory.sh", "directory"]),
        (["sub dir/"], ["sub dir/ is a directory", "--file 'sub dir':. 'sub dir'/FILE"]),
        (["long.sh"], ["long.sh", "4 MiB"]),
        (["no_suffix"], ["suffix"]),
        (["good.pyy"], [".pyy", "mean", ".py"]),
        (["good.weird"], [".weird", ".py"]),
        (["-"], ["--language"]),
        (["--language", "pyton", "good.sh"], ["pyton", "mean", "python"]),
        (["--language", "befunge", "good.sh"], ["befunge", "python", "rust"]),
        (["--language", "", "good.sh"], ["language"]),
        (["--machine", "nonsense", "good.sh"], ["nonsense", "qemu"]),
        (["--kernel", "missing", "good.sh"], ["missing"]),
        (["--arch", "mips", "good.sh"], ["mips", "arm64"]),
        (
            ["--arch", FOREIGN, "--machine", "kvm", "good.sh"],
            ["machine kvm", f"not {FOREIGN}", f"Use --machine qemu, which emulates {FOREIGN}"],
        ),
        (
            ["--kernel", f"image-{FOREIGN}", "good.sh"],
            [f"image-{FOREIGN} is for {FOREIGN}", f"--arch {FOREIGN}"],
        ),
        (["--kernel", "good.sh", "good.sh"], ["good.sh is a text file"]),
        (["--arch", "arm64", "--kernel", "packed", "good.sh"], ["packed is compressed", "Image"]),
        (["--arch", "arm64", "--kernel", "cut-arm64", "good.sh"], ["cut-arm64 is cut short"]),
        (["--arch", "amd64", "--kernel", "cut-amd64", "good.sh"], ["cut-amd64 is cut short"]),
        (["--kernel", "k" * 300, "good.sh"], [": no such file"]),
        (["--get", f"a:{'l' * 300}", "good.sh"], ["cannot write", "too long"]),
        (["--get", "a:x", "--get", "b:x", "good.sh"], ["writes two files", "GUEST:LOCAL"]),
        (["--memory", "16", "good.sh"], ["bash", "memory", "16"]),
        (["--memory", "0", "good.sh"], ["memory"]),
        (["--memory", "-5", "good.sh"], ["memory"]),
        (["--memory", "nan", "good.sh"], ["nan"]),
        (["--memory", "99999G", "good.sh"], ["memory"]),
        (["--memory", "much", "good.sh"], ["much"]),
        (["--memory-limit", "9999b", "good.sh"], ["memory-limit is 9999", "at least 4 MiB"]),
        (["--memory-limit", "64G", "good.sh"], ["memory-limit of 65536 MiB", "this host has"]),
        (
            ["--memory-limit", "4G", "--memory", "500", "good.sh"],
            ["memory-limit is 4096 MiB", "memory is 500 MiB", "--memory 4"],
        ),
        (["--file", "large", "good.sh"], ["input files take 240.0 MiB", "--memory"]),
        (["--open-files", "0", "good.sh"], ["open-files"]),
        (["--file-size", "-1", "good.sh"], ["file-size"]),
        (["--build-cpu-time", "0", "good.sh"], ["build-cpu-time"]),
        (["--timeout", "0", "good.sh"], ["timeout"]),
        (["--timeout", "-1", "good.sh"], ["timeout"]),
        (["--timeout", "nan", "good.sh"], ["timeout"]),
        (["--timeout", "inf", "good.sh"], ["timeout"]),
        (["--timeout", "soon", "good.sh"], ["soon"]),
        (["--build-timeout", "0", "good.sh"], ["build"]),
        (["--output-limit", "0", "good.sh"], ["output"]),
        (["--output-limit", "-1K", "good.sh"], ["output"]),
        (["--output-limit", "inf", "good.sh"], ["inf"]),
        (["--cpus", "0", "good.sh"], ["cpus"]),
        (["--cpus", "many", "good.sh"], ["many"]),
        (["--env", "noequals", "good.sh"], ["noequals", "="]),
        (["--env", "=value", "good.sh"], ["name"]),
        (["--file", "missing", "good.sh"], ["missing", "No such file"]),
        (["--file", "directory.sh:x", "good.sh"], ["directory"]),
        (["--file", "../above", "good.sh"], ["../above", "working directory"]),
        (["--file", "beside:../x", "good.sh"], ["../x", "working directory"]),
        (["--file", "beside:/etc/x", "good.sh"], ["/etc/x", "working directory"]),
        (["--file", "beside:a//b", "good.sh"], ["--file has 'a//b'"]),
        (["--file", "beside:", "good.sh"], ["name"]),
        (["--file", ":x", "good.sh"], ["name"]),
        (["--file", "beside:x", "--file", "good.sh:x", "good.sh"], ["'x'"]),
        (["--file", "beside:main.sh", "good.sh"], ["main.sh", "source"]),
        (["--file", "beside:x", "--file", "beside:x/y", "good.sh"], ["directory"]),
        (["--get", "../x", "good.sh"], ["--get has '../x'", "working directory"]),
        (["--get", "x", "--get", "x:y", "good.sh"], ["twice"]),
        (["--get", "x:nowhere/x", "good.sh"], ["nowhere"]),
        (["--get", "x:directory.sh", "good.sh"], ["directory.sh"]),
        (["--nonsense", "good.sh"], ["nonsense"]),
        (["good.sh", "stray"], ["stray", "--"]),
        ([], ["FILE"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_call_of_run(
    run: Commands, tripwire: Path, arguments: list[str], words: list[str]
) -> None:
    ended = run("vmm-run", *arguments)

    assert_refused(ended, *words)
    assert not tripwire.exists()
    assert run.leftovers() == []


def test_endless_source_on_stdin(run: Commands, tripwire: Path) -> None:
    with Path("/dev/zero").open("rb") as zeros:
        ended = run("vmm-run", "--language", "bash", "-", stdin=zeros)

    assert_refused(ended, "bytes")
    assert not tripwire.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate", "run", "image", "doctor"]),
        (["image"], ["COMMAND"]),
        (["image", "frobnicate"], ["frobnicate"]),
        (["image", "build"], ["missing LANGUAGE"]),
        (["image", "build", "pyton"], ["pyton", "python"]),
        (["image", "inspect", "nonsense"], ["nonsense"]),
        (["image", "remove", "nonsense"], ["nonsense"]),
        (["doctor", "--nonsense"], ["nonsense"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_call_of_other_commands(
    run: Commands, arguments: list[str], words: list[str]
) -> None:
    ended = run("slipway", *arguments)

    assert ended.code == 2
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


def test_stdin_that_cannot_be_read_is_no_source(run: Commands, tmp_path: Path) -> None:
    with (tmp_path / "write-only").open("wb") as unreadable:
        ended = run("vmm-run", "-", "--language", "bash", stdin=unreadable)

    assert ended.code == 2
    assert "cannot read the source on stdin" in ended.stderr
