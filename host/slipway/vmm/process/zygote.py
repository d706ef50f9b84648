"""The process that makes clones, ``python -c ... PARENT CONTROL MEMORY STATE``.

The numbers are the parent's process id and inherited descriptors: the control channel, and a
snapshot's files. It has imported all that a VMM needs, read the state and mapped the memory, and
forks for each clone a child that makes its VM of that, confines itself and lives like any VMM.

It runs no guest and reads nothing that comes from one but the state, and it is what its parent is:
neither it nor a child is confined until the child's VM is made.
"""

from __future__ import annotations

import _socket
import errno
import gc
import os
import select
import signal
import sys
import time

from slipway._model.errors import HostError
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.memory import GuestMemory
from slipway.vmm.microvm import MicroVm
from slipway.vmm.process import confinement as confine
from slipway.vmm.process import control, descriptors
from slipway.vmm.process.vmm_process import VmmProcess, run_and_exit, send_message
from slipway.vmm.snapshot import state_file as snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Of a clone: control channel, agent, console, standard error.
DESCRIPTORS = 4


def main() -> NoReturn:
    """Make clones until the parent wants none any more, and wait for their ends."""
    parent, channel, memory, state = map(int, sys.argv[-4:])
    confine.set_parent_death_signal(parent)
    run_and_exit(channel, lambda: Zygote(channel, memory, state).run())


class Zygote:
    """Never has a thread: a fork copies but the one that calls it."""

    def __init__(self, channel: int, memory: int, state: int) -> None:
        """Take over the descriptors.

        Raises:
            HostError: the snapshot is of no use here.
        """
        self._saved = snapshot.decode(snapshot.read(state))
        if os.fstat(memory).st_size != self._saved.memory:
            raise HostError("the snapshot's memory has not the length that its state says")
        layout = find_architecture().memory_regions(self._saved.memory)
        self._memory = GuestMemory(layout, memory)
        for descriptor in (memory, state):
            os.close(descriptor)
        self._channel = _socket.socket(fileno=channel)
        self._poll = select.epoll()
        # The children by their descriptors of processes.
        self._children: dict[int, int] = {}
        self._closing = False
        # What is there now stays, and nobody looks for garbage in it.
        gc.disable()
        gc.freeze()

    def run(self) -> int:
        """Until no more clones are wanted and none is left; the exit status."""
        send_message(self._channel.fileno(), control.RUNNING)
        self._poll.register(self._channel, select.EPOLLIN)
        while not self._closing or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._reap(descriptor)
                else:
                    self._handle_request()
        return 0

    def _handle_request(self) -> None:
        try:
            message, given = descriptors.receive(self._channel, control.MAX_MESSAGE, DESCRIPTORS)
        except OSError:
            os._exit(1)  # the parent is gone
        verb, _ = control.decode(message)
        if verb == control.CLONE:
            if given:
                self._clone(given)
            else:  # they found no room in this process
                self._refuse_clone(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        elif verb == control.CLOSE:
            self._closing = True
        elif not message:
            os._exit(1)

    def _clone(self, given: list[int]) -> None:
        began = time.monotonic_ns()
        zygote = os.getpid()
        try:
            process = os.fork()
        except OSError as error:
            self._refuse_clone(error)
        else:
            if not process:
                self._run_child(zygote, given, began)
            self._adopt_child(process)
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _adopt_child(self, process: int) -> None:
        """Keep a child, and let the parent have it as well."""
        try:
            descriptor = os.pidfd_open(process)
        except OSError as error:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            self._refuse_clone(error)
            return
        self._children[descriptor] = process
        self._poll.register(descriptor, select.EPOLLIN)
        message = control.encode(control.CLONED, process=str(process))
        try:
            descriptors.send(self._channel, message, [descriptor])
        except OSError:
            os._exit(1)

    def _refuse_clone(self, error: OSError) -> None:
        message = f"a clone cannot be started: {error.strerror}"
        hint = "Run fewer machines at once."
        send_message(self._channel.fileno(), control.REFUSED, message=message, hint=hint)

    def _reap(self, descriptor: int) -> None:
        process = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        channel = self._channel.fileno()
        send_message(channel, control.EXITED, process=str(process), code=str(code))

    def _run_child(self, zygote: int, given: list[int], began: int) -> NoReturn:
        """In the child: what a clone does with its run."""
        channel, agent, console, errors = given
        try:
            confine.set_parent_death_signal(zygote)
            os.dup2(errors, sys.stderr.fileno())
            # What is the zygote's and its other children's.
            self._poll.close()
            self._channel.close()
            for descriptor in (errors, *self._children):
                os.close(descriptor)
            run_and_exit(channel, lambda: self._run_clone(channel, agent, console, began))
        finally:  # whatever happens, a child never goes on as a zygote
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)

    def _run_clone(self, channel: int, agent: int, console: int, began: int) -> int:
        gc.enable()
        vm = MicroVm(self._saved.config, agent, console, self._memory)
        vm.restore(self._saved)
        return VmmProcess(channel, agent, vm, began).run()
