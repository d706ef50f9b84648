"""Place for the cgroups of machines: a cgroup that systemd delegated, or one of root's own.

A cgroup with processes gives no controllers to its children (the rule of no internal processes),
so this process moves to a leaf first. Sources: cgroup-v2.rst of Linux; systemd, "Control Group APIs
and Delegation"; proc_pid_mountinfo(5), cgroups(7).
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slipway._util.errors import HostError
from slipway.jail.cgroup import (
    GroupLimits,
    MachineGroup,
    open_locked,
    read_words,
    write_file,
)

# Without these, a cgroup does not bound a machine. cpu is used where it is there. No machine has a
# disk, so that io has nothing to bound.
REQUIRED = ("memory", "pids")
OPTIONAL = ("cpu",)
# Groups of machines: this, the process that owns them, when that began, and a number.
PREFIX = "slipway-"
# The leaf of this process in a delegated cgroup.
LEAF = "slipway-host"
# The cgroup that root makes below the top, if none is delegated to it.
ROOTS = "slipway"
# systemd marks a delegated cgroup by one of these (systemd.resource-control(5), Delegate=).
_MARKS = ("user.delegate", "trusted.delegate")
_MAX_PARENTS = 64
_ATTEMPTS = 3
_UNIFY = (
    "Boot the host with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1 in the kernel's"
    " arguments."
)
_DELEGATE = (
    "Start the service with Delegate=yes, or a command by: systemd-run --user --scope"
    " --property=Delegate=yes COMMAND"
)


@dataclass(frozen=True, slots=True)
class Tree:
    """Mounted tree of cgroup v2, and the path of this process in it, relative to the mount."""

    mount: Path
    own: str

    @property
    def own_group(self) -> Path:
        """The directory of this process's cgroup."""
        return self.mount / self.own

    @property
    def has_top(self) -> bool:
        """True if the mount shows the top of the hierarchy, which has no type."""
        return not (self.mount / "cgroup.type").exists()


