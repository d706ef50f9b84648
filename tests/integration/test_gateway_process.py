"""The process of a gateway: its confinement, and its end, whoever ends first.

``make killed-gateways`` has more random kills: SLIPWAY_TEST_KILLS, SLIPWAY_TEST_SEED.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway._model.network_use import NetworkUse
from slipway._util.errors import HostError
from slipway.jail.identity import FIRST_ID
from slipway.machine.gateway import addresses
from slipway.machine.gateway.bounds import NEW_BURST
from slipway.machine.gateway.confine import MAX_DESCRIPTORS, build_filter
from slipway.machine.gateway.ipv4 import build_udp, parse_ipv4
from slipway.machine.gateway.tcp_segment import ACK, RST, SYN, Flow, Segment, build_tcp, parse_tcp
from slipway.machine.gateway_handle import (
    REPORT_SECONDS,
    GatewayHandle,
    GatewaySettings,
    create_link,
)
from slipway.machine.process import ChildProcess
from slipway.vmm.process import control
from support.gateway_processes import find_gateways
from support.jailed_process import NAMESPACES, list_tree, read_namespaces
from support.tcp_wire import turn_frame
from support.waiting import LIMIT, block_until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "24"))
SEED = int(os.environ.get("SLIPWAY_TEST_SEED", "0")) or random.randrange(1, 1 << 32)
HOST = str(Path(__file__).parents[2] / "host")
ARP_REQUEST = (
    b"\xff" * 6
    + addresses.GUEST_MAC
    + bytes.fromhex("08060001080006040001")
    + addresses.GUEST_MAC
    + addresses.GUEST
    + bytes(6)
    + addresses.GATEWAY
)

Link = tuple[socket.socket, socket.socket]


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """The gateway's end of a link, and the machine's."""
    ours, machine = create_link()
    with ours, machine:
        machine.setblocking(False)
        yield ours, machine


async def exchange(machine: socket.socket, frame: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(machine, frame)
    async with asyncio.timeout(LIMIT):
        return await loop.sock_recv(machine, 65_536)


async def test_frame_that_came_before_the_gateway_is_answered(link: Link) -> None:
    ours, machine = link
    machine.send(ARP_REQUEST)

    async with GatewayHandle.start(GatewaySettings(), ours.fileno()):
        answer = await asyncio.get_running_loop().sock_recv(machine, 100)

    assert answer[6:12] == addresses.GATEWAY_MAC


async def test_each_syn_of_a_burst_is_answered_though_the_guest_repeats_none(link: Link) -> None:
    ours, machine = link
    guest_ports = set(range(1000, 1000 + int(NEW_BURST) + 30))
    with socket.socket() as silent:  # bound, and refuses connections
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        async with GatewayHandle.start(GatewaySettings(rules=f"host:{port}"), ours.fileno()):
            for guest_port in guest_ports:
                flow = Flow(guest_port, addresses.GATEWAY, port)
                syn = turn_frame(b"".join(build_tcp(flow, Segment(1, 0, SYN, 65_535))))
                await asyncio.get_running_loop().sock_sendall(machine, syn)

            answered: set[int] = set()
            async with asyncio.timeout(LIMIT):
                while answered != guest_ports:
                    frame = await asyncio.get_running_loop().sock_recv(machine, 65_536)
                    flow, answer = parse_tcp(parse_ipv4(turn_frame(frame)))
                    assert answer.flags == RST | ACK
                    answered.add(flow.guest_port)


async def test_gateway_ends_when_its_machine_does(link: Link) -> None:
    ours, machine = link
    handle = GatewayHandle.start(GatewaySettings(), ours.fileno())
    ours.close()
    await handle.wait_ready()

    machine.close()
    await wait_until(lambda: not is_running(handle.pid), "the gateway has ended")
    report = await handle.close()

    assert (report, handle.has_failed) == (NetworkUse(), False)


async def test_gateway_that_is_killed_has_failed(link: Link) -> None:
    handle = GatewayHandle.start(GatewaySettings(), link[0].fileno())
    await handle.wait_ready()

    os.kill(handle.pid, signal.SIGKILL)
    await wait_until(lambda: handle.has_failed, "the end of the gateway is noticed")

    assert await handle.close() == NetworkUse()


async def test_report_says_that_the_gateway_has_just_been_killed(link: Link) -> None:
    async with GatewayHandle.start(GatewaySettings(), link[0].fileno()) as handle:
        await handle.wait_ready()
        os.kill(handle.pid, signal.SIGKILL)
        # The loop does not run meanwhile.
        block_until(lambda: read_state(handle.pid) == "Z", "the gateway has ended")

        await handle.fetch_report()

        assert handle.has_failed


async def test_gateway_that_is_killed_at_its_start_is_an_error(link: Link) -> None:
    async with GatewayHandle.start(GatewaySettings(), link[0].fileno()) as handle:
        os.kill(handle.pid, signal.SIGKILL)

        with pytest.raises(HostError, match="the gateway ended before it answered"):
            await handle.wait_ready()


async def test_rules_that_are_none_are_an_error(link: Link) -> None:
    async with GatewayHandle.start(GatewaySettings(rules="?"), link[0].fileno()) as handle:
        with pytest.raises(HostError, match="cannot read its rules"):
            await handle.wait_ready()


async def test_close_may_be_called_twice_and_leaves_no_process(link: Link) -> None:
    handle = GatewayHandle.start(GatewaySettings(), link[0].fileno())

    await handle.close()
    await handle.close()

    assert not is_running(handle.pid)
    assert not handle.has_failed


async def test_gateway_that_starts_is_not_waited_for(link: Link) -> None:
    names = ("one.example", "two.example")
    async with GatewayHandle.start(GatewaySettings(names=names), link[0].fileno()) as handle:
        os.kill(handle.pid, signal.SIGSTOP)

        async with asyncio.timeout(REPORT_SECONDS):
            assert await handle.fetch_report() == NetworkUse()
            assert await handle.fetch_names() == names
            assert await handle.close() == NetworkUse()


async def test_report_has_the_first_frame_although_nobody_waited_for_the_gateway(
    link: Link,
) -> None:
    ours, machine = link
    machine.setblocking(True)
    async with GatewayHandle.start(GatewaySettings(), ours.fileno()) as handle:
        machine.send(turn_frame(build_udp(addresses.GATEWAY, 99, 99, b"")))
        machine.recv(65_536)  # the loop sees no message of the gateway meanwhile

        assert (await handle.fetch_report()).denials == 1


async def test_machine_that_takes_no_frame_costs_no_cpu_and_loses_none(link: Link) -> None:
    ours, machine = link
    async with GatewayHandle.start(GatewaySettings(), ours.fileno()) as handle:
        await handle.wait_ready()
        sent = 0
        while sent < 20_000:
            try:
                machine.send(ARP_REQUEST)
                sent += 1
            except BlockingIOError:
                break

        async def stands_still() -> bool:
            before = read_cpu_ticks(handle.pid)
            await asyncio.sleep(0.5)
            return read_cpu_ticks(handle.pid) == before

        await wait_until(stands_still, "the gateway uses no CPU")
        answers = 0
        while answers < sent:
            async with asyncio.timeout(LIMIT):
                await asyncio.get_running_loop().sock_recv(machine, 100)
            answers += 1

    assert answers == sent > 0


@pytest.mark.parametrize("seed", range(5))
async def test_messages_of_any_content_of_a_gateway_are_survived(seed: int) -> None:
    """A guest may have taken the process over."""
    choice = random.Random(seed)
    words = [b"denied=" + b"9 9 a b\n" * 99, b"connections=-1", b"to_guest=" + b"9" * 99]
    words += [b"ports=1 2 3", b"\xff\xfe", b"denied=\x1b[2J 1 2 3", b"denials=\xb2"]
    async with open_taken_over_gateway() as (handle, other):
        other.send(b"published\0ports=1 -2 x")
        await handle.wait_ready()
        for _ in range(20):
            answering = asyncio.create_task(asyncio.to_thread(other.recv, 9999))
            fetching = asyncio.create_task(handle.fetch_report())
            assert await answering == b"report"
            other.send(b"\0".join([b"report", *choice.choices(words, k=choice.randrange(1, 9))]))
            await fetching
        other.send(b"ended\0denied=1 2 " + b"\x1b" * 999 + b" reason")
        await wait_until(lambda: handle.report.denied[:1] != (), "the last message is read")
        report = await handle.close()

    (denied,) = report.denied
    assert denied.destination.isprintable()
    assert len(denied.destination) < 256


@pytest.mark.parametrize("message", [b"report\0denials=5", b"names\0names=a", b"published", b"?"])
async def test_message_that_nobody_asked_for_ends_a_gateway(message: bytes) -> None:
    async with open_taken_over_gateway() as (handle, other):
        other.send(b"published")
        other.send(message)
        await wait_until(lambda: handle.has_failed, "the message is read")

        report = await handle.fetch_report()
        with pytest.raises(BrokenPipeError):
            other.send(message)

    assert report == NetworkUse()


@asynccontextmanager
async def open_taken_over_gateway() -> AsyncIterator[tuple[GatewayHandle, socket.socket]]:
    """Yield the handle of a gateway, and the gateway's end of their channel."""
    channel, other = control.create_pair()
    channel.setblocking(False)
    process = ChildProcess.start(["sleep", "60"])
    with other:
        async with GatewayHandle(process, channel, GatewaySettings()) as handle:
            yield handle, other


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def read_state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def read_cpu_ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# --- Confinement ---------------------------------------------------------------------------------


