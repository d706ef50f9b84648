"""However ``slipway`` ends, at whatever moment: no process and no temporary file stays."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands

pytestmark = pytest.mark.alone

# Seconds after its start: while Python starts, while ours does, when QEMU appears, while it boots.
MOMENTS = (0.0, 0.03, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.5, 1.0)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A program that says that it runs, and goes on for ever."""
    path = tmp_path / "endless.sh"
    path.write_text("echo running; while :; do :; done")
    return path


def files_of(store: ImageStore) -> set[Path]:
    """All files but those that a run may leave: the initrd, what the host can do, locks."""
    kept = {"initrds", "tsc-khz", "kvm-loop-ps", "lock", "locks"}
    return {
        path
        for path in store.root.rglob("*")
        if path.is_file() and path.relative_to(store.root).parts[0] not in kept
    }


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, bytes, bytes]:
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_ended_at_any_moment_of_its_start(
    commands: Commands, store: ImageStore, endless: Path, number: signal.Signals
) -> None:
    before = files_of(store)
    for moment in MOMENTS:
        # The initrd has to be made each time: that is when files are written.
        shutil.rmtree(store.root / "initrds", ignore_errors=True)
        process = commands.start("vmm-run", "--store", store.root, endless)
        time.sleep(moment)
        code, stdout, _ = end(process, number)

        assert (code != 0, stdout) == (True, b"")
        assert commands.leftovers() == []
    if number == signal.SIGKILL:
        # What a killed writer left is swept by the next.
        shutil.rmtree(store.root / "initrds", ignore_errors=True)
        store.temporary.mkdir(exist_ok=True)
        (store.temporary / "left-by-a-killed-writer").write_bytes(b"x")
        commands("vmm-run", "--store", store.root, "--timeout", "0.01", endless)
    assert files_of(store) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_ended_while_the_program_runs(
    commands: Commands, store: ImageStore, endless: Path, number: signal.Signals
) -> None:
    before = files_of(store)
    with commands.start("vmm-run", "--store", store.root, endless) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        assert [p.name() for p in commands.processes() if p.name().startswith("qemu")]
        code, stdout, stderr = end(process, number)

    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    assert (stdout, stderr) == (b"", b"")
    assert commands.leftovers() == []
    assert files_of(store) == before


@pytest.mark.usefixtures("bash", "installed_qemu")
def test_hangup_that_nohup_has_ignored_ends_nothing(commands: Commands, tmp_path: Path) -> None:
    source = tmp_path / "reads.sh"
    source.write_text("echo running; read -r line; echo $line")
    commands.prefix = ("nohup",)
    with commands.start("vmm-run", source) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGHUP)
        stdout, _ = process.communicate(b"still here\n", timeout=60)

    assert (process.returncode, stdout) == (0, b"still here\n")


@pytest.mark.usefixtures("bash", "installed_qemu")
def test_interrupt_of_the_terminal_does_not_reach_qemu(commands: Commands, endless: Path) -> None:
    """It goes to the whole foreground group; QEMU is ended in order, by us."""
    with commands.start("vmm-run", endless, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        qemus = [p for p in commands.processes() if p.name().startswith("qemu")]
        groups = {os.getpgid(qemu.pid) for qemu in qemus}
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)

    assert len(groups) == 1
    assert process.pid not in groups
    assert (process.returncode, stderr) == (130, b"")
    assert commands.leftovers() == []


@pytest.mark.usefixtures("bash", "installed_qemu")
def test_machine_that_dies_under_the_program_is_told(commands: Commands, endless: Path) -> None:
    with commands.start("vmm-run", endless) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        for victim in commands.processes():
            if victim.name().startswith("qemu"):
                victim.kill()
        stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 125
    assert stdout == b""
    assert b"the machine ended by itself while it had a job" in stderr
    assert b"Traceback" not in stderr
    assert commands.leftovers() == []


@pytest.mark.usefixtures("bash", "installed_qemu")
def test_signal_that_comes_twice_changes_nothing(commands: Commands, endless: Path) -> None:
    with commands.start("vmm-run", endless) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"running\n"
        process.send_signal(signal.SIGTERM)
        code, stdout, stderr = end(process, signal.SIGINT)

    assert code in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    assert (stdout, stderr) == (b"", b"")
    assert commands.leftovers() == []
