"""Forced end of a command that a signal has asked to end.

A signal's exception is lost if it is raised in a destructor, and clean-up may wait for a program
that hangs. The kernel ends the children of a process that ends, and the next writer to the store
removes what an unfinished one has left.
"""

from __future__ import annotations

import os
import time
from _thread import start_new_thread

# Seconds for the clean-up of a command, which takes milliseconds unless something hangs.
SECONDS = 20.0


def force_end(number: int, seconds: float = SECONDS) -> None:
    """End this process in ``seconds`` with the exit code of a signal, if it still exists then.

    May be called by a signal handler: it takes no lock, as the class Thread does.
    """
    start_new_thread(_end_later, (number, seconds))


def _end_later(number: int, seconds: float) -> None:
    time.sleep(seconds)
    os._exit(128 + number)