async def test_running_gateway_has_no_rights(link: Link) -> None:
    async with GatewayHandle.start(GatewaySettings(), link[0].fileno()) as handle:
        await handle.wait_ready()
        lines = Path(f"/proc/{handle.pid}/status").read_text().splitlines()
        files = sorted(Path(f"/proc/{handle.pid}/fd").iterdir()) if not os.geteuid() else []
        limits = Path(f"/proc/{handle.pid}/limits").read_text().splitlines()
        ours, theirs = read_namespaces("self"), read_namespaces(handle.pid)
        tree = {path for path in list_tree(handle.pid) if path.count("/") == 1}
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}

    user = str(os.getuid() or FIRST_ID + handle.pid)
    assert status["Uid"] == [user] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
        assert int(status[name][0], 16) == 0
    # Its network is the host's; it was not born in a pid namespace.
    assert {kind for kind in NAMESPACES if ours[kind] == theirs[kind]} == {"net", "pid"}
    assert tree <= {"/etc", "/lib", "/lib64", "/usr", "/run", "/opt", "/home"}
    (opened,) = [line.split()[3:5] for line in limits if line.startswith("Max open files")]
    assert opened == [str(MAX_DESCRIPTORS)] * 2
    # Standard streams, control channel, link, epoll, eventfd, netlink.
    assert len(files) in {0, 8}