class GroupPlace:
    """Cgroup below which this process makes those of its machines."""

    def __init__(self, path: Path, *, is_made: bool = False) -> None:
        """Open ``path``; groups that nobody owns any more are removed from it.

        With ``is_made`` the last process that has groups there removes ``path`` as well.

        Raises:
            OSError: the directory cannot be opened.
        """
        self.path = path
        self._is_made = is_made
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._prefix = f"{PREFIX}{os.getpid()}-{read_start_time(os.getpid())}-"
        self._numbers = itertools.count(1)
        self.sweep()

    def create(self, limits: GroupLimits) -> MachineGroup:
        """Return a new group with ``limits``, which the caller removes.

        Raises:
            HostError: the kernel refuses.
        """
        try:
            group = self._make()
            try:
                group.limit(limits)
            except OSError:
                group.discard()
                raise
        except OSError as error:
            raise HostError(
                f"the cgroup of a machine cannot be made: {error.strerror}",
                "Run fewer machines at once, or see what this host lacks: slipway doctor",
            ) from None
        return group

    def _make(self) -> MachineGroup:
        """Make a group; a sweep of another process may take a new one away before it is locked.

        Raises:
            OSError: the kernel refuses.
        """
        for _ in range(_ATTEMPTS):
            with suppress(BlockingIOError, FileNotFoundError):
                return MachineGroup(self._descriptor, f"{self._prefix}{next(self._numbers)}")
        return MachineGroup(self._descriptor, f"{self._prefix}{next(self._numbers)}")

    def sweep(self) -> int:
        """Remove groups whose owner has ended, and kill what runs there; return their number."""
        removed = 0
        for name in os.listdir(self._descriptor):
            if name.startswith(PREFIX) and name != LEAF:
                with suppress(OSError):  # its owner lives, or processes are still ending
                    descriptor = open_locked(self._descriptor, name)
                    try:
                        with suppress(OSError):
                            write_file(descriptor, "cgroup.kill", "1")
                        os.rmdir(name, dir_fd=self._descriptor)
                        removed += 1
                    finally:
                        os.close(descriptor)
        return removed

    def close(self) -> None:
        """Close the directory; groups of machines stay. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if self._is_made:
                with suppress(OSError):  # another process has groups there
                    self.path.rmdir()


def find_free_place() -> Path:
    """Return where cgroups of machines would be made, and change nothing.

    Raises:
        HostError: this host or its user has no place for them.
    """
    tree = _read_tree()
    path = _choose(tree)
    check_controllers(path)
    return path / ROOTS if path == tree.mount and tree.has_top else path


def _read_tree() -> Tree:
    return find_tree(
        Path("/proc/self/mountinfo").read_text("utf-8", "replace"),
        Path("/proc/self/cgroup").read_text("utf-8", "replace"),
    )


def open_place() -> GroupPlace:
    """Find and prepare the place for cgroups of machines; this process may move to a leaf.

    Raises:
        HostError: this host or its user has none, with the reason and what would help.
    """
    tree = _read_tree()
    path = _choose(tree)
    try:
        _prepare(path, is_top=path == tree.mount and tree.has_top)
        if path == tree.mount and tree.has_top:
            return GroupPlace(path / ROOTS, is_made=True)
        return GroupPlace(path)
    except OSError as error:
        raise HostError(
            f"{path} cannot be prepared for machines: {error.strerror}", _DELEGATE
        ) from None


def find_tree(mounts: str, memberships: str) -> Tree:
    """Find the tree in the contents of /proc/self/mountinfo and /proc/self/cgroup.

    Raises:
        HostError: no cgroup v2 is mounted, or this process is not in what is.
    """
    own = next((line[3:] for line in memberships.splitlines() if line.startswith("0::")), "")
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        words = fields.split(" ")
        if kind.split(" ")[0] == "cgroup2" and len(words) > 4:
            root, target = (_unescape(word) for word in words[3:5])
            inside = root.rstrip("/") + "/"
            if (own + "/").startswith(inside):
                return Tree(Path(target), own[len(inside) :])
            raise HostError(f"this process is in the cgroup {own!r:.80}, which is not mounted here")
    raise HostError("no cgroup v2 is mounted on this host", _UNIFY)


def _unescape(word: str) -> str:
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        word = word.replace(f"\\{code}", character)
    return word


def _choose(tree: Tree) -> Path:
    """Return the cgroup below which machines may have theirs.

    Raises:
        HostError: none is delegated to this user.
    """
    own = tree.own_group
    check_controllers(tree.mount)
    if is_delegated(own):
        return own
    # A service manager, or an earlier process of ours, has made the leaf for processes.
    if own != tree.mount and (is_delegated(own.parent) or own.name == LEAF):
        return own.parent
    if os.geteuid() == 0:
        if tree.has_top:
            return tree.mount
        if own == tree.mount:  # the whole tree of a container
            return own
    raise HostError(f"the cgroup of this process ({own}) is not delegated to it", _DELEGATE)


def check_controllers(group: Path) -> None:
    """Check that ``group`` has the controllers that bound a machine.

    Raises:
        HostError: a controller is missing.
    """
    try:
        found = (group / "cgroup.controllers").read_text("ascii", "replace").split()
    except OSError as error:
        raise HostError(f"{group} is no cgroup: {error.strerror}", _UNIFY) from None
    if missing := [name for name in REQUIRED if name not in found]:
        raise HostError(
            f"cgroup v2 has no controller {' and '.join(missing)} here: this host uses v1", _UNIFY
        )


def is_delegated(group: Path) -> bool:
    """Tell if this user may make cgroups in ``group``: systemd says so, or it owns the group."""
    files = (group / "cgroup.subtree_control", group / "cgroup.procs", group)
    if not all(os.access(file, os.W_OK) for file in files):
        return False
    for mark in _MARKS:
        with suppress(OSError):
            return os.getxattr(group, mark) == b"1"
    return 0 < os.geteuid() == group.stat().st_uid


def _prepare(group: Path, *, is_top: bool) -> None:
    """Give children of ``group`` the controllers; only the top may have processes meanwhile.

    Raises:
        HostError: a controller is missing, or other processes are in the way.
        OSError: the kernel refuses.
    """
    check_controllers(group)
    descriptor = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        offered, given = (
            read_words(descriptor, name)
            for name in ("cgroup.controllers", "cgroup.subtree_control")
        )
        wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in offered and name not in given]
        if wanted and not is_top:
            _leave(group, descriptor)
        _enable(descriptor, wanted)
    finally:
        os.close(descriptor)
    if is_top:
        below = group / ROOTS
        below.mkdir(exist_ok=True)
        _prepare(below, is_top=False)


def _enable(group: int, controllers: list[str]) -> None:
    if controllers:
        write_file(group, "cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))


def _leave(group: Path, descriptor: int) -> None:
    """Move this process and its children from ``group`` to a leaf.

    Raises:
        HostError: processes of others are in the group, which ours may not move.
        OSError: the kernel refuses.
    """
    present = [int(word) for word in read_words(descriptor, "cgroup.procs")]
    if others := [process for process in present if not _is_ours(process)]:
        raise HostError(
            f"{group} has {len(others)} processes of others (such as {others[0]}), so that its"
            " children get no controllers",
            _DELEGATE,
        )
    if present:
        with suppress(FileExistsError):
            os.mkdir(LEAF, 0o755, dir_fd=descriptor)
        for process in present:
            with suppress(ProcessLookupError):
                write_file(descriptor, f"{LEAF}/cgroup.procs", str(process))


def _is_ours(process: int) -> bool:
    """Tell if ``process`` is this one, or descends from it."""
    for _ in range(_MAX_PARENTS):
        if process == os.getpid():
            return True
        if process <= 1:
            return False
        process = int(_read_status(process)[1])
    return False


def read_start_time(process: int) -> int:
    """Return when ``process`` started, in clock ticks since the boot; 0 if it has ended."""
    return int(_read_status(process)[19])


def _read_status(process: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent and others; proc(5)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return ["X"] + ["0"] * 50
    return text.rpartition(")")[2].split()
