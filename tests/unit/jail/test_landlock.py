"""Landlock, tried in a process that restricts itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from slipway._util.libc import libc

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import errno, json, os, socket, sys
from slipway.jail import landlock, privileges

directory, outside, port, name, connects = sys.argv[1:]
privileges.set_parent_death_signal(os.getppid())
assert landlock.restrict_to_reading([directory, "/missing"], connects=connects == "yes")

def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""

def connect(family, address):
    with socket.socket(family) as client:
        client.connect(address)

def bind(family, address):
    with socket.socket(family) as server:
        server.bind(address)

def read(path):
    open(path, "rb").close()

inside = directory + "/inside"
print(json.dumps({
    "read inside": attempt(read, inside),
    "write inside": attempt(os.open, inside, os.O_WRONLY),
    "truncate inside": attempt(os.truncate, inside, 0),
    "create inside": attempt(os.mkdir, directory + "/new"),
    "remove inside": attempt(os.unlink, inside),
    "read outside": attempt(read, outside),
    "execute inside": attempt(os.execv, inside, ["inside"]),
    "bind": attempt(bind, socket.AF_INET, ("127.0.0.1", 0)),
    "connect": attempt(connect, socket.AF_INET, ("127.0.0.1", int(port))),
    "connect by abstract name": attempt(connect, socket.AF_UNIX, "\\0" + name),
    "signal": attempt(os.kill, os.getppid(), 0),
}))
"""
# The first versions of the interface that refuse more than files (landlock(7)).
TRUNCATE, NETWORK, SCOPE = 3, 4, 6


def find_version() -> int:
    """Return the version of the host's Landlock; 0 or less without one."""
    return int(libc.syscall(444, None, 0, 1))


@pytest.mark.skipif(find_version() < 1, reason="this kernel has no Landlock")
@pytest.mark.parametrize("connects", [False, True])
def test_restricted_process_only_reads_its_directories(tmp_path: Path, *, connects: bool) -> None:
    directory, outside = tmp_path / "directory", tmp_path / "outside"
    directory.mkdir()
    for path in (directory / "inside", outside):
        path.write_text("#!/bin/true\n")
        path.chmod(0o777)
    version = find_version()
    name = f"slipway-test-{os.getpid()}"

    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        words = (directory, outside, tcp.getsockname()[1], name, "yes" if connects else "no")
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    assert json.loads(ended.stdout) == {
        "read inside": "",
        "write inside": "EACCES",
        "truncate inside": "EACCES" if version >= TRUNCATE else "",
        "create inside": "EACCES",
        "remove inside": "EACCES",
        "read outside": "EACCES",
        "execute inside": "EACCES",
        "bind": "EACCES" if version >= NETWORK else "",
        "connect": "EACCES" if version >= NETWORK and not connects else "",
        "connect by abstract name": "EPERM" if version >= SCOPE else "",
        "signal": "EPERM" if version >= SCOPE else "",
    }
