"""Host files as a part of the initramfs, for runs without a shared file system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from lab.job import ROOT
from slipway_initramfs.disk.spool import CHUNK, Extent, Spool
from slipway_initramfs.rootfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UNNEEDED = (
    "**/{test,tests,idlelib,tkinter,turtledemo,ensurepip,lib2to3,pydoc_data,config-3*}",
    "**/site-packages/{*mypyc*,mypy*,ruff*,hypothesis*,pip*,setuptools*,_pytest*,pygments*}",
    "**/bin/ruff",
)
"""What Python has that no benchmark needs."""
_LIBRARY = re.compile(r"^\t(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_LDD_BATCH = 100
_SYSTEM = ("bin", "lib", "lib64", "sbin", "usr")
_ELF = b"\x7fELF"


class HostFiles:
    """Tree with copies of files at their own paths, and the libraries of its programs."""

    def __init__(self) -> None:
        self.tree = Tree()
        self._spool = Spool()
        self._programs: list[Path] = []
        self._known: set[Path] = set()

    def add(self, path: Path) -> None:
        """Add a file, or a directory with its content.

        Symbolic links are kept, and their targets are added.

        Raises:
            OSError: a file is missing or cannot be read.
        """
        real = self._resolve(path.absolute())
        if not real.is_dir():
            self._copy(real)
            return
        for directory, below, names in os.walk(real):
            here = Path(directory)
            self.tree.add_directory(_inside(here), here.stat().st_mode & 0o7777)
            for name in names:
                self._copy(here / name)
            for name in below:
                if (here / name).is_symlink():
                    self._link(here / name)

    def add_libraries(self) -> None:
        """Add the libraries that the loader loads for the programs and libraries of the tree."""
        for begin in range(0, len(self._programs), _LDD_BATCH):
            batch = self._programs[begin : begin + _LDD_BATCH]
            # It fails for static ones, which need nothing.
            ended = subprocess.run(
                ["ldd", *batch], capture_output=True, text=True, errors="replace", check=False
            )
            for name in sorted(set(_LIBRARY.findall(ended.stdout))):
                self._copy(self._resolve(Path(name)))
        self._programs.clear()

    def _resolve(self, path: Path) -> Path:
        """Return the real path; add every symbolic link on the way."""
        here = Path("/")
        for part in Path(os.path.normpath(path)).parts[1:]:
            step = here / part
            if step.is_symlink():
                self._link(step)
                here = self._resolve(here / step.readlink())
            else:
                here = step
        return here

    def _link(self, path: Path) -> None:
        self.tree.add_symlink(_inside(path), os.fspath(path.readlink()))

    def _copy(self, path: Path) -> None:
        if path in self._known:
            return
        self._known.add(path)
        if path.is_symlink():
            real = self._resolve(path)
            if real.is_file():
                self._copy(real)
            return
        begin = self._spool.size
        with path.open("rb", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode & 0o7777
            while data := file.read(CHUNK):
                if self._spool.size == begin and data.startswith(_ELF):
                    self._programs.append(path)
                self._spool.append(data)
        content = Extent(self._spool, begin, self._spool.size - begin)
        self.tree.add_file(_inside(path), content, mode)


def build_host_files(
    paths: Iterable[Path], exclude: Sequence[str] = (), *, native: bool = True
) -> Tree:
    """Return a tree with these files and directories, and the libraries of their programs.

    ``exclude`` are globs as for :meth:`Tree.remove`, of paths without the leading slash. If not
    ``native``, the host's programs are of no use: those that links lead to are left out.
    """
    files = HostFiles()
    for path in paths:
        files.add(path)
    files.tree.remove(f"{ROOT}/{glob}" for glob in exclude)
    if native:
        files.add_libraries()
    else:
        files.tree.remove([f"{ROOT}/{{{','.join(_SYSTEM)}}}"])
    return files.tree


def list_python_paths(project: Path, *, native: bool = True) -> list[Path]:
    """Return the paths of this Python, its environment and the project's packages.

    If not ``native``, L1 has a Python of its own.
    """
    standard = Path(sysconfig.get_path("stdlib"))
    interpreter = Path(sys.executable)
    packages = [project / name for name in ("protocol", "agent", "initramfs", "host", "bench")]
    own = [interpreter, standard] if native else []
    found = [*own, Path(sys.prefix), *packages]
    return [path for path in found if path.exists()]


def _inside(path: Path) -> str:
    return f"{ROOT}{path}"
