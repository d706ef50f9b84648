"""Frozen agent: content of the archive, reproducible bytes, and imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs import freeze
from slipway_initramfs.architectures import machine_architecture
from support.newc import unpack
from support.stores import writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore

pytestmark = [
    pytest.mark.debian("apt-get"),
    pytest.mark.timeout(600),
]

TESTS = Path(__file__).parents[1]
# e_machine of the ELF header (System V ABI, and its supplements for AMD64 and AArch64).
MACHINES = {"amd64": 62, "arm64": 183}
SELF_TEST = """
import marshal, sys
with open(sys.argv[1] + "/agent.pyc", "rb") as file:
    code = marshal.loads(file.read()[16:])
names = {"__name__": "loader"}
exec(code, names)
names["install"]()
import slipway_agent.boot
light = sorted(sys.modules)
from slipway_protocol.connection import Connection
from slipway_protocol import messages as m
data = Connection.host().send(m.Hello(1, ("x",), 2, b"\\xdb\\xc0"))
assert Connection.agent().receive(data) == [m.Hello(1, ("x",), 2, b"\\xdb\\xc0")]
import psutil, serial, traceback
assert psutil.Process().children(recursive=True) == []
assert serial.Serial.__name__ == "Serial" and traceback.format_exc()
import os
if os.fork() == 0:
    os._exit(3)
assert os.waitstatus_to_exitcode(os.wait4(-1, 0)[1]) == 3
print(*light)
"""
# Slow modules, and a module for type checkers only; the start must not import them.
HEAVY = {
    "argparse",
    "ctypes",
    "inspect",
    "pathlib",
    "psutil",
    "serial",
    "slipway_agent.job_environment",
    "subprocess",
    "tokenize",
}


@pytest.fixture(scope="session")
def store(new_store: Callable[[], ImageStore]) -> ImageStore:
    return new_store()


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_every_program_and_library_is_of_the_architecture(
    store: ImageStore, progress: Callable[[str], None], architecture: str
) -> None:
    agent = freeze.freeze_agent(store, architecture, progress)
    entries = unpack(agent.path.read_bytes())

    programs = {name: data for name, (_, data) in entries.items() if data.startswith(b"\x7fELF")}
    assert {name.rpartition("/")[2] for name in programs} >= {"python3", "libc.so.6", "_ctypes.so"}
    machines = {name: int.from_bytes(data[18:20], "little") for name, data in programs.items()}
    assert set(machines.values()) == {MACHINES[architecture]}
    assert f"/.agent/lib/{freeze.loader_name(architecture)}" in agent.kernel_arguments
    assert f".agent/lib/{freeze.loader_name(architecture)}" in programs
    assert entries["dev/console"][0] == 0o020666
    assert entries[".agent"][0] == 0o040700


def test_loader_ignores_the_libraries_of_the_image(
    store: ImageStore, progress: Callable[[str], None]
) -> None:
    entries = unpack(freeze.freeze_agent(store, "amd64", progress).path.read_bytes())

    assert b"/etc/ld.so" not in entries[".agent/lib/ld-linux-x86-64.so.2"][1]


def test_same_sources_give_the_same_bytes(
    store: ImageStore, new_store: Callable[[], ImageStore], progress: Callable[[str], None]
) -> None:
    first = freeze.freeze_agent(store, "amd64", progress)
    other = freeze.freeze_agent(new_store(), "amd64", progress)

    assert first.digest == other.digest


def test_unchanged_sources_make_no_new_archive(
    store: ImageStore, progress: Callable[[str], None]
) -> None:
    first = freeze.freeze_agent(store, "amd64", progress)
    said: list[str] = []

    assert freeze.freeze_agent(store, "amd64", said.append) == first
    assert said == []


def test_archives_of_older_sources_are_forgotten(
    new_store: Callable[[], ImageStore], progress: Callable[[str], None]
) -> None:
    store = new_store()
    names = store.root / "refs" / f"archive-{freeze.KIND}"
    for name in ("amd64-old", "amd64-new", "arm64-old"):
        store.put_archive(freeze.KIND, name, writer(name.encode()))
        if name.endswith("old"):
            os.utime(names / name, (0, 0))

    freeze.freeze_agent(store, "amd64", progress)

    left = {path.name for path in names.iterdir()}
    assert {"amd64-new", "arm64-old"} < left
    assert "amd64-old" not in left


@pytest.mark.skipif(machine_architecture() != "amd64", reason="the tree is for x86-64")
def test_the_frozen_tree_imports_all_needed_modules(
    store: ImageStore, progress: Callable[[str], None], tmp_path: Path
) -> None:
    for name, (mode, data) in unpack(
        freeze.freeze_agent(store, "amd64", progress).path.read_bytes()
    ).items():
        path = tmp_path / name
        if mode & 0o170000 == 0o040000:
            path.mkdir()
        elif mode & 0o170000 == 0o100000:
            path.write_bytes(data)
            path.chmod(mode & 0o777)
    root = tmp_path / ".agent"

    loader = [str(root / "lib" / freeze.loader_name("amd64")), "--inhibit-cache", "--library-path"]
    python = [str(root / "lib"), str(root / "bin" / "python3"), *freeze.PYTHON_OPTIONS.split()]

    done = subprocess.run(
        [*loader, *python, "-c", SELF_TEST, str(root)],
        capture_output=True,
        text=True,
        env={},
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert HEAVY.isdisjoint(done.stdout.split())


def test_protocol_on_the_stand_ins_passes_its_tests() -> None:
    names = ["codec", "connection", "corpus", "flow", "framing"]
    files = [f"unit/protocol/test_protocol_{name}.py" for name in names]

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "support.slim",
            "-p",
            "no:cacheprovider",
            *files,
        ],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:]
