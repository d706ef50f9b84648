"""Process of a VMM, a child of a zygote.

Its descriptors are the control channel, the console, one for each device of the agent's port, and
the network if the machine has one. The end of the control channel is the end of the process.
"""

from __future__ import annotations

import os
import select
import sys
import time

from slipway._util.errors import HostError, InputError, SlipwayError
from slipway.vmm.boot_template import decode_template
from slipway.vmm.microvm import MicroVm
from slipway.vmm.process import confinement as confine
from slipway.vmm.process import control
from slipway.vmm.process.control import send_message
from slipway.vmm.snapshot.pagemap import read_own
from slipway.vmm.spec import BootSpec, VmConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from slipway.jail.jail import Jail
    from slipway.vmm.pages import Range

# With all their digits, so many fit into a message.
MAX_RANGES = 3000
_WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


def boot_vm(channel: int, sockets: list[int]) -> MicroVm:
    """Return the VM that the first message on ``channel`` says; ``sockets`` are those of the VM.

    The file of a boot template stands behind them; it is closed here.

    Raises:
        HostError: this host cannot run the VM.
        InputError: a file cannot be booted.
    """
    verb, texts = control.decode(os.read(channel, control.MAX_MESSAGE))
    if verb != control.START:
        os._exit(1)  # the parent died before its request
    config = VmConfig(
        int(texts["memory"]), int(texts["cpus"]), texts["port"], texts["network"] == "1"
    )
    template = decode_template(text, sockets.pop()) if (text := texts["template"]) else None
    vm = MicroVm(config, sockets)
    initramfs = texts["initramfs"].split("\n")
    vm.boot(BootSpec(texts["kernel"], initramfs, texts["command_line"], template))
    if template is not None:
        os.close(template.file)
    return vm


def run_and_exit(channel: int, run: Callable[[], int]) -> NoReturn:
    """End this process with the status of ``run``; its error is sent to ``channel``."""
    try:
        code = run()
    except SlipwayError as error:
        kind = "input" if isinstance(error, InputError) else "host"
        send_message(channel, control.FAILED, kind=kind, message=error.message, hint=error.hint)
        code = 1
    except OSError as error:
        message = f"this host refuses a call that a VM needs: {error.strerror or error}"
        send_message(channel, control.FAILED, kind="host", message=message, hint="")
        code = 1
    except MemoryError:
        send_message(channel, control.FAILED, kind="host", message="out of memory", hint="")
        code = 1
    # No destructors: the kernel frees the guest's memory faster than an unmap.
    sys.stderr.flush()
    os._exit(code)


class VmmProcess:
    """Main thread: handles the parent's requests, and the end of the VM."""

    def __init__(self, channel: int, vm: MicroVm, jail: Jail, began_ns: int) -> None:
        """Take the VM; ``began_ns`` is when the fork of the process began (``time.monotonic_ns``).

        The process is a child of ``jail``, and has not entered it.
        """
        self._channel = channel
        self._jail = jail
        self._vm = vm
        self._began_ns = began_ns
        self._pagemap = -1

    def run(self) -> int:
        """Run until VM or parent has ended; return the exit status."""
        vm = self._vm
        poll = select.epoll()
        for backend in vm.backends.values():
            poll.register(backend.descriptor, _WATCHED)
            poll.register(backend.wake, select.EPOLLIN | select.EPOLLET)
        poll.register(self._channel, select.EPOLLIN)
        poll.register(vm.ended, select.EPOLLIN)
        network = -1
        if vm.network is not None:
            network = vm.network.descriptor
            poll.register(network, _WATCHED)
        self._pagemap = confine.drop_privileges(
            self._jail, vm.memory.host_address
        )  # from here on no import, file or object is made
        elapsed = time.monotonic_ns() - self._began_ns
        cpu_us, start_us = time.process_time_ns() // 1000, elapsed // 1000
        send_message(self._channel, control.RUNNING, cpu_us=str(cpu_us), start_us=str(start_us))
        vm.start()
        while vm.ending is None and not vm.is_line_closed:
            for descriptor, events in poll.poll():
                if descriptor == self._channel:
                    if not self._handle_request():
                        return 0
                elif descriptor == network:
                    vm.on_network_ready(readable=bool(events & select.EPOLLIN))
                elif descriptor != vm.ended:
                    vm.on_agent_ready(descriptor)
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
        """Handle a request of the parent; return False after the parent has ended."""
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
        """Report the pages that the guest has written to; once, as the pagemap is not rewound."""
        ranges: list[Range] = []
        if self._pagemap >= 0:
            ranges = read_own(self._pagemap, self._vm.memory.size)
            os.close(self._pagemap)
            self._pagemap = -1
        # Ranges that do not fit into a message are faulted in page by page, as without a working
        # set.
        text = " ".join(f"{start:x}-{end:x}" for start, end in ranges[:MAX_RANGES])
        send_message(self._channel, control.TOUCHED, ranges=text)

    def _send_snapshot(self) -> None:
        try:
            self._vm.save(self._channel)
        except HostError as error:
            send_message(self._channel, control.REFUSED, message=error.message, hint=error.hint)
        except (OSError, MemoryError) as error:
            send_message(self._channel, control.REFUSED, message=str(error) or "out of memory")
        else:
            send_message(self._channel, control.SAVED)
