from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.bytecode import MAGIC, compile_all, find_interpreter
from slipway_initramfs.rootfs.tree import Tree
from support.waiting import block_until

if TYPE_CHECKING:
    from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = f"cpython-{VERSION.replace('.', '')}"
SOURCE = b"NAMES = {'a', 'b', 'c', 'd'}\ndef f(x): return x in {'p', 'q', 'r', 's', 't'}\n"

pytestmark = pytest.mark.skipif(VERSION not in MAGIC, reason="a Python of no image's version")


def sample() -> Tree:
    tree = Tree()
    tree.add_file(f"usr/lib/python{VERSION}/module.py", SOURCE)
    tree.add_file(f"usr/lib/python{VERSION}/broken.py", b"def (:\n")
    tree.add_file(f"usr/lib/python{VERSION}/package/__init__.py", b"")
    tree.add_file("usr/share/other.py", b"x = 1\n")
    return tree


def compile_tree(tree: Tree) -> dict[str, bytes]:
    interpreter = find_interpreter(VERSION)
    assert interpreter is not None
    compile_all(tree, interpreter, VERSION)
    return {path: node.read(1 << 20) for path, node in tree.walk() if path.endswith(".pyc")}


def test_modules_that_compile_get_their_bytecode() -> None:
    prefix = f"usr/lib/python{VERSION}"

    assert set(compile_tree(sample())) == {
        f"{prefix}/__pycache__/module.{TAG}.pyc",
        f"{prefix}/package/__pycache__/__init__.{TAG}.pyc",
    }


def test_the_same_sources_give_the_same_bytes() -> None:
    assert compile_tree(sample()) == compile_tree(sample())


def test_the_interpreter_loads_the_file_without_looking_at_the_source(tmp_path: Path) -> None:
    data = compile_tree(sample())[f"usr/lib/python{VERSION}/__pycache__/module.{TAG}.pyc"]
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    (cache / f"module.{TAG}.pyc").write_bytes(data)
    source = tmp_path / "module.py"
    source.write_text("raise SystemExit('the source was run')\n")

    spec = importlib.util.spec_from_file_location("module", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.f("q")


def test_wheel_runs_by_the_bytecode_in_it(tmp_path: Path) -> None:
    wheel = tmp_path / "tool.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tool/__init__.py", "")
        archive.writestr("tool/__main__.py", "print(__spec__.cached or __file__)")
        archive.writestr("tool/data.txt", "text")
    tree = Tree()
    tree.add_file("usr/share/tool.whl", wheel.read_bytes())
    compile_tree(tree)
    node = tree.find("usr/share/tool.whl")
    assert node is not None
    wheel.write_bytes(node.read(1 << 20))

    ran = subprocess.run(
        [sys.executable, "-c", "import runpy; runpy.run_module('tool')"],
        env={"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.strip().endswith("tool.whl/tool/__main__.pyc")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("tool/data.txt") == b"text"
        assert archive.read("tool/__main__.py")


def test_same_wheel_gives_the_same_bytes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tool.whl", "w") as archive:
        archive.writestr("tool.py", SOURCE)
    results = []
    for _ in range(2):
        tree = Tree()
        tree.add_file("tool.whl", (tmp_path / "tool.whl").read_bytes())
        compile_tree(tree)
        node = tree.find("tool.whl")
        assert node is not None
        results.append(node.read(1 << 20))

    assert results[0] == results[1]


def test_an_interpreter_of_another_version_is_refused() -> None:
    other = next(version for version in MAGIC if version != VERSION)
    tree = Tree()
    tree.add_file(f"usr/lib/python{other}/module.py", b"")

    with pytest.raises(ImageError, match="bytecode has version"):
        compile_all(tree, sys.executable, other)


@pytest.mark.parametrize("script", ["exit 127", "echo Python 2.7.18", "echo something"])
def test_a_shim_without_an_interpreter_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    other = next(version for version in MAGIC if version != VERSION)
    shim = tmp_path / f"python{other}"
    shim.write_text(f"#!/bin/sh\n{script}\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    assert find_interpreter(other) is None


def find_groups() -> set[int]:
    """Return the process groups of all processes that have not ended."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(os.getpgid(process.pid))
    return found


def test_interpreter_that_hangs_ends_with_the_wait_for_it(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text(
        f"#!/bin/sh\ntrap '' TERM\necho $$ >>{tmp_path / 'started'}\n"
        "kill -USR1 $PPID\nwhile :; do sleep 1000; done\n"
    )
    interpreter.chmod(0o755)

    def interrupt(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            compile_all(sample(), str(interpreter), VERSION)
    finally:
        signal.signal(signal.SIGUSR1, previous)

    groups = set(map(int, (tmp_path / "started").read_text().split()))
    block_until(lambda: not (groups & find_groups()), "the interpreters' groups have ended")
