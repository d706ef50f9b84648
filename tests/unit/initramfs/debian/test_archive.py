from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipway_initramfs.debian import apt as apt_programs
from slipway_initramfs.debian import archive
from slipway_initramfs.debian.archive import DebianArchive, Package
from slipway_initramfs.debian.mirrors import read_sources
from slipway_initramfs.errors import BuildFailed, ImageCorrupted


def sources(directory: Path, **files: str) -> tuple[tuple[str, str], ...]:
    (directory / "sources.list.d").mkdir()
    for name, text in files.items():
        file, _, suffix = name.rpartition("_")
        place = directory if file == "sources" else directory / "sources.list.d"
        (place / f"{file}.{suffix}").write_text(text)
    return read_sources(directory)


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: https://deb.nodesource.com/node_20.x
Suites: nodistro
Components: main
Signed-By: /usr/share/keyrings/nodesource.gpg

Types: deb
URIs: https://packages.example/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/vendor.gpg

Types: deb
Enabled: no
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
"""


def test_of_deb822_sources_only_debians_own_are_taken(tmp_path: Path) -> None:
    assert sources(tmp_path, debian_sources=DEB822) == (
        ("http://mirror.example/debian/", "bookworm"),
        ("http://mirror.example/debian/", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
    )


def test_a_deb822_source_without_suites_is_ignored(tmp_path: Path) -> None:
    damaged = "Types: deb\nURIs: http://damaged.example/debian\nComponents: main\n"

    assert len(sources(tmp_path, debian_sources=f"{damaged}\n{DEB822}")) == 3


def test_only_debians_own_one_line_sources_are_used(tmp_path: Path) -> None:
    text = (
        "deb http://ftp.de.debian.org/debian bookworm main non-free # comment\n"
        "deb [arch=amd64 signed-by=/x/vendor.gpg] https://apt.example/debian bookworm main\n"
        "deb https://download.example/linux/debian bookworm stable\n"
        "deb https://packages.example/php/ bookworm main\n"
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://ftp.de.debian.org/debian bookworm main\n"
    )

    assert sources(tmp_path, sources_list=text) == (
        ("http://ftp.de.debian.org/debian", "bookworm"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb http://deb.debian.org/debian trixie main\n",
        "deb http://archive.ubuntu.com/ubuntu noble main\n",
        "deb http://[broken bookworm main\n",
        'deb http://deb.debian.org/"debian bookworm main\n',
        "\xff\x00 deb\n",
    ],
)
def test_a_machine_without_this_release_falls_back_to_debians_mirror(
    tmp_path: Path, text: str
) -> None:
    assert sources(tmp_path, sources_list=text) == ()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("E: Unable to locate package nosuch", "'nosuch'"),
        ("W: Failed to fetch x  Could not resolve 'deb.debian.org'", "no connection"),
        ("E: Something else", "Something else"),
        ("", "says nothing"),
    ],
)
def test_errors_of_apt_become_a_sentence(output: str, message: str) -> None:
    assert message in apt_programs.make_error("do it", output, "amd64").message


def test_a_line_without_a_digest_is_not_believed() -> None:
    with pytest.raises(BuildFailed, match="SHA-256"):
        archive.parse_uri_line("'http://x/a_1_all.deb' a_1_all.deb 100 MD5Sum:00")


def test_epochs_and_tildes_in_versions_are_read() -> None:
    line = f"'http://x/a' libc++-x_2%3a1.0%7erc1-1_amd64.deb 100 SHA256:{'a' * 64}"

    package = archive.parse_uri_line(line)

    assert (package.name, package.version) == ("libc++-x", "2:1.0~rc1-1")


def test_an_unknown_architecture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="m68k"):
        DebianArchive(tmp_path, "m68k", print)


def test_without_apt_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BuildFailed, match="no apt-get") as caught:
        DebianArchive(tmp_path, "amd64", print).resolve(["bash"])

    assert "apt" in caught.value.hint


def test_a_damaged_download_is_removed(tmp_path: Path) -> None:
    source = DebianArchive(tmp_path, "amd64", print)
    package = Package("a", "1", "all", "http://x/a", 5, "0" * 64)
    source.path(package).parent.mkdir()
    source.path(package).write_bytes(b"wrong")

    with pytest.raises(ImageCorrupted):
        source.open(package)

    assert not source.path(package).exists()


@pytest.mark.debian("apt-get")
def test_without_a_network_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 of the loopback interface: refused at once, here and everywhere.
    monkeypatch.setattr(
        apt_programs, "read_sources", lambda _: (("http://127.0.0.1:9/debian", "bookworm"),)
    )
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)

    with pytest.raises(BuildFailed, match="no connection"):
        DebianArchive(tmp_path, "amd64", lambda _: None).resolve(["bash"])


def test_a_child_dies_with_the_process_that_started_it() -> None:
    code = (
        "import functools, os, subprocess, signal\n"
        "from slipway_initramfs.child_process import set_parent_death_signal\n"
        "prepare = functools.partial(set_parent_death_signal, os.getpid())\n"
        "child = subprocess.Popen(['sleep', '600'], preexec_fn=prepare)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    pid = int(done.stdout)
    # The kernel sends the signal while it ends the parent; a zombie has been killed already.
    descriptor = None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    assert select.select([descriptor], [], [], 30)[0] == [descriptor]
    os.close(descriptor)


@pytest.mark.debian("apt-get")
def test_remains_of_a_killed_apt_are_removed_by_the_next(tmp_path: Path) -> None:
    first = apt_programs.Apt(tmp_path, "amd64", print)
    first.prepare()
    left = first.ask("mktemp", purpose="leave a file").strip()
    second = apt_programs.Apt(tmp_path, "amd64", print)

    assert Path(left).is_relative_to(tmp_path)
    assert Path(left).exists()
    second.prepare()
    assert not Path(left).exists()
