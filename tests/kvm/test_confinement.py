"""A confined process: what it can still do, and what not, whoever started it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvm.test_machine import echo, exit_count, more_exits
from slipway.jail.identity import FIRST_ID
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import PortKind
from support.bare_metal import PATIENCE
from support.guest_code import COM1, CRASH, IS_ARM, PLACE, Code
from support.jailed_process import NAMESPACES, list_tree, read_namespaces, read_status

if TYPE_CHECKING:
    from kvm.conftest import Boot

PACKAGES = str(Path(__file__).parents[2] / "host")
NOBODY = 65534

# Confines itself as a VMM does, as USER where that is not root, and then runs what follows.
CONFINED = """
import ctypes, fcntl, json, mmap, os, resource, signal, socket, sys, threading, time
sys.path[:0] = [sys.argv[1]]
from slipway._util.errors import HostError
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.process import confinement as confine
from slipway.jail import privileges
from slipway.jail.jail import Jail
from slipway.jail.root_tree import RootTree
from slipway.vmm.kvm import abi
from slipway.vmm.kvm.system import Kvm

find_architecture()  # which imports what the filter is made of, as in a VMM
libc = ctypes.CDLL(None, use_errno=True)
user = int(sys.argv[2])
kvm = Kvm()
parent = os.getppid()
reader, writer = os.pipe()
signal.signal(signal.SIGUSR1, lambda *_: None)
if user:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(privileges.PR_SET_DUMPABLE, 1, 0, 0, 0)
jail = Jail(RootTree())
child = jail.fork()
if child:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)
vm = kvm.create_vm()
memory = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
"""

ATTEMPTS = """
def thread():
    done = threading.Event()
    started = threading.Thread(target=lambda: (done.wait(), allocated(), done.clear()))
    started.start()
    signal.pthread_kill(started.ident, signal.SIGUSR1)
    done.set()
    started.join()
    assert not done.wait(0.01)

def allocated():
    kept = [bytearray(size) for size in (100, 10_000, 1 << 20, 64 << 20)]
    kept[2] *= 3

def pipe():
    os.write(writer, b"x")
    assert os.read(reader, 9) == b"x"

attempts = {
    "threads": thread,
    "memory": allocated,
    "descriptors": pipe,
    "clocks": lambda: (time.time(), time.sleep(0.001), time.process_time_ns()),
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "open, to write": lambda: os.open("/tmp/slipway-is-not-confined", os.O_RDWR | os.O_CREAT),
    "mkdir": lambda: os.mkdir("/tmp/slipway-is-not-confined"),
    "unlink": lambda: os.unlink("/tmp/slipway-is-not-there"),
    "listdir": lambda: os.listdir("/"),
    "stat": lambda: os.stat("/"),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "socket": lambda: socket.socket(socket.AF_INET),
    "socketpair": socket.socketpair,
    "dup": lambda: os.dup(reader),
    "eventfd": lambda: os.eventfd(0),
    "memfd": lambda: os.memfd_create("x"),
    "executable mmap": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "executable mprotect": lambda: call(libc.mprotect, ctypes.c_void_p(address), 4096, 4),
    "ioctl of a pipe": lambda: fcntl.ioctl(reader, 0x541B, bytes(4)),
    "ioctl of KVM that makes a VM": lambda: fcntl.ioctl(kvm.fd, abi.KVM_CREATE_VM, 0),
    "ioctl of KVM that makes a vCPU": lambda: fcntl.ioctl(vm.fd, abi.KVM_CREATE_VCPU, 0),
    "kill of another": lambda: os.kill(parent, 0),
    "tgkill of another": lambda: call(libc.syscall, TGKILL, parent, parent, 0),
    "kill of the group": lambda: os.kill(0, 0),
    "ptrace": lambda: call(libc.ptrace, 16, parent, 0, 0),
    "setrlimit": lambda: call(libc.setrlimit, resource.RLIMIT_NOFILE, bytes(16)),
    "setuid": lambda: os.setuid(NOBODY),
    "unshare": lambda: call(libc.unshare, 0x10000000),
    "prctl": lambda: call(libc.prctl, privileges.PR_SET_DUMPABLE, 1, 0, 0, 0),
    "mount": lambda: call(libc.mount, b"none", b"/mnt", b"tmpfs", 0, None),
}
NOBODY = 65534
results = {}
confine.drop_privileges(jail)
for name, attempt in attempts.items():
    try:
        attempt()
        results[name] = 0
    except OSError as error:
        results[name] = error.errno
