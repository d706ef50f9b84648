"""The C library, for calls that Python has no function for.

Opened once: each opening makes classes, and that takes a third of a millisecond in a process that
has just been forked.
"""

from __future__ import annotations

import ctypes

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
