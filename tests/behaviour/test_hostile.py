"""Programs that are up to no good: the verdict is right, and the agent stays well."""

from __future__ import annotations

import time
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.microvm import Microvm
    from support.programs import Outcome

pytestmark = pytest.mark.languages("python")

HELLO = {"python": "print('hello')", "bash": "echo hello"}


@pytest.fixture(autouse=True)
def _the_agent_stays_well(vm: Microvm) -> Iterator[None]:
    """After each of these programs the same guest runs the next one as if nothing had been."""
    guest = vm.guest
    yield
    assert vm.guest is guest
    outcome = vm.run(HELLO[vm.language.name])
    assert (outcome.program.verdict, outcome.stdout, outcome.stderr) == ("ok", b"hello\n", b"")
    assert outcome.program.usage.processes_peak == 1


def run(vm: Microvm, source: str, **options: Any) -> Outcome:
    return vm.run(dedent(source), **options)


# --- stdin and output ------------------------------------------------------------------------


def test_never_reads_the_megabyte_on_its_stdin(vm: Microvm) -> None:
    outcome = run(vm, "print('not listening')", stdin=b"x" * MIB)

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"not listening\n"


def test_closes_its_stdin_and_goes_on(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os, sys
        os.read(0, 1)
        os.close(0)
        for _ in range(100):
            sys.stderr.write("x" * 1000)
        print("done")
        """,
        stdin=b"x" * MIB,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"done\n"
    assert outcome.stderr == b"x" * 100_000


def test_closes_its_outputs_and_goes_on(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os, time
        os.write(1, b"last words")
        os.close(1)
        os.close(2)
        time.sleep(0.3)
        os._exit(7)
        """,
    )

    assert (outcome.program.verdict, outcome.program.code) == ("failed", 7)
    assert outcome.stdout == b"last words"
    assert outcome.program.usage.wall >= 0.3


def test_closes_its_outputs_and_never_ends(vm: Microvm) -> None:
    limit = 2 + 3 * vm.usual_seconds(HELLO["python"])

    outcome = run(
        vm,
        """
        import os
        os.write(1, b"last words")
        os.close(1)
        os.close(2)
        while True:
            pass
        """,
        timeout=limit,
    )

    assert outcome.program.verdict == "timed_out"
    assert outcome.stdout == b"last words"