os.write(1, json.dumps(results).encode())
"""
ALLOWED = {"threads", "memory", "descriptors", "clocks"}


TGKILL = 131 if IS_ARM else 234


def run_confined(program: str, user: int) -> subprocess.CompletedProcess[bytes]:
    arguments = [
        sys.executable,
        "-IS",
        "-c",
        f"TGKILL = {TGKILL}\n{CONFINED}{program}",
        PACKAGES,
        str(user),
    ]
    return subprocess.run(arguments, capture_output=True, timeout=PATIENCE, check=False)


@pytest.fixture(scope="module", params=["as whoever calls", "as an ordinary user"])
def user(request: pytest.FixtureRequest) -> int:
    if request.param == "as whoever calls":
        return 0
    if os.getuid():
        pytest.skip("we are one already")
    return NOBODY


def test_confined_process_keeps_what_a_vmm_needs_and_nothing_else(user: int) -> None:
    ended = run_confined(ATTEMPTS, user)

    assert (ended.returncode, ended.stderr) == (0, b"")
    results = json.loads(ended.stdout)
    assert {name for name, code in results.items() if not code} == ALLOWED
    assert set(results.values()) == {0, errno.EPERM}


def test_fault_of_a_confined_process_is_told(user: int) -> None:
    """Python's report of it wants to import modules and to open sources."""
    ended = run_confined("confine.drop_privileges(jail)\nraise RuntimeError('a fault')", user)

    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith(b"RuntimeError: a fault")


def test_import_that_comes_too_late_is_an_error_like_any_other(user: int) -> None:
    program = """
confine.drop_privileges(jail)
try:
    import argparse
except ImportError as error:
    os.write(1, str(error).encode())
"""
    ended = run_confined(program, user)

    assert (ended.returncode, ended.stdout) == (0, b"No module named 'argparse'")


@pytest.mark.skipif(IS_ARM, reason="machine code of x86-64")
def test_call_of_another_architecture_ends_the_process(user: int) -> None:
    program = """
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("53 b814000000 cd80 5b c3"))  # push rbx; getpid by int 0x80
run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
"""
    if run_confined(f"{program}\nassert run() == os.getpid()", user).returncode:
        pytest.skip("this kernel has no other architecture's calls")

    assert (
        run_confined(f"{program}\nconfine.drop_privileges(jail)\nrun()", user).returncode
        == -signal.SIGSYS
    )


def test_kernel_without_filters_is_refused(user: int) -> None:
    """As it answers where new privileges are not ruled out, or where it knows no filters."""
    program = """
from slipway.jail import call_filter
call_filter._PR_SET_SECCOMP = 9999
try:
    confine.drop_privileges(jail)
except HostError as error:
    os.write(1, f"{error.message}|{error.hint}".encode())
"""
    ended = run_confined(program, user)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(b"the VMM cannot be confined: Invalid argument|")


# --- A whole VMM --------------------------------------------------------------------------------


def check_rights(now: dict[str, str]) -> None:
    assert (now["Seccomp"], now["NoNewPrivs"]) == ("2", "1")
    names = ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")
    assert {int(now[name], 16) for name in names} == {0}


async def test_each_thread_of_a_vmm_is_confined(boot: Boot) -> None:
    machine = await boot(Code().halt(), cpus=4)
    await machine.count_exits()  # it answers once all have started
    process = Path(f"/proc/{machine.pid}")

    # What the kernel itself runs in a process (KVM's page recovery) makes no system calls.
    everything = [read_status(int(task.name)) for task in (process / "task").iterdir()]
    tasks = [now for now in everything if not now["Name"].startswith("kvm-")]

    assert len(tasks) == 1 + 4
    for now in tasks:
        check_rights(now)
    limits = (process / "limits").read_text().splitlines()
    assert ["0", "0"] in [line.split()[3:5] for line in limits if line.startswith("Max open files")]


