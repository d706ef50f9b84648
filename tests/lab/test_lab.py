"""The lab as a process: it boots L1, and ends with the status of the command."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lab.output import Output
from slipway_initramfs.architectures import machine_architecture

ROOT = Path(__file__).parents[2]
LAB = [sys.executable, str(Path(__file__).parent)]
# Seconds. A loaded host takes half a minute to boot; only a test that fails waits for it.
PATIENCE = 240
EXAMINE = "from slipway.vmm.kvm.usability import examine; print(examine())"
HERE = machine_architecture()
# KVM_GET_API_VERSION, KVM_CREATE_VM with addresses of 40 bits, and KVM_ARM_PREFERRED_TARGET, whose
# first word is the target: 5 is KVM_ARM_TARGET_GENERIC_V8 (arch/arm64/include/uapi/asm/kvm.h).
PROBE_ARM = """
import fcntl, os, platform, msgpack, psutil, slipway
kvm = os.open("/dev/kvm", os.O_RDWR)
version = fcntl.ioctl(kvm, 0xAE00, 0)
vm = fcntl.ioctl(kvm, 0xAE01, 0)
target = bytearray(32)
fcntl.ioctl(vm, 0x8020AEAF, target)
print(platform.machine(), version, target[0], msgpack.packb(1), slipway.__file__)
"""

pytestmark = [
    pytest.mark.usefixtures("installed_qemu"),
    pytest.mark.debian("busybox", "apt-get"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """What L1 boots from; the first time it is made."""
    subprocess.run([*LAB, "build"], check=True, timeout=PATIENCE * 2)


@pytest.fixture(scope="module")
def arm_image(image: None) -> None:
    """What the L1 of Arm boots from, made of some 80 packages the first time."""
    subprocess.run([*LAB, "--arch", "arm64", "build"], check=True, timeout=PATIENCE * 2)


def lab(*arguments: str, arch: str = HERE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAB, "--arch", arch, "run", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def wait_for_end(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that do not end; the kernel kills them, but nobody waits for that."""
    end = time.monotonic() + 10
    alive = processes
    while alive and time.monotonic() < end:
        time.sleep(0.05)
        alive = [process for process in alive if _runs(process)]
    return alive


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_the_status_is_told_from_output_in_pieces_of_any_size(size: int) -> None:
    marker = b"\x1e0123"
    shown = b"one\x1e01\x1e\x1e0124 7\n\x1e012"
    stream = shown + marker + b" 42\n"
    output = Output(marker)

    pieces = [output.feed(stream[at : at + size]) for at in range(0, len(stream), size)]

    assert (b"".join(pieces), output.status) == (shown, 42)


def test_output_is_not_held_back() -> None:
    assert Output(b"\x1e0123").feed(b"Password: ") == b"Password: "


def test_output_and_exit_code_are_those_of_the_command(tmp_path: Path) -> None:
    script = (
        'pwd; echo "$GREETING"; echo from stderr >&2; test -c /dev/kvm && echo device; id -u;'
        " touch ./written 2>/dev/null || echo read only; echo result >/lab-out/file; exit 3"
    )

    ended = lab(*("--env", "GREETING=a b 'c'", "--out", str(tmp_path)), *("--", "sh", "-c", script))

    assert ended.stdout.splitlines() == [
        *(str(ROOT), "a b 'c'", "from stderr", "device", "0", "read only"),
    ]
    assert (ended.returncode, ended.stderr) == (3, "")
    assert (tmp_path / "file").read_text() == "result\n"


def test_kvm_is_usable() -> None:
    ended = lab("--", sys.executable, "-c", EXAMINE)

    assert ended.stdout.startswith("(True, 'usable"), ended
    assert ended.returncode == 0


def test_output_streams_and_nothing_outlives_a_killed_runner() -> None:
    # What looks like the end of the output is but output.
    command = ["sh", "-c", "printf '\\036abc 0\\n'; echo on; sleep 1000"]
    with subprocess.Popen([*LAB, "run", "--", *command], stdout=subprocess.PIPE) as runner:
        try:
            assert runner.stdout is not None
            assert runner.stdout.readline() == b"\x1eabc 0\n"
            assert runner.stdout.readline() == b"on\n"
            children = psutil.Process(runner.pid).children(recursive=True)
        finally:
            runner.kill()

    assert children
    assert wait_for_end(children) == []


def test_a_command_that_does_not_end_is_killed() -> None:
    ended = lab("--timeout", "1", "--", "sleep", "1000")

    assert ended.returncode == 124
    assert ended.stderr == "lab: the command did not end within 1 seconds and was killed\n"


def test_time_can_follow_the_count_of_instructions() -> None:
    files = ["--include", "/bin/sh", "--include", "/bin/sleep"]
    command = ["sh", "-c", "sleep 1000; read up idle </proc/uptime; echo $up; test -c /dev/kvm"]

    ended = lab("--icount", *files, "--", *command)

    assert ended.returncode == 0, ended
    assert 1000 < float(ended.stdout) < 1100


@pytest.mark.debian("qemu-system-aarch64")
@pytest.mark.usefixtures("arm_image")
def test_lab_of_arm_has_its_own_kvm_and_python_and_the_files_of_the_host() -> None:
    module = ROOT / "host" / "slipway" / "__init__.py"

    ended = lab("--memory", "1024", "--", sys.executable, "-c", PROBE_ARM, arch="arm64")

    assert ended.stdout.splitlines() == [f"aarch64 12 5 b'\\x01' {module}"], ended
    assert ended.returncode == 0


def test_what_is_missing_is_one_sentence() -> None:
    ended = lab("--icount", "--include", "/does/not/exist", "--", "true")

    assert (ended.returncode, ended.stdout) == (125, "")
    assert ended.stderr == "lab: cannot read /does/not/exist: No such file or directory\n"


def test_package_for_a_lab_with_the_programs_of_the_host_is_refused() -> None:
    ended = lab("--package", "hello", "--", "true")

    assert (ended.returncode, ended.stdout) == (125, "")
    assert ended.stderr.splitlines() == [
        "lab: --package is for a lab of another architecture: this one has the host's programs",
        "lab: Install the package on the host.",
    ]


def test_board_that_qemu_has_not_is_told_in_its_words() -> None:
    ended = lab("--board", "toaster", "--", "true")

    assert (ended.returncode, ended.stdout) == (125, "")
    assert "unsupported machine type" in ended.stderr