CONFINED = """
import _socket, ctypes, json, mmap, os, signal, sys
sys.path[:0] = [sys.argv[1]]
from slipway.machine.gateway import confine, resolver
from slipway.jail import privileges
import threading

libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()
memory = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
listening = _socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
privileges.set_parent_death_signal(parent)

def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def thread():
    done = threading.Event()
    threading.Thread(target=done.set).start()
    assert done.wait(60)

def connection():
    client = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    assert client.connect_ex(listening.getsockname()) in (0, 115)
    accepted = _socket.socket(fileno=listening._accept()[0])
    accepted.setblocking(False)
    assert accepted.getpeername()[0] == "127.0.0.1"
    os.writev(accepted.fileno(), [b"x"])
    accepted.shutdown(_socket.SHUT_WR)
    client.setblocking(True)
    assert client.recv(9) == b"x"

def listen():
    own = _socket.socket()
    own.bind(("127.0.0.1", 0))
    own.listen()

attempts = {
    "threads": thread,
    "connection": connection,
    "look-up": lambda: resolver.look_up(b"localhost"),
    "open of /etc/hosts": lambda: os.open("/etc/hosts", os.O_RDONLY),
    "open, to write": lambda: os.open("/tmp/slipway-is-not-confined", os.O_RDWR | os.O_CREAT),
    "open, to append": lambda: os.open("/etc/hosts", os.O_WRONLY | os.O_APPEND),
    "open of a secret": lambda: os.open("/proc/1/environ", os.O_RDONLY),
    "open of a file elsewhere": lambda: os.open(sys.argv[2], os.O_RDONLY),
    "listdir": lambda: os.listdir("/"),
    "mkdir": lambda: os.mkdir("/tmp/slipway-is-not-confined"),
    "unlink": lambda: os.unlink("/tmp/slipway-is-not-there"),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "listen": listen,
    "unix socket": lambda: _socket.socket(_socket.AF_UNIX),
    "packet socket": lambda: _socket.socket(17, _socket.SOCK_RAW),
    "raw socket": lambda: _socket.socket(_socket.AF_INET, _socket.SOCK_RAW, 1),
    "socketpair": _socket.socketpair,
    "dup": lambda: os.dup(0),
    "memfd": lambda: os.memfd_create("x"),
    "executable mmap": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "executable mprotect": lambda: call(libc.mprotect, ctypes.c_void_p(address), 4096, 4),
    "kill of another": lambda: os.kill(parent, 0),
    "ptrace": lambda: call(libc.ptrace, 16, parent, 0, 0),
    "setuid": lambda: os.setuid(0),
    "unshare": lambda: call(libc.unshare, 0x10000000),
    "prctl": lambda: call(libc.prctl, privileges.PR_SET_DUMPABLE, 1, 0, 0, 0),
    "mount": lambda: call(libc.mount, b"none", b"/mnt", b"tmpfs", 0, None),
}
results = {}
confine.confine(parent)
for name, attempt in attempts.items():
    try:
        attempt()
        results[name] = 0
    except OSError as error:
        results[name] = error.errno
os.write(1, json.dumps(results).encode())
os._exit(0)
"""
ALLOWED = {"threads", "connection", "look-up", "open of /etc/hosts"}


