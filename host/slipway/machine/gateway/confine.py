"""Confinement of the gateway: rights that it gives up before it reads the first frame of a guest.

A guest that takes over its gateway finds a process that can connect to addresses of the host's
network, since a gateway does so. It cannot write, make or remove a file, read any but the ones that
the look-up of names needs, start a program or process, signal another, listen on a further port, or
make memory executable. It is in a :class:`slipway.jail.jail.Jail` with all parts but the namespaces
of processes and of the network.

On other architectures than x86-64 and aarch64 no filter of system calls exists.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from contextlib import closing, suppress

from slipway._util.errors import HostError
from slipway.jail import call_filter, landlock, privileges
from slipway.jail.jail import Jail
from slipway.jail.part import JailRefusal, Part
from slipway.jail.root_tree import RootTree
from slipway.jail.trial import find_refusals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# 256 connections, the published ports, and what a look-up opens.
MAX_DESCRIPTORS = 1024
# Private memory in bytes. The buffers of all connections together are far below.
MAX_DATA = 512 << 20

_NAME_SERVICES = "/etc/nsswitch.conf"
# Configuration and libraries of the look-up, and modules of Python for the report of a fault.
_READ = ("/etc", "/lib", "/lib64", "/usr/lib", "/usr/lib64")
_RESOLVER = "/etc/resolv.conf"

# include/uapi/linux/in.h and include/linux/socket.h; getaddrinfo reads the host's addresses.
_AF_INET, _AF_INET6, _AF_NETLINK = 2, 10, 16
_FIONBIO, _FIONREAD = 0x5421, 0x541B
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC: include/uapi/asm-generic/fcntl.h
_OPEN_TO_WRITE = 0o1103
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_CALLS = {
    "x86_64": {
        "readv": 19,
        "recvfrom": 45,
        "sendto": 44,
        "epoll_ctl": 233,
        "shutdown": 48,
        "socket": 41,
        "connect": 42,
        "accept4": 288,
        "getsockopt": 55,
        "setsockopt": 54,
        "getsockname": 51,
        "getpeername": 52,
        "ioctl": 16,
        # The look-up of names
        "poll": 7,
        "bind": 49,
        "sendmsg": 46,
        "sendmmsg": 307,
        "recvmsg": 47,
        "openat": 257,
        "newfstatat": 262,
        "fstat": 5,
        "lseek": 8,
        "uname": 63,
    },
    "aarch64": {
        "readv": 65,
        "recvfrom": 207,
        "sendto": 206,
        "epoll_ctl": 21,
        "shutdown": 210,
        "socket": 198,
        "connect": 203,
        "accept4": 242,
        "getsockopt": 209,
        "setsockopt": 208,
        "getsockname": 204,
        "getpeername": 205,
        "ioctl": 29,
        "ppoll": 73,
        "bind": 200,
        "sendmsg": 211,
        "sendmmsg": 269,
        "recvmsg": 212,
        "openat": 56,
        "newfstatat": 79,
        "fstat": 80,
        "lseek": 62,
        "uname": 160,
    },
}


def confine(parent: int) -> bool:
    """Give up all rights that a running gateway does not need.

    Ports are bound, and all modules are imported, before. ``parent`` is the process with which this
    one dies. Return False if the kernel has no Landlock.

    Raises:
        HostError: the kernel cannot filter system calls, or has no room for the jail.
    """
    for service in _find_name_services():
        # Later it could not be mapped executable.
        with suppress(OSError):
            ctypes.CDLL(f"libnss_{service}.so.2")
    readable = [*_READ, os.path.dirname(os.path.realpath(_RESOLVER)), *_find_python()]  # noqa: PTH120
    os.chdir("/")
    try:
        _enter_jail(RootTree(_drop_nested(readable)), parent)
    except JailRefusal as refusal:
        raise HostError(f"the gateway cannot be confined: {refusal}", refusal.hint) from None
    except ProcessLookupError:
        os._exit(1)  # the parent has ended
    privileges.forbid_inspection()
    privileges.set_limits(
        {
            **privileges.NO_FILES,
            resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
            resource.RLIMIT_DATA: MAX_DATA,
        }
    )
    has_landlock = landlock.restrict_to_reading(readable, connects=True)
    code = build_filter(os.uname().machine, os.getpid())
    if code is not None:
        call_filter.install(code, "the gateway")
    return has_landlock


def _enter_jail(tree: RootTree, parent: int) -> None:
    """Enter the parts of a jail that this host does not refuse.

    Raises:
        JailRefusal: the host lacks room.
        ProcessLookupError: the parent has ended.
    """
    left_out = {Part.PID_NAMESPACE, Part.NET_NAMESPACE}
    refused = find_refusals(lambda refused: Jail(tree, left_out.union(refused)))
    with closing(Jail(tree, left_out.union(refused), parent=parent)) as jail:
        jail.enter()
        jail.seal()


def build_filter(machine: str, process: int) -> bytes | None:
    """Return the filter for ``process`` on a ``machine`` (uname); None without a table."""
    if machine not in _CALLS:
        return None
    everything = call_filter.ALL_BITS
    conditions = {
        "socket": call_filter.allow_if(0, everything, (_AF_INET, _AF_INET6, _AF_NETLINK)),
        "ioctl": call_filter.allow_if(1, everything, (_FIONBIO, _FIONREAD)),
        "openat": call_filter.allow_if(2, _OPEN_TO_WRITE, (0,)),
    }
    return call_filter.assemble(machine, _CALLS[machine], conditions, process)


def _find_name_services() -> Iterator[str]:
    """Yield the services that this host looks names up with; see nsswitch.conf(5)."""
    try:
        with open(_NAME_SERVICES, "rb") as file:  # noqa: PTH123
            lines = file.read(64 << 10).decode("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        database, _, services = line.partition("#")[0].partition(":")
        if database.strip() == "hosts":
            yield from (word for word in services.split() if word.isalnum())


def _drop_nested(directories: Sequence[str]) -> list[str]:
    """Return the directories that are not below another one."""
    return [
        directory
        for directory in dict.fromkeys(directories)
        if not any(directory.startswith(f"{other}/") for other in directories)
    ]


def _find_python() -> Iterator[str]:
    """Yield the directories of Python's own modules."""
    yield from (path for path in sys.path if path.startswith(sys.base_prefix))
