"""File systems of the guest: those of the kernel, the sealed root, and workspaces."""

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
_WORKSPACE = f"{_AGENT}/disk"
IDENTITY = f"{_AGENT}/identity"
# Writable places of an unprivileged program, and the directory of the workspace behind each. The
# rest of the tree is read-only: the root file system has no size limit and could fill all memory.
_WRITABLE = ((WORK, "work"), ("/tmp", "tmp"), ("/var/tmp", "var"), ("/dev/shm", "shm"))  # noqa: S108
_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
_WORK_MODE = 0o755
_KERNEL = MS_NOSUID | MS_NODEV | MS_NOEXEC
# A file or directory of a tmpfs costs about 1 KiB that does not count in the size option.
_BYTES_PER_INODE = 4096
_SPARE_INODES = 4096


def mount_kernel_file_systems() -> list[str]:
    """Mount the kernel's file systems; return a line for each that cannot be mounted."""
    problems = []
    for source, target, kind, flags, choices in (
        # Hides the processes of other users, such as the agent.
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
                problem = f"cannot mount {target}: {error.strerror}"
        else:
            problems.append(problem)
    for target, link in _LINKS:
        try:
            os.symlink(target, link)
        except FileExistsError:
            pass
    return problems


def write_to_sysfs(path: str, value: bytes) -> None:
    """Write ``value`` to a file of sysfs, which is read-only before and after.

    Raises:
        OSError: the file is missing, or the kernel refuses.
    """
    mount("sysfs", "/sys", "sysfs", MS_REMOUNT | _KERNEL)
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(value)
    finally:
        mount("sysfs", "/sys", "sysfs", MS_REMOUNT | _KERNEL | MS_RDONLY)


def make_directory(path: str) -> None:
    """Make a directory at ``path``; replace a file of the image there."""
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
        pass  # sysfs and the like refuse; a later mount on ``path`` reports the problem


def seal_root() -> None:
    """Make the tree read-only, with mount points for a workspace.

    Raises:
        OSError: the kernel refuses.
    """
    make_directory(_WORKSPACE)
    make_directory(IDENTITY)
    os.chmod(_AGENT, 0o700)  # the modules' archive has made this directory with mode 755
    for target, _ in _WRITABLE:
        make_directory(target)
    mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _format_bounds(size: int) -> str:
    return f"size={size},nr_inodes={size // _BYTES_PER_INODE + _SPARE_INODES}"


class TmpfsWorkspace:
    """Tmpfs of bounded size behind each writable place of a program."""

    def __init__(self, size: int, owner: int) -> None:
        """Mount the tmpfs, with a working directory of user ``owner``.

        Raises:
            OSError: the kernel refuses.
        """
        self.directory = WORK
        self.size = size
        self._mounted: list[str] = []
        try:
            mount(
                "tmpfs",
                _WORKSPACE,
                "tmpfs",
                MS_NOSUID | MS_NODEV,
                f"{_format_bounds(size)},mode=700",
            )
            self._mounted.append(_WORKSPACE)
            for target, name in _WRITABLE:
                # In an image, a place may be a link to another place.
                real = os.path.realpath(target)
                if any(f"{real}/".startswith(f"{place}/") for place in self._mounted):
                    continue
                path = f"{_WORKSPACE}/{name}"
                os.mkdir(path)
                os.chmod(path, _WORK_MODE if target == WORK else 0o1777)  # as /tmp is
                if target == WORK:
                    os.chown(path, owner, owner)
                mount(path, real, "", MS_BIND)
                self._mounted.append(real)
        except OSError:
            self.remove()
            raise

    def resize(self, size: int) -> None:
        """Change the size to ``size`` bytes.

        Raises:
            OSError: more bytes are in use.
        """
        mount("", _WORKSPACE, "", MS_REMOUNT | MS_NOSUID | MS_NODEV, _format_bounds(size))
        self.size = size

    def renew(self) -> None:
        """Restore the permissions of the working directory, which its owner may have changed.

        Raises:
            OSError: the kernel refuses.
        """
        os.chmod(WORK, _WORK_MODE)

    def remove(self) -> None:
        """Unmount the tmpfs. The kernel frees the pages when the last user has gone."""
        while self._mounted:
            unmount(self._mounted.pop())
