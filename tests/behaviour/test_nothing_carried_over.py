"""What a job can find of those before it in the same guest: nothing."""

from __future__ import annotations

import json
import os
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from slipway._model.options import Options
from slipway._run.job_request import JobRequest
from slipway._run.output_sink import OutputCapture
from slipway._util.units import MIB

if TYPE_CHECKING:
    from support.microvm import Microvm

# All that a program can see of its surroundings, but what counts up (ids of processes, mounts and
# devices, the kernel's statistics) and the size of its disk, a share of the memory that is free.
LOOK = dedent("""
    import ctypes, json, os, re, resource, signal, socket
    libc = ctypes.CDLL(None, use_errno=True)
    seen = {}

    def lines(path):
        try:
            return open(path).read().splitlines()
        except OSError as error:
            return error.strerror

    seen["files"] = {
        place: sorted(os.path.join(top, name)
                      for top, *names in os.walk(place) for name in sum(names, []))
        for place in ("/work", "/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "/dev/mqueue")
    }
    seen["places"] = {
        place: (oct(found.st_mode), found.st_uid, found.st_nlink)
        for place in ("/work", "/tmp", "/var/tmp", "/dev/shm") for found in [os.stat(place)]
    }
    room = os.statvfs("/work")
    seen["used"] = room.f_blocks - room.f_bfree, room.f_files - room.f_ffree
    mounts = [line.split(" ", 3)[3] for line in lines("/proc/self/mountinfo")]
    sizes = re.compile(r"(size|nr_inodes)=[0-9]+k?")
    seen["mounts"] = [sizes.sub("", mount) for mount in mounts]
    seen["groups"] = sorted(top for top, *_ in os.walk("/sys/fs/cgroup"))
    seen["processes"] = sum(
        name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid()
        for name in os.listdir("/proc")
    )
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "unix", "packet", "netlink"):
        table = lines(f"/proc/net/{protocol}")
        seen[protocol] = len(table) if isinstance(table, list) else table
    for table in ("shm", "sem", "msg"):
        seen[table] = lines(f"/proc/sysvipc/{table}")
    seen["queue"] = libc.mq_open(b"/letter", os.O_RDWR), ctypes.get_errno()
    USER_KEYRING = -4
    seen["key"] = libc.syscall(249, b"user", b"letter", 0, USER_KEYRING), ctypes.get_errno()
    seen["environment"] = dict(os.environ)
    seen["self"] = (
        os.getcwd(), os.umask(0o022), os.getresuid(), os.getresgid(), os.getgroups(), os.nice(0),
        os.sched_getscheduler(0), sorted(os.sched_getaffinity(0)),
        lines("/proc/self/oom_score_adj"),
        sorted(os.listdir("/proc/self/fd")), lines("/proc/self/personality"),
        [resource.getrlimit(number) for number in range(16) if number != resource.RLIMIT_CPU],
        [str(signal.getsignal(number)) for number in range(1, 32)],
        [line for line in lines("/proc/self/status") if line[:3] in ("Sig", "Shd", "Cap", "NoN")],
    )
    seen["agent"] = os.sched_getscheduler(1)
    seen["ports"] = []
    for port in (4711, 4712):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    seen["ports"].append((port, error.strerror))
    for name in ("\\0letter", "/tmp/letter.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            seen[f"socket {name}"] = probe.connect_ex(name)
    print(json.dumps(seen, indent=1, default=str))
    """)

# A letter to the next job in everything that can hold one.
LEAVE = dedent("""
    import array, ctypes, fcntl, os, signal, socket, sys, time
    libc = ctypes.CDLL(None)
    for place in ("/tmp", "/var/tmp", "/dev/shm", "."):
        os.makedirs(f"{place}/letters/deep", exist_ok=True)
        open(f"{place}/letters/deep/letter", "w").write("to the next")
        os.mkfifo(f"{place}/letters/fifo")
        os.chmod(f"{place}/letters", 0)
    libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)
    libc.mq_open(b"/letter", os.O_RDWR | os.O_CREAT, 0o666, None)
    libc.syscall(248, b"user", b"letter", b"to the next", 11, -4)
    os.environ["LETTER"] = "to the next"
    os.umask(0o077), os.nice(5), os.chmod(".", 0o777)
    kept = []
    for port in (4711, 4712):
        listener = socket.create_server(("127.0.0.1", port))
        client = socket.create_connection(("127.0.0.1", port))
        server, _ = listener.accept()
        server.sendall(b"x" * 100_000)
        if port == 4711:
            kept += [listener, client, server]
        else:
            server.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
            server.close(), client.close(), listener.close()
    for name in ("\\0letter", "/tmp/letter.sock"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(name)
        listener.listen()
        kept.append(listener)
    kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    kept[-1].bind(("127.0.0.1", 4711))
    # Two sockets in flight, each in the queue of the other.
    pair = socket.socketpair()
    for end, other in (pair, pair[::-1]):
        socket.send_fds(end, [b"x"], [end.fileno(), other.fileno()])
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            for number in (1, 2, 3, 15):
                signal.signal(number, signal.SIG_IGN)
            if os.fork():
                os._exit(0)
            time.sleep(1000)
    print("left", flush=True)
    """)
ENDINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "exits": ("", {}, "ok"),
    "is killed": ("os.kill(0, 9)", {}, "signaled"),
    "times out": ("time.sleep(1000)", {"timeout": 5.0}, "timed_out"),
    "runs out of memory": ("x = bytearray(1 << 40)", {"memory_limit": 64 * MIB}, "memory_exceeded"),
    "eats all memory": (
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        {"memory_limit": 64 * MIB},
        "memory_exceeded",
    ),
}
BASH_LEAVE = """
for place in /tmp /var/tmp /dev/shm .; do echo letter > $place/letter; done
export LETTER=letter
(trap '' TERM HUP INT; while :; do sleep 1; done) &
set -o noclobber; ulimit -n 20; umask 077; alias ls=false; exec 7> /tmp/held
sleep 1000 &
"""
BASH_LOOK = """
echo /tmp/* /var/tmp/* /dev/shm/* /work/* ${LETTER-none} $(umask) $(ulimit -n) $- $(alias)
for process in /proc/[0-9]*; do [ -O $process ] && echo process; done
"""


def look(vm: Microvm) -> dict[str, Any]:
    """What a program sees."""
    outcome = vm.run(LOOK)
    assert outcome.program.verdict == "ok", outcome.stderr
    seen: dict[str, Any] = json.loads(outcome.stdout)
    return seen


@pytest.mark.languages("python")
def test_first_job_finds_an_empty_place(vm: Microvm) -> None:
    seen = look(vm)

    assert {place: files for place, files in seen["files"].items() if files} == {
        "/work": ["/work/main.py"],
        "/home": ["/home/runner"],
    }
    assert seen["processes"] == 1
    assert [len(seen[table]) for table in ("shm", "sem", "msg")] == [1, 1, 1]
    assert seen["ports"] == []
    # What a program writes in several calls is not torn apart by an agent that interrupts it.
    assert seen["agent"] == os.SCHED_BATCH
    assert seen["self"][6] == os.SCHED_OTHER


@pytest.mark.languages("python")
@pytest.mark.parametrize("ending", ENDINGS)
def test_job_leaves_nothing_however_it_ends(vm: Microvm, ending: str) -> None:
    ending_code, options, verdict = ENDINGS[ending]
    before = look(vm)

    left = vm.run(LEAVE + ending_code, **options)

    assert left.stdout == b"left\n", left.stderr
    assert left.program.verdict == verdict
    assert look(vm) == before


@pytest.mark.languages("python")
def test_program_that_was_started_ahead_sees_what_any_does(vm: Microvm) -> None:
    before = look(vm)
    vm.run(LEAVE)
    vm.call(vm.guest.prestart(vm.language))
    seen = look(vm)

    # An interpreter that was too slow to open the FIFO leaves that to the end of the job.
    assert seen.pop("used") <= [before["used"][0], before["used"][1] + 1]
    assert seen == {key: value for key, value in before.items() if key != "used"}


@pytest.mark.languages("python")
def test_program_that_was_started_ahead_leaves_nothing(vm: Microvm) -> None:
    before = look(vm)
    vm.call(vm.guest.prestart(vm.language))
    left = vm.run(LEAVE)

    assert left.stdout == b"left\n", left.stderr
    assert look(vm) == before


@pytest.mark.languages("python")
def test_program_that_was_started_ahead_for_nothing_leaves_nothing(vm: Microvm) -> None:
    before = look(vm)
    vm.call(vm.guest.prestart(vm.language))
    vm.run("print(1)", "an argument")

    assert look(vm) == before


@pytest.mark.languages("python")
def test_session_leaves_its_files_to_itself_and_nothing_else(vm: Microvm) -> None:
    before = look(vm)

    def run(source: str) -> str:
        capture = OutputCapture()
        job = JobRequest(vm.language, source.encode(), Options(), keep_files=True)
        vm.call(vm.guest.run(job, capture))
        return capture.data["run", "stdout"].decode()

    assert run(LEAVE) == "left\n"
    kept = json.loads(run(LOOK))

    for place in ("/tmp", "/var/tmp", "/dev/shm", "/work"):
        assert f"{place}/letters" in kept["files"][place]
    same = set(before) - {"files", "used", "places", "socket /tmp/letter.sock"}
    assert {key: kept[key] for key in same} == {key: before[key] for key in same}
    assert look(vm) == before


@pytest.mark.languages("bash")
def test_shell_leaves_nothing(vm: Microvm) -> None:
    before = vm.run(BASH_LOOK)

    vm.run(BASH_LEAVE)
    after = vm.run(BASH_LOOK)

    assert before.stdout.startswith(b"/tmp/* /var/tmp/* /dev/shm/* /work/main.sh none 0022 ")
    assert (after.stdout, after.stderr) == (before.stdout, before.stderr)
