"""The VMM's process, ``python -c ... PARENT CONTROL AGENT CONSOLE``, which the kvm machine starts.

The numbers are the parent's process id and inherited descriptors. The first message on the control
channel says what to boot; the end of that channel is the end of the process.
"""

from __future__ import annotations

import os
import select
import sys
import time

from slipway._model.errors import HostError, InputError, SlipwayError
from slipway.vmm.microvm import MicroVm
from slipway.vmm.process import confinement as confine
from slipway.vmm.process import control
from slipway.vmm.snapshot.pagemap import read_own
from slipway.vmm.spec import BootSpec, VmConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from slipway.vmm.pages import Range

# With all digits they still fit into a message.
MAX_RANGES = 3000
_WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


def main() -> NoReturn:
    """Run one VM to its end."""
    parent, channel, agent, console = map(int, sys.argv[-4:])
    confine.set_parent_death_signal(parent)
    run_and_exit(
        channel, lambda: VmmProcess(channel, agent, _boot_vm(channel, agent, console)).run()
    )


def _boot_vm(channel: int, agent: int, console: int) -> MicroVm:
    """The VM that the parent asks for."""
    verb, texts = control.decode(os.read(channel, control.MAX_MESSAGE))
    if verb != control.START:
        os._exit(1)  # the parent died before it said what to do
    config = VmConfig(int(texts["memory"]), int(texts["cpus"]), texts["virtio"] == "1")
    vm = MicroVm(config, agent, console)
    vm.boot(BootSpec(texts["kernel"], texts["initramfs"].split("\n"), texts["command_line"]))
    return vm


def run_and_exit(channel: int, run: Callable[[], int]) -> NoReturn:
    """End this process as ``run`` does; what it raises is told on ``channel``."""
    try:
        code = run()
    except SlipwayError as error:
        kind = "input" if isinstance(error, InputError) else "host"
        send_message(channel, control.FAILED, kind=kind, message=error.message, hint=error.hint)
        code = 1
    except OSError as error:
        message = f"this host refuses something that a VM needs: {error.strerror or error}"
        send_message(channel, control.FAILED, kind="host", message=message, hint="")
        code = 1
    except MemoryError:
        send_message(
            channel, control.FAILED, kind="host", message="there is no memory left", hint=""
        )
        code = 1
    # No destructors: the kernel takes the guest's memory back faster than we can unmap it.
    sys.stderr.flush()
    os._exit(code)


def send_message(channel: int, verb: str, **texts: str) -> None:
    """Say something to the parent; without one, this process ends."""
    try:
        os.write(channel, control.encode(verb, **texts))
    except OSError:
        os._exit(1)  # the parent is gone


class VmmProcess:
    """The main thread: what comes from the parent, and the end of the VM."""

    def __init__(self, channel: int, agent: int, vm: MicroVm, began_ns: int = 0) -> None:
        """``began_ns``: when that did which led to here, by ``time.monotonic_ns``."""
        self._channel = channel
        self._agent = agent
        self._vm = vm
        self._began_ns = began_ns
        self._pagemap = -1

    def run(self) -> int:
        """Until the VM, or the parent, has ended; the exit status."""
        vm = self._vm
        poll = select.epoll()
        poll.register(self._agent, _WATCHED)
        poll.register(self._channel, select.EPOLLIN)
        poll.register(vm.backend.wake, select.EPOLLIN)
        poll.register(vm.ended, select.EPOLLIN)
        self._pagemap = confine.drop_privileges(
            vm.memory.host_address
        )  # nothing is imported, opened or made any more
        elapsed = time.monotonic_ns() - self._began_ns if self._began_ns else 0
        cpu_us, start_us = time.process_time_ns() // 1000, elapsed // 1000
        send_message(self._channel, control.RUNNING, cpu_us=str(cpu_us), start_us=str(start_us))
        vm.start()
        while vm.ending is None and not vm.backend.ended:
            for descriptor, _ in poll.poll():
                if descriptor == self._channel:
                    if not self._handle_request():
                        return 0
                elif descriptor != vm.ended:
                    vm.on_agent_ready()
        if vm.ending is None:
            return 0
        vm.stop()
        ending = vm.ending
        text = ending.text
        if not ending.wanted:
            text = "\n".join([text, *vm.describe(), *vm.count_exits()[:4]])
        send_message(self._channel, control.ENDED, text=text, wanted=str(int(ending.wanted)))
        return 0 if ending.wanted else 1

    def _handle_request(self) -> bool:
        """Do what the parent asks for; False once it is gone."""
        vm = self._vm
        verb, _ = control.decode(os.read(self._channel, control.MAX_MESSAGE))
        if verb == control.PAUSE:
            vm.pause()
            send_message(self._channel, control.PAUSED)
        elif verb == control.RESUME:
            vm.resume()
            send_message(self._channel, control.RESUMED)
        elif verb == control.REPORT:
            send_message(self._channel, control.REPORT, exits="\n".join(vm.count_exits()))
        elif verb == control.SNAPSHOT:
            self._send_snapshot()
        elif verb == control.TOUCHED:
            self._send_touched()
        return bool(verb)

    def _send_touched(self) -> None:
        """What the guest has written to until now; once, since the pagemap cannot be wound back."""
        ranges: list[Range] = []
        if self._pagemap >= 0:
            ranges = read_own(self._pagemap, self._vm.memory.size)
            os.close(self._pagemap)
            self._pagemap = -1
        # What does not fit into a message comes page by page, as without all this.
        text = " ".join(f"{start:x}-{end:x}" for start, end in ranges[:MAX_RANGES])
        send_message(self._channel, control.TOUCHED, ranges=text)

    def _send_snapshot(self) -> None:
        try:
            self._vm.save(self._channel)
        except HostError as error:
            send_message(self._channel, control.REFUSED, message=error.message, hint=error.hint)
        except (OSError, MemoryError) as error:
            send_message(
                self._channel, control.REFUSED, message=str(error) or "there is no memory left"
            )
        else:
            send_message(self._channel, control.SAVED)
