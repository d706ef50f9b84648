"""Landlock: a process that may read some directories and touch no other file (Linux 5.13).

Newer kernels also refuse it ports of TCP, devices' ioctls, and abstract sockets and signals of
processes outside.

Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h
"""

from __future__ import annotations

import os
import struct
from enum import IntFlag

from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# asm/unistd.h; all architectures have the same numbers.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_RULESET = struct.Struct("=QQQ")  # struct landlock_ruleset_attr: files, network, scope
_PATH_BENEATH = struct.Struct("=Qi")  # struct landlock_path_beneath_attr, packed


class FileAccess(IntFlag):
    """Rights on files; those up to bit 12 are of the first version."""

    READ_FILE = 1 << 2
    READ_DIRECTORY = 1 << 3
    FIRST_VERSION = (1 << 13) - 1
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    DEVICE_IOCTL = 1 << 15


class NetworkAccess(IntFlag):
    """Rights on ports of TCP."""

    BIND = 1 << 0
    CONNECT = 1 << 1


class Scope(IntFlag):
    """Effects that do not leave the processes of the same ruleset."""

    ABSTRACT_SOCKETS = 1 << 0
    SIGNALS = 1 << 1


# The first version of the interface that knows the rights.
_FILES = {
    1: FileAccess.FIRST_VERSION,
    2: FileAccess.REFER,
    3: FileAccess.TRUNCATE,
    5: FileAccess.DEVICE_IOCTL,
}
_NETWORK_VERSION, _SCOPE_VERSION = 4, 6


def restrict_to_reading(directories: Iterable[str], *, connects: bool = False) -> bool:
    """Allow this thread, and those that it starts, only to read files below ``directories``.

    Of TCP it may only use the ports that it has, and with ``connects`` make connections. Missing
    directories are left out. New privileges have to be ruled out before. Return False if the kernel
    has no Landlock, or refuses.
    """
    version = libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return False
    attributes = _build_attributes(version, connects=connects)
    rules = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    try:
        for directory in directories:
            _add_directory(rules, directory)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _build_attributes(version: int, *, connects: bool) -> bytes:
    """Return the struct landlock_ruleset_attr of all rights that a version of the kernel knows.

    An older kernel takes the part of the structure that it knows.
    """
    files = FileAccess(0)
    for first, rights in _FILES.items():
        if version >= first:
            files |= rights
    network = NetworkAccess.BIND if connects else NetworkAccess.BIND | NetworkAccess.CONNECT
    attributes = _RULESET.pack(files, network, Scope.ABSTRACT_SOCKETS | Scope.SIGNALS)
    if version >= _SCOPE_VERSION:
        return attributes
    return attributes[:16] if version >= _NETWORK_VERSION else attributes[:8]


def _add_directory(rules: int, directory: str) -> None:
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        access = FileAccess.READ_FILE | FileAccess.READ_DIRECTORY
        rule = _PATH_BENEATH.pack(access, descriptor)
        libc.syscall(_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
