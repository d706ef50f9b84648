"""Zygote: process that makes clones, ``python -c ... PARENT CONTROL MEMORY STATE``.

The arguments are the parent's process id and inherited descriptors: the control channel and a
snapshot's files. The zygote has imported all modules of a VMM, read the state and mapped the
memory. For each clone it forks a child, which makes its VM of that, confines itself and runs like
any VMM.

A zygote runs no guest and reads no data of a guest but the state. It has its parent's rights: a
child is confined only after its VM is made.
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

from slipway._util.errors import HostError
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.memory import GuestMemory
from slipway.vmm.microvm import MicroVm
from slipway.vmm.process import control, descriptors, privileges
from slipway.vmm.process.control import send_message
from slipway.vmm.process.vmm_process import VmmProcess, run_and_exit
from slipway.vmm.snapshot import state_file as snapshot
from slipway.vmm.spec import TCP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Of each clone: control channel, console, standard error; before the last, agent and network if the
# snapshot's machine has them.
DESCRIPTORS = 3


def main() -> NoReturn:
    """Make clones on request, and wait for their ends."""
    parent, channel, memory, state = map(int, sys.argv[-4:])
    privileges.set_parent_death_signal(parent)
    run_and_exit(channel, lambda: Zygote(channel, memory, state).run())


class Zygote:
    """Zygote; it never has a thread, as a fork copies only the calling thread."""

    def __init__(self, channel: int, memory: int, state: int) -> None:
        """Take over the descriptors.

        Raises:
            HostError: the snapshot cannot be used here.
        """
        self._saved = snapshot.decode(snapshot.read(state))
        snapshot.check_architecture(self._saved, os.uname().machine)
        if os.fstat(memory).st_size != self._saved.memory:
            raise HostError("the snapshot's memory and state differ in size")
        layout = find_architecture().place_memory(self._saved.memory)
        self._memory = GuestMemory(layout, memory)
        for descriptor in (memory, state):
            os.close(descriptor)
        self._channel = _socket.socket(fileno=channel)
        self._poll = select.epoll()
        # Process ids of the children, by pidfd.
        self._children: dict[int, int] = {}
        self._closing = False
        if self._saved.network:  # once, before the forks
            import slipway.vmm.devices.virtio_net  # noqa: F401
        # Present objects stay, and are exempt from garbage collection.
        gc.disable()
        gc.freeze()

    def run(self) -> int:
        """Run until the parent wants no more clones and all have ended; return the exit status."""
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
            count = DESCRIPTORS + (self._saved.port != TCP) + self._saved.network
            message, given = descriptors.receive(self._channel, control.MAX_MESSAGE, count)
        except OSError:
            os._exit(1)  # the parent has ended
        verb, _ = control.decode(message)
        if verb == control.CLONE:
            if given:
                self._clone(given)
            else:  # this process has too many descriptors
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
        """Keep a child, and send its pidfd to the parent."""
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
        """Run the child's VM and end; never returns, so that a child never acts as zygote."""
        channel, *sockets, errors = given
        try:
            privileges.set_parent_death_signal(zygote)
            os.dup2(errors, sys.stderr.fileno())
            # Descriptors of the zygote and of its other children.
            self._poll.close()
            self._channel.close()
            for descriptor in (errors, *self._children):
                os.close(descriptor)
            run_and_exit(channel, lambda: self._run_clone(channel, sockets, began))
        finally:  # on any error, a child never acts as zygote
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)

    def _run_clone(self, channel: int, sockets: list[int], began: int) -> int:
        gc.enable()
        vm = MicroVm(self._saved.config, sockets, self._memory)
        vm.restore(self._saved)
        return VmmProcess(channel, vm, began).run()
