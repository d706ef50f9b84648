"""Numbers of the system calls that a program in a jail is refused.

Sources: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h. A call that an
architecture does not have is missing in its table.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# From this number on all architectures have the same (Linux 5.1), and the calls are new: io_uring,
# pidfds, mounts by descriptors. They do not exist but for these few.
FIRST_NEW = 424
CLONE3 = 435
NEW_ALLOWED: Mapping[str, int] = {
    "close_range": 436,
    "faccessat2": 439,
    "epoll_pwait2": 441,
    "futex_waitv": 449,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "mseal": 462,
}
# Numbers of the x32 ABI, whose calls are others; on aarch64 no call has such a number.
FIRST_X32 = 0x40000000

_BOTH: Mapping[str, tuple[int, int]] = {
    # Other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Identity and rights
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Priorities
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "ioprio_set": (251, 30),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    # Namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    # The kernel's larger interfaces
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    # Files: the tree is read-only, and files come by descriptors.
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknodat": (259, 33),
    "mkdirat": (258, 34),
    "unlinkat": (263, 35),
    "symlinkat": (266, 36),
    "linkat": (265, 37),
    "renameat2": (316, 276),
    "truncate": (76, 45),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utimensat": (280, 88),
    "memfd_create": (319, 279),
    "quotactl": (179, 60),
    # Sockets: all are inherited.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "connect": (42, 203),
    # Communication of System V and POSIX
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # The host as a whole
    "syslog": (103, 116),
    "acct": (163, 89),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "vhangup": (153, 58),
}
# Calls for which aarch64 has only the forms above.
_X86_64: Mapping[str, int] = {
    "creat": 85,
    "rename": 82,
    "renameat": 264,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "chmod": 90,
    "chown": 92,
    "lchown": 94,
    "utime": 132,
    "utimes": 235,
    "futimesat": 261,
    "mknod": 133,
    "modify_ldt": 154,
    "iopl": 172,
    "ioperm": 173,
    "inotify_init": 253,
    "uselib": 134,
}
REFUSED: Mapping[str, Mapping[str, int]] = {
    "x86_64": {**{name: pair[0] for name, pair in _BOTH.items()}, **_X86_64},
    "aarch64": {**{name: pair[1] for name, pair in _BOTH.items()}, "renameat": 38},
}
# Calls that end the process: a start of another that needs no key.
KILLED: Mapping[str, Mapping[str, int]] = {
    "x86_64": {"fork": 57, "vfork": 58, "execveat": 322},
    "aarch64": {"execveat": 281},
}
# Calls with conditions.
CHECKED: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "clone": 56,
        "execve": 59,
        "prctl": 157,
        "capset": 126,
        "kill": 62,
        "tgkill": 234,
        "ioctl": 16,
        "open": 2,
        "openat": 257,
    },
    "aarch64": {
        "clone": 220,
        "execve": 221,
        "prctl": 167,
        "capset": 91,
        "kill": 129,
        "tgkill": 131,
        "ioctl": 29,
        "openat": 56,
    },
}
