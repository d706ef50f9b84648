"""Start and end of PID 1: preparation of the guest, port, agent, reboot."""

from __future__ import annotations

import os

from slipway_agent import cgroup, syscalls
from slipway_agent.agent import Agent
from slipway_agent.guest_system import GuestSystem
from slipway_agent.kernel_modules import PORT_MODULES, load_modules
from slipway_agent.mounts import mount_kernel_file_systems, seal_root
from slipway_agent.network import raise_loopback
from slipway_agent.port import TCP, HostPort, PortClosedError, open_port
from slipway_protocol import messages as m

SENTINEL = "/.slipway-complete"
PORT_OPTION = "slipway.port="
# The kernel never kills the agent to free memory; proc(5), oom_score_adj.
OOM_NEVER = b"-1000"
# Closes features of root and of old programs, and state that would outlive a job.
_SETTINGS = (
    # The limit of a program's group counts the pages that the program touches. The kernel must not
    # refuse allocations because of its estimate of other processes.
    ("/proc/sys/vm/overcommit_memory", b"1"),
    # From 512 MiB on, the kernel has huge pages and would keep up to 67 MiB free for them.
    ("/proc/sys/vm/min_free_kbytes", b"4096"),
    # The default allows threads up to an eighth of the memory; groups have limits of their own.
    ("/proc/sys/kernel/threads-max", b"16384"),
    ("/proc/sys/user/max_user_namespaces", b"0"),
    ("/proc/sys/kernel/keys/maxkeys", b"1"),
    ("/proc/sys/kernel/dmesg_restrict", b"1"),
    # In TIME_WAIT a closed connection would block its port for the programs of the next minute.
    ("/proc/sys/net/ipv4/tcp_max_tw_buckets", b"0"),
    # The interface's queue loses nothing. Debian's default, fq_codel, drops packets that wait for
    # more than 5 ms, as they do in a guest of a busy host, although the link is nowhere full.
    ("/proc/sys/net/core/default_qdisc", b"pfifo_fast"),
)


def ensure_standard_descriptors() -> None:
    """Open descriptors 0, 1 and 2, which are missing in a machine without console."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def prepare_guest() -> list[str]:
    """Prepare the guest for the port; return a line for each problem.

    No problem ends the agent: with an open port, the agent can report the problems.
    """
    problems = mount_kernel_file_systems()
    for path, value in (("/proc/self/oom_score_adj", OOM_NEVER), *_SETTINGS):
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(value)
        except FileNotFoundError:
            pass  # a kernel without this feature
        except OSError as error:
            problems.append(f"cannot set {path}: {error.strerror}")
    try:
        raise_loopback()
    except OSError as error:
        problems.append(f"cannot bring up loopback: {error.strerror}")
    problems += load_modules(PORT_MODULES)
    return problems


def _read_port_option() -> str | None:
    """Return the port's device from the kernel's command line, or None."""
    with open("/proc/cmdline", "rb", buffering=0) as file:
        words = file.read(65536).decode("utf-8", "replace").split()
    for word in words:
        if word.startswith(PORT_OPTION):
            return word.removeprefix(PORT_OPTION)
    return None


def _open_port(option: str | None) -> HostPort:
    """Open the port of the option on the kernel's command line, or the one that is found.

    Raises:
        OSError: the port is missing.
    """
    if option is not None and option.startswith(f"{TCP},"):
        from slipway_agent.tcp_port import open_tcp_port

        return open_tcp_port(option)
    return open_port(option)


def yield_to_programs() -> None:
    """Let programs run on when the agent wakes up; sched(7), sched_setscheduler(2).

    A program that writes wakes the agent. On one processor, an unbuffered ``print`` with several
    writes would reach the host in several pieces, each at the cost of two context switches. With
    SCHED_BATCH the program continues until it waits, or until the kernel's next tick: 4 ms at most.
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def serve_host() -> None:
    """Prepare the guest and serve the host until Shutdown.

    Raises:
        OSError: the port is missing.
        PortClosedError: the host has closed its end.
    """
    problems = prepare_guest()
    port = _open_port(_read_port_option())
    complete = os.path.exists(SENTINEL)
    controllers = None
    try:
        controllers = cgroup.make_jobs_group()
    except OSError as error:
        problems.append(f"cgroup v2 is missing: {error.strerror}")
    try:
        seal_root()
    except OSError as error:
        problems.append(f"cannot make the root file system read-only: {error.strerror}")
    agent = Agent(GuestSystem(port.kind, controllers), port)
    for problem in problems:
        agent.log(m.Level.WARNING, problem)
    if not complete:
        agent.report_fault(
            "the image is incomplete: the machine has too little memory to unpack it, or the image"
            " is truncated; use more memory, or build the image again",
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
    """Run as PID 1 and end the machine. Never return."""
    ensure_standard_descriptors()
    syscalls.keep_heap()
    yield_to_programs()
    try:
        serve_host()
    except PortClosedError:
        pass
    except BaseException:  # also SystemExit and KeyboardInterrupt: PID 1 has no caller
        import traceback

        with open("/dev/console", "w", encoding="utf-8", errors="replace") as console:
            traceback.print_exc(file=console)
    finally:
        # All files are in memory, so that no sync is needed; reboot(2) stops every process.
        syscalls.reboot()
