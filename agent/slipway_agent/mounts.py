"""File systems: those of the machine, and the one that a job writes to."""

from __future__ import annotations

import os

from slipway_agent.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    mount,
    unmount,
)

WORK = "/work"
_AGENT = "/.agent"
_DISK = f"{_AGENT}/disk"
IDENTITY = f"{_AGENT}/identity"
# Where an unprivileged program may write, and the directory of the job's disk behind it. The rest
# of the tree is read-only: its root file system knows no size and would swallow all memory.
_WRITABLE = ((WORK, "work"), ("/tmp", "tmp"), ("/var/tmp", "var"), ("/dev/shm", "shm"))  # noqa: S108
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
_WORK_MODE = 0o755
_KERNEL = MS_NOSUID | MS_NODEV | MS_NOEXEC
# A file or directory of a tmpfs costs about a KiB that the size of the file system leaves out.
_BYTES_PER_INODE = 4096
_SPARE_INODES = 4096


def mount_kernel_file_systems() -> list[str]:
    """Mount what the kernel offers; returns a line for each that it does not."""
    problems = []
    for source, target, kind, flags, choices in (
        # Other users' processes, the agent among them, are not to be seen.
        ("proc", "/proc", "proc", _KERNEL, ("hidepid=invisible", "hidepid=2", "")),
        ("sysfs", "/sys", "sysfs", _KERNEL | MS_RDONLY, ("",)),
        ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, ("mode=755",)),
        ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, ("mode=620,ptmxmode=666",)),
        # Without favordynmods the first process in a group waits for an RCU grace period.
        ("cgroup2", "/sys/fs/cgroup", "cgroup2", _KERNEL, ("favordynmods", "")),
    ):
        make_directory(target)
        for options in choices:
            try:
                mount(source, target, kind, flags, options)
                break
            except OSError as error:
                problem = f"{target} cannot be mounted: {error.strerror}"
        else:
            problems.append(problem)
    for target, link in _LINKS:
        try:
            os.symlink(target, link)
        except FileExistsError:
            pass
    return problems


def make_directory(path: str) -> None:
    """A directory at ``path``, whatever the image has there."""
    if os.path.isdir(path):
        return
    try:
        os.mkdir(path)
    except FileExistsError:
        os.unlink(path)
        os.mkdir(path)
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
        os.mkdir(path)
    except OSError:
        pass  # the file system decides what it contains; a mount on it will say so


def seal_root() -> None:
    """Make the tree read-only, with places for a job's disk.

    Raises:
        OSError: the kernel refuses.
    """
    make_directory(_DISK)
    make_directory(IDENTITY)
    os.chmod(_AGENT, 0o700)  # the archive with the modules has the same directory, open to all
    for target, _ in _WRITABLE:
        make_directory(target)
    mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _format_bounds(size: int) -> str:
    return f"size={size},nr_inodes={size // _BYTES_PER_INODE + _SPARE_INODES}"


class TmpfsWorkspace:
    """A tmpfs of bounded size behind every place where the program of one job may write."""

    def __init__(self, size: int, owner: int) -> None:
        """Mount it.

        Raises:
            OSError: the kernel refuses.
        """
        self.directory = WORK
        self.size = size
        self._mounted: list[str] = []
        try:
            mount("tmpfs", _DISK, "tmpfs", MS_NOSUID | MS_NODEV, f"{_format_bounds(size)},mode=700")
            self._mounted.append(_DISK)
            for target, name in _WRITABLE:
                # An image may have made one of them a link to another.
                real = os.path.realpath(target)
                if any(f"{real}/".startswith(f"{place}/") for place in self._mounted):
                    continue
                path = f"{_DISK}/{name}"
                os.mkdir(path)
                os.chmod(path, _WORK_MODE if target == WORK else 0o1777)  # as /tmp is
                if target == WORK:
                    os.chown(path, owner, owner)
                mount(path, real, "", MS_BIND)
                self._mounted.append(real)
        except BaseException:
            self.remove()
            raise

    def resize(self, size: int) -> None:
        """Give it ``size`` bytes.

        Raises:
            OSError: more than that is in use.
        """
        mount("", _DISK, "", MS_REMOUNT | MS_NOSUID | MS_NODEV, _format_bounds(size))
        self.size = size

    def renew(self) -> None:
        """Let the next program in, whatever the last one has done to the directory that it owned.

        Raises:
            OSError: the kernel refuses.
        """
        os.chmod(WORK, _WORK_MODE)

    def remove(self) -> None:
        """Unmount it; its pages are freed with its last user."""
        while self._mounted:
            unmount(self._mounted.pop())
