"""Bytecode files of Python, compiled during the build: they save a guest a second at each start.

An interpreter of this machine with the image's version compiles them; the image's own interpreter
is never run. The files are of the unchecked kind (PEP 552): they hold no times, and the guest does
not compare them with the sources.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import struct
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING

from slipway_initramfs.child_process import Hung, Supervision, run_program
from slipway_initramfs.errors import ImageError

if TYPE_CHECKING:
    from slipway_initramfs.rootfs.tree import Tree

# Version of the bytecode by Python version (Lib/importlib/_bootstrap_external.py).
MAGIC = {"3.11": 3495, "3.12": 3531, "3.13": 3571}
MAX_SOURCE = 8 << 20
MAX_WHEEL = 64 << 20
_PARTS = 2
# Seconds. The library of CPython takes five.
_SECONDS = 600.0
_VERSION_SECONDS = 20.0
_MAX_BYTECODE = 256 << 20

# Program for the compiling interpreter: stdin is a list of [path, source], stdout a list
# of [path, bytecode], both as lines of JSON with the bytes as Latin-1.
_WORKER = """
import importlib.util, json, marshal, sys, warnings
warnings.simplefilter("ignore")
sys.stdout.reconfigure(encoding="ascii", newline="\\n")
print(int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little"))
for line in sys.stdin:
    path, text = json.loads(line)
    source = text.encode("latin-1")
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=-1)
    except (SyntaxError, ValueError, RecursionError):
        continue
    data = importlib.util.source_hash(source) + marshal.dumps(code)
    print(json.dumps([path, data.decode("latin-1")]))
"""


def find_interpreter(version: str) -> str | None:
    """Return a Python of this machine that compiles for ``version`` ("3.11"), or None.

    Found programs are tried: a version manager may have a shim for a missing version.
    """
    wanted = tuple(int(part) for part in version.split("."))
    if sys.version_info[:2] == wanted and sys.implementation.name == "cpython":
        return sys.executable
    path = shutil.which(f"python{version}")
    if path is None or not read_full_version(path).startswith(f"{version}."):
        return None
    return path


def read_full_version(interpreter: str) -> str:
    """Return the full version ("3.11.2") that an interpreter reports, or an empty string."""
    if interpreter == sys.executable:
        return platform.python_version()
    try:
        done = run_program([interpreter, "-V"], os.environ, Supervision(_VERSION_SECONDS))
    except (Hung, OSError):
        return ""
    name, _, version = done.stdout.strip().partition(" ")
    return version if done.code == 0 and name == "Python" else ""


def compile_all(tree: Tree, interpreter: str, version: str) -> int:
    """Add a bytecode file for each module of the library directories; return their number.

    Modules in a wheel, which can be run without being unpacked, get their bytecode there.

    Raises:
        ImageError: the interpreter fails, or compiles for another version.
    """
    sources = [
        (path, node.read(MAX_SOURCE))
        for path, node in tree.walk()
        if path.endswith(".py") and node.is_file and "/python3" in path
    ]
    tag = f"cpython-{version.replace('.', '')}"
    compiled = _compile_sources(sources, interpreter, version)
    for path, data in compiled:
        folder, _, name = path.rpartition("/")
        tree.add_file(f"{folder}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc", data)
    wheels = [path for path, _ in tree.walk() if path.endswith(".whl")]
    return len(compiled) + sum(_compile_wheel(tree, path, interpreter, version) for path in wheels)


def _compile_wheel(tree: Tree, path: str, interpreter: str, version: str) -> int:
    """Add bytecode beside each module of the wheel at ``path``, where zipimport looks first."""
    node = tree.find(path)
    if node is None or not node.is_file:
        return 0
    output = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(node.read(MAX_WHEEL))) as wheel,
        zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as completed,
    ):
        members = [(info.filename, wheel.read(info)) for info in wheel.infolist()]
        sources = [(f"{path}/{name}", data) for name, data in members if name.endswith(".py")]
        compiled = _compile_sources(sources, interpreter, version)
        members += [(f"{name[len(path) + 1 :]}c", data) for name, data in compiled]
        for name, data in members:
            # Without the time of the build, which ZipFile would write.
            completed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    tree.add_file(path, output.getvalue())
    return len(compiled)


def _compile_sources(
    sources: list[tuple[str, bytes]], interpreter: str, version: str
) -> list[tuple[str, bytes]]:
    """Return path and bytecode file of each source that compiles."""
    # The same parts on every machine: marshalled data depends a little on earlier compilations of
    # the same process (shared strings).
    interruption = Event()
    with ThreadPoolExecutor(_PARTS) as pool, ExitStack() as on_error:
        # The executor waits for its threads, and a program that hangs would keep them.
        on_error.callback(interruption.set)
        results = pool.map(
            lambda part: _compile_part(interpreter, sources[part::_PARTS], version, interruption),
            range(_PARTS),
        )
        compiled = [entry for result in results for entry in result]
        on_error.pop_all()
    header = struct.pack("<HHI", MAGIC[version], 0x0A0D, 1)
    return [(path, header + data) for path, data in compiled]


def _compile_part(
    interpreter: str, sources: list[tuple[str, bytes]], version: str, interruption: Event
) -> list[tuple[str, bytes]]:
    def check_interruption() -> None:
        if interruption.is_set():
            raise ImageError("compiling Python's modules was interrupted")

    # Sets in constants are written in the order of their hashes; the interpreter's options that
    # shut the user's environment out would shut this variable out as well.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONHASHSEED"] = "0"
    lines = (json.dumps([f"/{path}", data.decode("latin-1")]) for path, data in sources)
    command = [interpreter, "-S", "-s", "-c", _WORKER]
    # The output comes at the end only.
    supervision = Supervision(
        _SECONDS, _SECONDS, watch=check_interruption, output_bytes=_MAX_BYTECODE
    )
    try:
        done = run_program(command, environment, supervision, stdin="\n".join(lines).encode())
    except Hung as error:
        raise ImageError(f"compiling Python's modules failed: {interpreter} {error}") from None
    if done.code:
        raise ImageError(f"compiling Python's modules failed: {done.stderr.strip()[-200:]}")
    magic, *rest = done.stdout.splitlines()
    if magic != str(MAGIC[version]):
        raise ImageError(f"{interpreter} is not Python {version}: its bytecode has version {magic}")
    return [(path[1:], data.encode("latin-1")) for path, data in map(json.loads, rest)]
