"""The VMM's process, ``python -c ... PARENT CONTROL AGENT CONSOLE``, which the kvm machine starts.

The numbers are the parent's process id and inherited descriptors. The first message on the control
channel says what to boot; the end of that channel is the end of the process.
"""

from __future__ import annotations

import os
import select
import sys
import time

from slipway._errors import InputError, SlipwayError
from slipway.vmm import confine, control
from slipway.vmm.microvm import MicroVm, Spec

_WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


def main() -> None:
    """Run one VM to its end. Never returns."""
    parent, channel, agent, console = map(int, sys.argv[-4:])
    confine.die_with(parent)
    try:
        code = Process(channel, agent, console).run()
    except SlipwayError as error:
        kind = "input" if isinstance(error, InputError) else "host"
        _tell(channel, control.FAILED, kind=kind, message=error.message, hint=error.hint)
        code = 1
    except OSError as error:
        message = f"this host refuses something that a VM needs: {error.strerror or error}"
        _tell(channel, control.FAILED, kind="host", message=message, hint="")
        code = 1
    except MemoryError:
        _tell(channel, control.FAILED, kind="host", message="there is no memory left", hint="")
        code = 1
    # No destructors: the kernel takes the guest's memory back faster than we can unmap it.
    sys.stderr.flush()
    os._exit(code)


def _tell(channel: int, verb: str, **texts: str) -> None:
    try:
        os.write(channel, control.encode(verb, **texts))
    except OSError:
        os._exit(1)  # the parent is gone


class Process:
    """The main thread: what comes from the parent, and the end of the VM."""

    def __init__(self, channel: int, agent: int, console: int) -> None:
        self._channel = channel
        verb, texts = control.decode(os.read(channel, control.MAX_MESSAGE))
        if verb != control.START:
            os._exit(1)  # the parent died before it said what to do
        spec = Spec(
            texts["kernel"],
            texts["initramfs"].split("\n"),
            int(texts["memory"]),
            texts["command_line"],
            cpus=int(texts["cpus"]),
            virtio=texts["virtio"] == "1",
        )
        self._vm = MicroVm(spec, agent, console)
        self._agent = agent

    def run(self) -> int:
        """Until the VM, or the parent, has ended; the exit status."""
        vm = self._vm
        poll = select.epoll()
        poll.register(self._agent, _WATCHED)
        poll.register(self._channel, select.EPOLLIN)
        poll.register(vm.link.wake, select.EPOLLIN)
        poll.register(vm.ended, select.EPOLLIN)
        confine.give_up()  # nothing is imported, opened or made from here on
        _tell(self._channel, control.RUNNING, cpu_us=str(time.process_time_ns() // 1000))
        vm.start()
        while vm.ending is None and not vm.link.ended:
            for descriptor, _ in poll.poll():
                if descriptor == self._channel:
                    if not self._obey():
                        return 0
                elif descriptor != vm.ended:
                    vm.agent_ready()
        if vm.ending is None:
            return 0
        vm.stop()
        ending = vm.ending
        text = ending.text
        if not ending.wanted:
            text = "\n".join([text, *vm.describe(), *vm.exits()[:4]])
        _tell(self._channel, control.ENDED, text=text, wanted=str(int(ending.wanted)))
        return 0 if ending.wanted else 1

    def _obey(self) -> bool:
        """Do what the parent asks for; False once it is gone."""
        vm = self._vm
        verb, _ = control.decode(os.read(self._channel, control.MAX_MESSAGE))
        if verb == control.PAUSE:
            vm.pause()
            _tell(self._channel, control.PAUSED)
        elif verb == control.RESUME:
            vm.resume()
            _tell(self._channel, control.RESUMED)
        elif verb == control.REPORT:
            _tell(self._channel, control.REPORT, exits="\n".join(vm.exits()))
        return bool(verb)
