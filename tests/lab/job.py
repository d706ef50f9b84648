"""Part of the initramfs for one run: the command of L1, and the parts of its root."""

from __future__ import annotations

import io
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = "root"
"""The directory of the initramfs that the command sees as its root."""
COMMAND = "run/lab/command"
OUT = "lab-out"
# 128 descriptors of a page, less some for the header, are what one request can have.
_9P = "trans=virtio,version=9p2000.L,msize=512000"
_MOUNTS = (
    ("devpts", "dev/pts", "devpts", "ptmxmode=666"),
    ("tmpfs", "dev/shm", "tmpfs", "mode=1777"),
    ("sysfs", "sys", "sysfs", "defaults"),
    ("cgroup2", "sys/fs/cgroup", "cgroup2", "defaults"),
)
_OWN = ("dev", "proc", "sys", "run", "tmp", OUT)
"""What of the root is not the host's."""


@dataclass(frozen=True, slots=True)
class Job:
    """Command, and its directories.

    ``visible`` are directories of the host that L1 shows even below /tmp or /run. ``shared``: the
    root is the host's; if not ``native``, L1 has a root of its own, and of the host's only
    ``visible``. ``out`` is a directory of the host, or None.
    """

    command: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    visible: Sequence[Path] = ()
    out: Path | None = None
    shared: bool = True
    native: bool = True
    marker: str = field(default_factory=lambda: f"\x1e{os.urandom(16).hex()}")
    """Precedes the exit status at the end of the output; no program can know it."""

    def archive(self) -> bytes:
        """Return the archive of the job, which follows the lab's own initramfs."""
        tree = Tree()
        mounts = [*_MOUNTS, *(self._add_host(tree) if self.shared else self._add_own(tree))]
        if self.out is not None:
            tree.add_directory(f"{ROOT}/{OUT}")
            mounts.append(("out", OUT, "9p", f"rw,cache=none,{_9P}"))
        lines = (f"{source} /{ROOT}/{place} {kind} {how}" for source, place, kind, how in mounts)
        tree.add_file("etc/fstab", os.fsencode("\n".join([*lines, ""])))
        tree.add_file("lab/marker", os.fsencode(self.marker), 0o600)
        tree.add_file(f"{ROOT}/{COMMAND}", os.fsencode(self._build_script()))
        output = io.BytesIO()
        write_tree(tree, output)
        return output.getvalue()

    def _add_host(self, tree: Tree) -> list[tuple[str, str, str, str]]:
        """Add the parts of the host's root; return its mounts."""
        mounts = [("host", "../host", "9p", f"ro,cache=loose,{_9P}")]
        if not self.native:
            return [*mounts, *self._add_visible(tree, self.visible)]
        for entry in sorted(Path("/").iterdir()):
            if entry.name in _OWN:
                continue
            if entry.is_symlink():
                tree.add_symlink(f"{ROOT}/{entry.name}", os.fspath(entry.readlink()))
            elif entry.is_dir():
                tree.add_directory(f"{ROOT}/{entry.name}")
                mounts.append(_bound(entry))
        if Path("/var/tmp").is_dir():
            mounts.append(("tmpfs", "var/tmp", "tmpfs", "mode=1777"))
        hidden = [path for path in self.visible if path.parts[1] in ("tmp", "run")]
        return [*mounts, *self._add_visible(tree, hidden)]

    def _add_visible(self, tree: Tree, paths: Sequence[Path]) -> list[tuple[str, str, str, str]]:
        for path in paths:
            tree.add_directory(f"{ROOT}{path}")
        # A directory comes before those in it, which its own mount would hide.
        return [_bound(path) for path in sorted(set(paths))]

    def _add_own(self, tree: Tree) -> list[tuple[str, str, str, str]]:
        tree.add_directory(f"{ROOT}/var/tmp", 0o1777)
        tree.add_directory(f"{ROOT}{self.directory}")
        return []

    def _build_script(self) -> str:
        """Return the script of busybox's shell in the new root."""
        pairs = [f"{key}={value}" for key, value in self.environment.items()]
        words = ["/run/lab/busybox", "env", "-i", *pairs, *self.command]
        directory = shlex.quote(str(self.directory))
        return f"cd {directory} || exit 126\nexec {shlex.join(words)}\n"


def _bound(path: Path) -> tuple[str, str, str, str]:
    # fstab(5): white space and backslashes in octal.
    place = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in os.fspath(path))
    return f"/host{place}", place[1:], "none", "bind"
