"""Names of the system calls that a fork makes in another process."""

from __future__ import annotations

from enum import Enum, auto


class Call(Enum):
    """System calls; their numbers are those of each architecture."""

    CLONE = auto()
    CLOSE = auto()
    DUP3 = auto()
    EPOLL_CREATE1 = auto()
    EPOLL_CTL = auto()
    EVENTFD2 = auto()
    GET_ROBUST_LIST = auto()
    MADVISE = auto()
    MMAP = auto()
    PRCTL = auto()
    RECVMSG = auto()
    RSEQ = auto()
    SET_ROBUST_LIST = auto()
    SIGALTSTACK = auto()
    SIGNALFD4 = auto()
