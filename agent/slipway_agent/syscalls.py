"""Functions of libc that Python's standard library lacks.

They are called through ``_ctypes``, the extension module below the ctypes package. The package
itself costs 4 ms of each start (116 ms in an emulated machine), mostly for types without use here.
"""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    dlopen,
    dlsym,
    get_errno,
)
from struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MNT_DETACH = 2
# include/uapi/linux/sched.h
CLONE_NEWIPC = 0x08000000
# include/uapi/linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
# include/uapi/linux/inotify.h
IN_OPEN = 0x20
_IN_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
# include/uapi/asm-generic/resource.h
RLIMIT_CPU = 0
RLIMIT_FSIZE = 1
RLIMIT_STACK = 3
RLIMIT_CORE = 4
RLIMIT_NPROC = 6
RLIMIT_NOFILE = 7
RLIM_INFINITY = (1 << 64) - 1
# malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_KEPT_HEAP_BYTES = 8 * 1024 * 1024
_HEAP_STEP_BYTES = 1024 * 1024
# include/uapi/linux/reboot.h
RB_AUTOBOOT = 0x01234567


class _Int(_SimpleCData):  # type: ignore[type-arg]  # not generic at run time
    _type_ = "i"


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Bytes(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "z"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_LIBC = dlopen(None, 0)  # type: ignore[arg-type]  # None: the libraries of this process


def _bind_function(name: str, *arguments: type[Any]) -> _Function:
    function = _Function(dlsym(_LIBC, name))
    function.argtypes = arguments
    return function


_mount = _bind_function("mount", _Bytes, _Bytes, _Bytes, _Long, _Bytes)
_umount2 = _bind_function("umount2", _Bytes, _Int)
_unshare = _bind_function("unshare", _Int)
_prctl = _bind_function("prctl", _Int, _Long, _Long, _Long, _Long)
_prlimit = _bind_function("prlimit", _Int, _Int, _Bytes, _Bytes)
_inotify_init1 = _bind_function("inotify_init1", _Int)
_inotify_add_watch = _bind_function("inotify_add_watch", _Int, _Bytes, _Int)
_reboot = _bind_function("reboot", _Int)
_mallopt = _bind_function("mallopt", _Int, _Int)
# glibc has no finit_module. syscall() returns long; its lower half is enough here.
_syscall = _bind_function("syscall", _Long, _Long, _Bytes, _Long)
_SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}


def _check_result(result: int, subject: str) -> None:
    if result < 0:
        number = get_errno()
        raise OSError(number, os.strerror(number), subject)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system, or change a mount.

    Raises:
        OSError: the kernel refuses; the file name is ``target``.
    """
    encoded = [os.fsencode(text) for text in (source, target, kind, options)]
    _check_result(_mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), target)


def unmount(target: str) -> None:
    """Remove a mount from the tree at once; the kernel frees it after its last user.

    Raises:
        OSError: the kernel refuses; the file name is ``target``.
    """
    _check_result(_umount2(os.fsencode(target), MNT_DETACH), target)


def load_module(path: str, parameters: str = "") -> None:
    """Insert the kernel module in the file ``path``; finit_module(2).

    ``parameters`` are words such as ``name=value``; the kernel ignores names that it does not know.

    Raises:
        OSError: the kernel refuses; EEXIST if the module is loaded already.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = _SYS_FINIT_MODULE[os.uname().machine]
        _check_result(_syscall(number, fd, os.fsencode(parameters), 0), path)
    finally:
        os.close(fd)


def unshare(namespaces: int) -> None:
    """Enter new namespaces.

    Source: unshare(2).

    Raises:
        OSError: the kernel refuses.
    """
    _check_result(_unshare(namespaces), "unshare")


def control_process(option: int, value: int) -> None:
    """Do an operation of prctl(2) with one argument.

    Raises:
        OSError: the kernel refuses.
    """
    _check_result(_prctl(option, value, 0, 0, 0), "prctl")


def limit_resource(resource: int, soft: int, hard: int, pid: int = 0) -> None:
    """Set a resource limit by prlimit(2), without Python's extension module ``resource``.

    ``pid`` 0 is the calling process.

    Raises:
        OSError: the kernel refuses, or the process is missing.
    """
    # NULs in the bytes are harmless: the object is passed as a pointer.
    _check_result(_prlimit(pid, resource, pack("QQ", soft, hard), None), "prlimit")


def watch_for_opening(fd: int) -> int:
    """Return an inotify descriptor that is readable after an open of the file of ``fd``.

    Raises:
        OSError: the kernel refuses.
    """
    watch: Any = _inotify_init1(_IN_FLAGS)
    _check_result(watch, "inotify_init1")
    try:
        path = f"/proc/self/fd/{fd}"
        _check_result(_inotify_add_watch(watch, os.fsencode(path), IN_OPEN), path)
    except OSError:
        os.close(watch)
        raise
    return int(watch)


def keep_heap() -> None:
    """Make malloc keep freed memory; mallopt(3).

    60 KiB of output are copied a few times and freed. Returning the pages and faulting them in
    again costs ten times as much as the copies.
    """
    _mallopt(_M_MMAP_THRESHOLD, _KEPT_HEAP_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _KEPT_HEAP_BYTES)
    _mallopt(_M_TOP_PAD, _HEAP_STEP_BYTES)


def reboot() -> None:
    """End the machine by a reset, which also a microVM supports. Do not return.

    Raises:
        OSError: the kernel refuses.
    """
    _check_result(_reboot(RB_AUTOBOOT), "reboot")