@pytest.mark.skipif(
    build_filter(os.uname().machine, 1) is None, reason="no filter of system calls here"
)
def test_confined_process_keeps_what_a_gateway_needs_and_nothing_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")

    ended = subprocess.run(
        [sys.executable, "-IS", "-c", CONFINED, HOST, str(secret)],
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, b"")
    results = json.loads(ended.stdout)
    assert {name for name, code in results.items() if not code} == ALLOWED
    # Missing is what the root tree does not have.
    assert set(results.values()) <= {0, errno.EPERM, errno.EACCES, errno.ENOENT}


# --- Kills ---------------------------------------------------------------------------------------

PARENT = """
import asyncio, sys
sys.path[:0] = [sys.argv[1]]
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link

async def main():
    ours, machine = create_link()
    handles = [GatewayHandle.start(GatewaySettings(), ours.fileno()) for _ in range(2)]
    print("started", flush=True)
    await asyncio.gather(*(handle.wait_ready() for handle in handles))
    print("ready", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def has_no_gateway(parent: int) -> bool:
    return not find_gateways(parent)


def test_nothing_is_left_after_kills_at_random_times() -> None:
    """Of the parent at any time of its gateways' start and life."""
    choice = random.Random(SEED)
    for number in range((KILLS + 1) // 2):
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, HOST], stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        with parent, parent.stdout:
            for _ in range(choice.choice([0, 1, 1, 2])):
                parent.stdout.readline()
            time.sleep(choice.random() * 0.05)
            parent.kill()

        block_until(
            partial(has_no_gateway, parent.pid),
            f"no gateway is left of kill {number} (SLIPWAY_TEST_SEED={SEED})",
        )