async def test_machines_share_nothing_of_the_host(boot: Boot) -> None:
    machine = await boot(echo(), port=PortKind.SERIAL)
    other = await boot(Code().halt())
    template = await KvmHypervisor().open_template(await machine.snapshot())
    clones = [await template.clone(), await template.clone()]
    try:
        processes = [each.pid for each in (machine, other, *clones)]
        namespaces = [read_namespaces("self"), *map(read_namespaces, processes)]
        users = [read_status(process)["Uid"].split() for process in processes]
        groups = [read_status(process)["Gid"].split() for process in processes]
        trees = [list_tree(process) for process in processes]
        mounts = [Path(f"/proc/{process}/mountinfo").read_text() for process in processes]
    finally:
        await template.close()
        for clone in clones:
            await clone.stop()

    for kind in NAMESPACES:
        assert len({each[kind] for each in namespaces}) == 1 + len(processes), kind
    assert [set(each) for each in users] == [{str(FIRST_ID + number)} for number in processes]
    assert groups == users
    assert trees == [set()] * len(processes)
    for text in mounts:
        (mount,) = text.splitlines()
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(","))


async def test_clone_is_confined_like_any_vmm(boot: Boot) -> None:
    machine = await boot(echo(), port=PortKind.SERIAL, cpus=2)
    template = await KvmHypervisor().open_template(await machine.snapshot())
    clone = await template.clone()
    try:
        await clone.count_exits()
        process = Path(f"/proc/{clone.pid}")
        everything = [read_status(int(task.name)) for task in (process / "task").iterdir()]
        limits = (process / "limits").read_text().splitlines()
        descriptors = {fd.resolve().name for fd in (process / "fd").iterdir()}
        zygote = {fd.resolve().name for fd in Path(f"/proc/{template.pid}/fd").iterdir()}
    finally:
        await template.close()
        await clone.stop()

    tasks = [now for now in everything if not now["Name"].startswith("kvm-")]
    assert len(tasks) == 1 + 2
    for now in tasks:
        check_rights(now)
    assert ["0", "0"] in [line.split()[3:5] for line in limits if line.startswith("Max open files")]
    # Of what was the zygote's it has /dev/null only; neither snapshot nor channel.
    assert {name for name in descriptors & zygote if name.startswith(("socket", "memfd"))} == set()


@pytest.mark.parametrize("cpus", [1, 4])
async def test_vmm_lives_its_whole_life_confined(boot: Boot, cpus: int) -> None:
    machine = await boot(echo(), port=PortKind.SERIAL, cpus=cpus)
    reader, writer = machine.transport.reader, machine.transport.writer
    data = bytes(range(1, 256)) * 4

    for _ in range(3):
        await more_exits(machine)
        await machine.pause()
        stood = await exit_count(machine)
        writer.write(data)
        os.kill(machine.pid, signal.SIGSTOP)
        os.kill(machine.pid, signal.SIGCONT)
        assert await exit_count(machine) == stood
        await machine.resume()
        assert await reader.readexactly(len(data)) == data
    writer.write(b"\0")

    assert await reader.read() == b"\0"
    assert await machine.wait() == 0
    assert await machine.read_exit_report() == ""


async def test_crash_is_reported_by_a_confined_vmm(boot: Boot) -> None:
    machine = await boot(Code().text(COM1, b"oh no").crash(), cpus=2)

    assert await machine.wait() == 1
    words = await machine.read_exit_report()
    await machine.console.wait_drained()
    assert machine.console.get_last_lines() == ["oh no"]
    assert words.startswith(CRASH)
    assert {"vCPU 0:", "vCPU 1:"} <= {line.strip() for line in words.split("\n")}
    assert f"{PLACE} " in words
    assert f"bytes at {PLACE}: " in words
    assert "Errno" not in words
