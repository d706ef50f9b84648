"""Landlock: a process that may read some directories and touch no other file (Linux 5.13).

Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h
"""

from __future__ import annotations

import os
import struct

from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# asm/unistd.h; all architectures have the same numbers.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
# The rights on files that each version of the interface knows: bits from 0 on.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NEWEST_RIGHTS = 16
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_PATH_BENEATH = struct.Struct("=Qi")  # struct landlock_path_beneath_attr, packed


def restrict_to_reading(directories: Iterable[str]) -> bool:
    """Allow this thread, and those that it starts, only to read files below ``directories``.

    Missing directories are left out. New privileges have to be ruled out before. Return False if
    the kernel has no Landlock, or refuses.
    """
    version = libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return False
    handled = (1 << _RIGHTS.get(version, _NEWEST_RIGHTS)) - 1
    rules = libc.syscall(_CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
    if rules < 0:
        return False
    try:
        for directory in directories:
            _add_directory(rules, directory)
        return bool(libc.syscall(_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _add_directory(rules: int, directory: str) -> None:
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PATH_BENEATH.pack(_READ_FILE | _READ_DIRECTORY, descriptor)
        libc.syscall(_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
