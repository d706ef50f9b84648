"""PID 1 from its first instruction to the conversation with the host, and to the end."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from struct import pack

from slipway_agent import cgroup, syscalls
from slipway_agent.agent import Agent
from slipway_agent.guest_system import GuestSystem
from slipway_agent.mounts import mount_kernel_file_systems, seal_root
from slipway_agent.port import PortClosedError, open_port
from slipway_protocol import messages as m

SENTINEL = "/.slipway-complete"
MODULES = "/.agent/modules"
PORT_OPTION = "slipway.port="
# include/uapi/linux/sockios.h, include/uapi/linux/if.h
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41
# How unwilling the kernel is to kill the agent for its memory: never.
OOM_NEVER = b"-1000"
# What only root and old programs need, and what would outlive a job.
_SETTINGS = (
    # Memory is what a program touches, and its group's limit bounds that. No allocation is refused
    # for what the kernel guesses of others.
    ("/proc/sys/vm/overcommit_memory", b"1"),
    # With huge pages, which it has from 512 MiB on, the kernel keeps up to 67 MiB free for them.
    ("/proc/sys/vm/min_free_kbytes", b"4096"),
    # The kernel allows as many threads as fit into an eighth of the memory; groups have their own.
    ("/proc/sys/kernel/threads-max", b"16384"),
    ("/proc/sys/user/max_user_namespaces", b"0"),
    ("/proc/sys/kernel/keys/maxkeys", b"1"),
    ("/proc/sys/kernel/dmesg_restrict", b"1"),
    # A closed connection would keep its port from the programs of the next minute.
    ("/proc/sys/net/ipv4/tcp_max_tw_buckets", b"0"),
)


def ensure_standard_descriptors() -> None:
    """Make 0, 1 and 2 exist: a machine without console starts PID 1 without them."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def prepare_guest() -> list[str]:
    """Prepare the machine up to where the port can be opened; returns what went wrong, in lines.

    Whatever fails here is reported and survived: a machine that can still talk can say why.
    """
    problems = mount_kernel_file_systems()
    for path, value in (("/proc/self/oom_score_adj", OOM_NEVER), *_SETTINGS):
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(value)
        except FileNotFoundError:
            pass  # this kernel has no such thing
        except OSError as error:
            problems.append(f"{path} cannot be set: {error.strerror}")
    try:
        _raise_loopback()
    except OSError as error:
        problems.append(f"loopback cannot be raised: {error.strerror}")
    problems += _load_modules()
    return problems


def _raise_loopback() -> None:
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        fcntl.ioctl(control.fileno(), SIOCSIFFLAGS, pack("16sH22x", b"lo", IFF_UP_RUNNING))
    finally:
        control.close()


def _load_modules() -> list[str]:
    """Insert the modules that the image brings, in the order of their names."""
    try:
        names = sorted(os.listdir(MODULES))
    except FileNotFoundError:
        return []
    problems = []
    for name in names:
        if not name.endswith(".ko"):
            continue
        try:
            syscalls.load_module(f"{MODULES}/{name}")
        except OSError as error:
            if error.errno != errno.EEXIST:
                problems.append(f"module {name} cannot be loaded: {error.strerror}")
    return problems


def _read_port_option() -> str | None:
    """The device that the kernel's command line names, if any."""
    with open("/proc/cmdline", "rb", buffering=0) as file:
        words = file.read(65536).decode("utf-8", "replace").split()
    for word in words:
        if word.startswith(PORT_OPTION):
            return word.removeprefix(PORT_OPTION)
    return None


def yield_to_programs() -> None:
    """Have no wake-up of ours interrupt a program; sched(7), sched_setscheduler(2).

    A program that writes wakes us. On one processor, what it writes in several calls, as an
    unbuffered ``print`` does, would reach the host in as many pieces, each for the price of two
    context switches. So it goes on until it waits, or the kernel's next tick, 4 ms at most.
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def serve_host() -> None:
    """Prepare the machine and talk to the host until the machine shall end.

    Raises:
        OSError: there is no port.
        PortClosedError: the host is gone.
    """
    problems = prepare_guest()
    port = open_port(_read_port_option())
    complete = os.path.exists(SENTINEL)
    controllers = None
    try:
        controllers = cgroup.make_jobs_group()
    except OSError as error:
        problems.append(f"no cgroup v2: {error.strerror}")
    try:
        seal_root()
    except OSError as error:
        problems.append(f"the root file system cannot be made read-only: {error.strerror}")
    agent = Agent(GuestSystem(port.kind, controllers), port)
    for problem in problems:
        agent.log(m.Level.WARNING, problem)
    if not complete:
        agent.report_fault(
            "the image is incomplete: the machine has too little memory to unpack it, or it was"
            " cut short; give more memory or rebuild the image",
            fatal=True,
        )
        port.flush_and_wait()
        return
    try:
        agent.run()
    except PortClosedError:
        raise
    except Exception as error:
        agent.report_fault(f"the agent failed: {type(error).__name__}: {error}", fatal=True)
        port.flush_and_wait()
        raise


def main() -> None:
    """Run as PID 1. Never returns: the machine ends."""
    ensure_standard_descriptors()
    syscalls.keep_heap()
    yield_to_programs()
    try:
        serve_host()
    except PortClosedError:
        pass
    except BaseException:
        import traceback

        with open("/dev/console", "w", encoding="utf-8", errors="replace") as console:
            traceback.print_exc(file=console)
    finally:
        # Nothing is worth syncing, and reboot stops every process.
        syscalls.reboot()
