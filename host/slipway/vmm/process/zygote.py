"""Zygote: process that has imported all modules of a VMM, and forks a child for each VM.

The child makes its VM, confines itself and runs like any VMM. ``boot_zygote`` and ``clone_zygote``
say where the VM of a child comes from.

A zygote runs no guest. It has its parent's rights: a child is confined only after its VM is made.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os
import sys
import time

from slipway._util.errors import HostError
from slipway.jail.jail import Jail
from slipway.jail.part import JailRefusal
from slipway.jail.root_tree import RootTree
from slipway.jail.trial import find_refusals
from slipway.vmm.process import control, descriptors
from slipway.vmm.process.control import send_message
from slipway.vmm.process.vmm_process import run_and_exit
from slipway.vmm.process.zygote_children import ZygoteChildren

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    RunVm = Callable[[Jail, int, list[int], int], int]
    """Runs the VM of a child, and returns the exit status of the child.

    The arguments are the child's jail, the control channel, the sockets of the VM, and when the
    fork began (``time.monotonic_ns``).
    """

# Of each child: control channel, console, standard error. The VM's other sockets stand before the
# last.
DESCRIPTORS = 3


class Zygote:
    """Zygote; it never has a thread, as a fork copies only the calling thread."""

    def __init__(self, channel: int, counts: range, run_vm: RunVm) -> None:
        """Take over the channel; ``counts`` are the possible numbers of a child's descriptors.

        Raises:
            HostError: the host has no room for a process.
        """
        self._channel = _socket.socket(fileno=channel)
        self._jail = _find_jail()
        # A cgroup may come before the others.
        self._expected = range(counts.start, counts.stop + 1)
        self._run_vm = run_vm
        self._children = ZygoteChildren(self._channel)
        self._closing = False
        # Present objects stay, and are exempt from garbage collection.
        gc.disable()
        gc.freeze()

    def run(self) -> int:
        """Run until the parent wants no more children and all have ended; return the status."""
        send_message(self._channel.fileno(), control.RUNNING)
        self._children.watch(self._channel.fileno(), self._handle_request)
        while self._children.wait_events() or not self._closing:
            pass
        return 0

    def _handle_request(self) -> None:
        try:
            message, given = descriptors.receive(self._channel, control.MAX_MESSAGE, self._expected)
        except OSError:
            os._exit(1)  # the parent has ended
        verb, texts = control.decode(message)
        if verb == control.SPAWN:
            if given:
                self._spawn(given, has_group=texts.get("groups") == "1")
            else:  # this process has too many descriptors
                self._refuse(os.strerror(errno.EMFILE))
        elif verb == control.CLOSE:
            self._closing = True
        elif not message:
            os._exit(1)

    def _spawn(self, given: list[int], *, has_group: bool) -> None:
        """Fork a child with the descriptors ``given``, of which the first may be its cgroup."""
        began = time.monotonic_ns()
        first = int(has_group)
        try:
            process = self._jail.fork(given[0] if has_group else -1)
            if not process:
                if has_group:
                    os.close(given[0])
                self._run_child(given[first:], began)
            self._children.adopt(process)
        except JailRefusal as refusal:
            self._refuse(refusal.reason, refusal.hint)
        except OSError as error:
            self._refuse(error.strerror or str(error))
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _refuse(self, reason: str, hint: str = "Run fewer machines at once.") -> None:
        message = f"a VMM cannot be forked: {reason}"
        send_message(self._channel.fileno(), control.REFUSED, message=message, hint=hint)

    def _run_child(self, given: list[int], began: int) -> NoReturn:
        """Run the child's VM and end; never returns, so that a child never acts as zygote."""
        channel, *sockets, errors = given
        try:
            os.dup2(errors, sys.stderr.fileno())
            # Descriptors of the zygote and of its other children.
            self._children.close()
            self._channel.close()
            os.close(errors)
            gc.enable()
            run_and_exit(channel, lambda: self._run_vm(self._jail, channel, sockets, began))
        finally:  # on any error, a child never acts as zygote
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)


def _find_jail() -> Jail:
    """Return the jail of VMMs, with all parts that this host does not refuse.

    Raises:
        HostError: the host has no room for a process.
    """
    try:
        return Jail(RootTree(), find_refusals(lambda refused: Jail(RootTree(), refused)))
    except JailRefusal as refusal:
        raise HostError(f"a VMM cannot be forked: {refusal}", refusal.hint) from None
