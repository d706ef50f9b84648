"""Small process in a jail, and what /proc tells of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.machine.module_command import build_module_command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

# A user id that nobody has; below those of jails.
FREE_ID = 61234
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

_PROGRAM = """
import ctypes, os, sys
packages, identity, first, left_out, *paths = sys.argv[1:]
sys.path[:0] = [packages]
from slipway.jail.jail import Jail
from slipway.jail.part import Part
from slipway.jail.root_tree import RootTree
if int(identity):
    os.setgroups([])
    os.setresgid(*[int(identity)] * 3)
    os.setresuid(*[int(identity)] * 3)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
names = [Part[name] for name in left_out.split(",") if name]
jail = Jail(RootTree(paths, has_descriptors=True), names, int(first))
process = jail.fork()
if not process:
    jail.enter()
    jail.seal()
    os.write(1, b".")
    os.read(0, 1)
    os._exit(0)
os.write(1, b"%d " % process)
os.waitpid(process, 0)
"""


class JailedProcess:
    """Process that does nothing in its jail, and its parent; both end with this object.

    As root, the parent is a process of the ordinary user ``identity``, if that is not 0.
    """

    def __init__(
        self,
        paths: Sequence[str] = (),
        *,
        identity: int = 0,
        first_id: int = 0x70000000,
        left_out: Sequence[str] = (),
    ) -> None:
        packages = build_module_command("", ())[4]
        options = [packages, str(identity), str(first_id), ",".join(left_out)]
        self.parent = subprocess.Popen(
            [sys.executable, "-IS", "-c", _PROGRAM, *options, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.parent.stdout is not None
        words = b""
        while b"." not in words or b" " not in words:  # in either order
            more = os.read(self.parent.stdout.fileno(), 64)
            assert more, "the process is in its jail"
            words += more
        self.number = int(words.strip(b" ."))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.parent.kill()
        self.parent.communicate()


def read_status(process: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def read_namespaces(process: int | str) -> dict[str, str]:
    """Return the namespaces of a process by their kinds."""
    return {kind: str(Path(f"/proc/{process}/ns/{kind}").readlink()) for kind in NAMESPACES}


def list_tree(process: int) -> set[str]:
    """Return the paths of a process's root, two levels deep."""
    root = Path(f"/proc/{process}/root/")
    found = {path for pattern in ("*", "*/*") for path in root.glob(pattern)}
    return {f"/{path.relative_to(root)}" for path in found}