def test_prints_200_megabytes(vm: Microvm) -> None:
    size = 200 * 1_000_000

    outcome = run(
        vm,
        f"""
        import os
        block = b"0123456789" * 6000
        left = {size}
        while left:
            left -= os.write(1, block[:left])
        """,
        output_limit=100_001,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"0123456789" * 10_000 + b"0"
    assert outcome.program.stdout.size == size
    assert outcome.program.stdout.dropped == size - 100_001


def test_is_ended_at_its_output_limit_where_that_is_wanted(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        while True:
            print("spam" * 100)
        """,
        output_limit=10_000,
        kill_on_output=True,
    )

    assert outcome.program.verdict == "output_exceeded"
    assert outcome.stdout == (b"spam" * 100 + b"\n") * 24 + b"spam" * 94
    assert outcome.program.stdout.dropped > 0


def test_prints_every_byte_there_is(vm: Microvm) -> None:
    everything = bytes(range(256)) * 300 + b"\xc0\xdb\xdc\xdd" * 999

    outcome = run(
        vm,
        """
        import os, sys
        data = bytes(range(256)) * 300 + b"\\xc0\\xdb\\xdc\\xdd" * 999
        sys.stdout.buffer.write(data)
        sys.stderr.buffer.write(data[::-1])
        """,
    )

    assert outcome.stdout == everything
    assert outcome.stderr == everything[::-1]


def test_writes_tiny_pieces_to_both_streams(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for number in range(100_000):
            os.write(1 + number % 2, b"%d " % number)
        """,
    )

    assert outcome.stdout == b"".join(b"%d " % number for number in range(0, 100_000, 2))
    assert outcome.stderr == b"".join(b"%d " % number for number in range(1, 100_000, 2))


def test_is_stopped_by_a_reader_that_does_not_read(vm: Microvm) -> None:
    job = vm.begin(
        dedent(
            """
            import os
            for number in range(64):
                os.write(2, b"%d " % number)
                block = memoryview(b"x" * (1 << 20))
                while block:
                    block = block[os.write(1, block):]
            """
        ),
        read_stdout=False,
        output_limit=100 * MIB,
    )
    job.until(b"1 ", "stderr")
    time.sleep(1)
    written = int(job.output("stderr").split()[-1])
    job.read_stdout()
    job.end_input()
    outcome = job.outcome()

    # What is under way: one window of credit, the pipe, and what the two ends have in hand.
    assert written <= 4
    assert outcome.stdout == b"x" * (64 * MIB)


# --- Processes -------------------------------------------------------------------------------


def test_fork_bomb_is_held_by_the_limit_of_processes(vm: Microvm) -> None:
    limit = 3 + 3 * vm.usual_seconds(HELLO["python"])

    outcome = run(
        vm,
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        processes=40,
        timeout=limit,
    )

    assert outcome.program.verdict == "timed_out"
    assert outcome.program.usage.processes_peak == 40


@pytest.mark.languages("bash")
def test_fork_bomb_in_bash(vm: Microvm) -> None:
    outcome = run(vm, "bomb() { bomb | bomb & }; bomb; echo $?; exit 5", processes=40)

    # The program itself ends after its first fork; what it set off ends with it.
    assert (outcome.program.verdict, outcome.program.code) == ("failed", 5)
    assert outcome.stdout == b"0\n"


def test_ignores_every_signal(vm: Microvm) -> None:
    limit = 2 + 3 * vm.usual_seconds(HELLO["python"])

    outcome = run(
        vm,
        """
        import signal
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        print("you cannot stop me")
        while True:
            pass
        """,
        timeout=limit,
    )

    assert outcome.program.verdict == "timed_out"
    assert outcome.stdout == b"you cannot stop me\n"


def test_stops_itself(vm: Microvm) -> None:
    limit = 2 + 3 * vm.usual_seconds(HELLO["python"])

    outcome = run(
        vm,
        """
        import os, signal
        print("zzz")
        os.kill(0, signal.SIGSTOP)
        """,
        timeout=limit,
    )

    assert outcome.program.verdict == "timed_out"
    assert outcome.stdout == b"zzz\n"


def test_daemon_ends_with_the_program_that_left_it(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os, signal, time
        ready, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(1, b"the daemon is up\\n")
                os.write(tell, b"x")
                while True:
                    time.sleep(0.01)
            os._exit(0)
        os.wait()
        os.read(ready, 1)
        os.write(1, b"the program ends\\n")
        """,
    )
    after = run(vm, "import os; print([name for name in os.listdir('/proc') if name.isdigit()])")

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"the daemon is up\nthe program ends\n"
    assert len(after.stdout.split()) == 1


def test_leaves_zombies(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for number in range(300):
            if os.fork() == 0:
                os._exit(0)
        print("done")
        """,
        processes=400,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"done\n"


def test_starts_a_thousand_processes_half_of_them_orphans(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for number in range(500):
            child = os.fork()
            if child == 0:
                if os.fork() == 0:
                    os._exit(1)
                os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        print("done")
        """,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"done\n"
    assert outcome.stderr == b""


def test_kills_what_it_can(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for pid in (1, 2, os.getppid(), -1, 0):
            try:
                os.kill(pid, 9)
                print(pid, "killed")
            except OSError as error:
                print(pid, type(error).__name__)
        """,
    )

    # -1 spares the caller, 0 does not.
    assert outcome.program.verdict == "signaled"
    assert outcome.program.signal == 9
    ending = outcome.stdout.decode().splitlines()
    assert "1 PermissionError" in ending
    assert "2 PermissionError" in ending
    assert not any("killed" in line for line in ending if not line.startswith("-1"))


def test_job_is_cancelled(vm: Microvm) -> None:
    job = vm.begin("print('busy')\nwhile True: pass")
    job.until(b"busy\n")

    job.cancel()
    outcome = job.outcome()

    assert outcome.program.verdict == "cancelled"
    assert outcome.stdout == b"busy\n"


# --- Memory, time and disk -------------------------------------------------------------------


def test_eats_all_the_memory_there_is(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        print("hungry")
        hoard = []
        while True:
            hoard.append(b"x" * (1 << 20))
        """,
    )

    assert outcome.program.verdict == "memory_exceeded"
    assert outcome.stdout == b"hungry\n"


def test_children_eat_the_memory(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for number in range(4):
            if os.fork() == 0:
                hoard = []
                while True:
                    hoard.append(b"x" * (1 << 20))
        while True:
            os.wait()
        """,
        memory_limit=64 * MIB,
    )

    assert outcome.program.verdict == "memory_exceeded"


def test_uses_up_its_cpu_time(vm: Microvm) -> None:
    outcome = run(vm, "print('busy')\nwhile True: pass", cpu_time=1.0)

    assert outcome.program.verdict == "cpu_exceeded"
    assert outcome.stdout == b"busy\n"
    assert outcome.program.usage.user + outcome.program.usage.system >= 1.0


def test_children_use_up_the_cpu_time(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for number in range(3):
            if os.fork() == 0:
                while True:
                    pass
        os.wait()
        """,
        cpu_time=1.5,
    )

    assert outcome.program.verdict == "cpu_exceeded"


@pytest.mark.parametrize("place", [".", "/tmp", "/var/tmp", "/dev/shm"])
def test_fills_the_disk(vm: Microvm, place: str) -> None:
    outcome = run(
        vm,
        f"""
        import itertools, os
        block = b"x" * (1 << 20)
        written = 0
        for number in itertools.count():
            try:
                with open(f"{place}/{{number}}", "wb", buffering=0) as file:
                    while file.tell() < 16 << 20:
                        written += file.write(block)
            except OSError as error:
                print(error.strerror)
                break
        print(written > 16 << 20)
        """,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"No space left on device\nTrue\n"


def test_makes_a_huge_number_of_files(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import itertools, os
        for number in itertools.count():
            try:
                os.close(os.open(f"{number}", os.O_CREAT))
            except OSError as error:
                print(error.strerror)
                break
        """,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"No space left on device\n"


def test_makes_directories_as_deep_as_it_can(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for number in range(3000):
            os.mkdir("deeper" * 20)
            os.chdir("deeper" * 20)
        print("deep down")
        """,
    )

    assert outcome.program.verdict == "ok"
    assert outcome.stdout == b"deep down\n"


# --- The working directory and the files fetched from it --------------------------------------


def test_removes_all_that_it_was_given(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os, shutil
        here = os.getcwd()
        os.remove("main.py")
        shutil.rmtree(here, ignore_errors=True)
        for name in (here, "/tmp", "/dev/shm"):
            try:
                os.rmdir(name)
            except OSError as error:
                print(name == here, type(error).__name__)
        """,
        outputs=("main.py",),
    )

    assert outcome.program.verdict == "ok"
    assert outcome.files["main.py"].data is None
    assert outcome.files["main.py"].missing


def test_what_is_fetched_is_a_plain_file_of_its_own(vm: Microvm) -> None:
    wanted = ("plain", "link", "fifo", "directory", "behind/passwd", "socket", "sparse", "hidden")

    outcome = run(
        vm,
        """
        import os, socket
        os.symlink("/etc/passwd", "link")
        os.mkfifo("fifo")
        os.mkdir("directory")
        os.symlink("/etc", "behind")
        socket.socket(socket.AF_UNIX).bind("socket")
        with open("sparse", "wb") as file:
            file.truncate(10 << 30)
        with open("plain", "wb") as file:
            file.write(bytes(range(256)) * 1000)
        os.chmod("plain", 0o4755)
        with open("hidden", "w") as file:
            file.write("in plain sight")
        os.chmod("hidden", 0)
        """,
        outputs=wanted,
    )

    assert outcome.program.verdict == "ok"
    assert {path for path in wanted if outcome.files[path].data is not None} == {"plain", "hidden"}
    assert all(outcome.files[path].missing for path in set(wanted) - {"plain", "hidden"})
    assert outcome.files["plain"].data == bytes(range(256)) * 1000
    assert outcome.files["plain"].mode == 0o755
    assert outcome.files["hidden"].data == b"in plain sight"


# --- The guest's own workings ----------------------------------------------------------------


def test_can_write_to_no_device_that_matters(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import glob, os, stat
        for path in glob.glob("/dev/**", recursive=True):
            try:
                mode = os.stat(path).st_mode
                if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
                    print(path)
            except OSError:
                pass
        print(os.path.exists("/dev/kmsg"), bool(glob.glob("/dev/vport*")))
        """,
    )

    *writable, existing = outcome.stdout.decode().splitlines()
    assert set(writable) <= {
        *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/ptmx"),
        *("/dev/pts/ptmx", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/fd/0"),
    }
    assert existing == "True True"


def test_sees_nothing_of_the_agent(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os
        for name in ("environ", "mem", "maps", "cmdline", "status", "fd", "root", "cwd"):
            try:
                (os.listdir if name == "fd" else open)(f"/proc/1/{name}")
                print(name, "can be read")
            except OSError:
                pass
        print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) == [os.getpid()])
        """,
    )

    assert outcome.stdout == b"True\n"


def test_has_no_privilege_and_no_network(vm: Microvm) -> None:
    outcome = run(
        vm,
        """
        import os, socket, ctypes
        print(os.getuid() != 0, os.getgroups())
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print({status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs")})
        for path in ("/etc/passwd", "/usr/bin/env", "/.agent/agent", "/new"):
            try:
                open(path, "a")
                print(path, "can be written")
            except OSError:
                pass
        libc = ctypes.CDLL(None)
        print(libc.unshare(0x10000000), libc.mount(b"x", b"/tmp", b"tmpfs", 0, None))
        try:
            socket.create_connection(("1.1.1.1", 53), timeout=5)
        except OSError as error:
            print(error.strerror)
        with socket.create_server(("127.0.0.1", 0)) as server:
            with socket.create_connection(server.getsockname()) as client:
                print("loopback")
        """,
    )

    assert outcome.stderr == b""
    assert outcome.stdout.decode().splitlines()[-2:] == ["Network is unreachable", "loopback"]
    assert outcome.stdout.decode().splitlines()[0] == "True []"
    assert outcome.stdout.decode().splitlines()[2] == "-1 -1"
    assert "written" not in outcome.stdout.decode()


def test_leaves_nothing_for_the_next_job(vm: Microvm) -> None:
    places = ["/tmp", "/var/tmp", "/dev/shm", "."]

    run(
        vm,
        f"""
        import ctypes
        for place in {places}:
            open(f"{{place}}/letter", "w").write("to the next")
        libc = ctypes.CDLL(None)
        print(libc.shmget(4711, 4096, 0o1666), libc.msgget(4711, 0o1666))
        """,
    )
    outcome = run(
        vm,
        f"""
        import ctypes, os
        libc = ctypes.CDLL(None)
        for place in {places}:
            print(os.path.exists(f"{{place}}/letter"))
        print(libc.shmget(4711, 4096, 0o666), libc.msgget(4711, 0o666))
        """,
    )

    assert outcome.stdout.decode().split() == ["False"] * 4 + ["-1", "-1"]
