"""One signal ends each command, whatever the command waits for, and nothing is left behind.

``SLIPWAY_TEST_SIGNALS`` is the number of random moments of each command (``make signals``).
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.store.image_store import ImageStore
from support.waiting import LIMIT, block_until, read_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from support.commands import Commands

pytestmark = pytest.mark.alone

MOMENTS = int(os.environ.get("SLIPWAY_TEST_SIGNALS", "0"))
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds of a command without an end of its own within which its signal comes.
ENDLESS_SECONDS = 3.0

# Arguments by verb; {store}, {program}, {file} and {socket} stand for paths.
ENDING = {
    "image list": "slipway image list --store {store}",
    "image prune": "slipway image prune --store {store}",
    "image export": "slipway image export bash {file}.new --store {store}",
    "image import": "slipway image import {file} --store {store}",
    "image build": "slipway image build bash --no-snapshot --store {store}",
    "kernel list": "slipway kernel list --store {store}",
    "snapshot list": "slipway snapshot list --store {store}",
    "doctor": "slipway doctor --store {store}",
}
ENDLESS = {
    "run": "vmm-run --cold --store {store} {program}",
    "run from a snapshot": "vmm-run {program}",
    "serve": "slipway serve --store {store} --api-sock {socket} --pool 0",
    "mcp": "slipway mcp --store {store}",
}


@pytest.fixture
def sockets() -> Iterator[Path]:
    """Return a directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        yield Path(directory)


@pytest.fixture
def paths(commands: Commands, store: ImageStore, sockets: Path, tmp_path: Path) -> dict[str, str]:
    """Return the paths in arguments."""
    program, file = tmp_path / "endless.sh", tmp_path / "bash.tar"
    program.write_text("while :; do :; done")
    ended = commands("slipway", "image", "export", "bash", file, "--store", store.root)
    assert ended.code == 0, ended.stderr
    return {
        "store": str(store.root),
        "program": str(program),
        "file": str(file),
        "socket": str(sockets / "api"),
    }


def start(commands: Commands, line: str, paths: dict[str, str]) -> subprocess.Popen[bytes]:
    program, *arguments = (word.format_map(paths) for word in line.split())
    return commands.start(program, *arguments)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    try:
        _, stderr = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, stderr.decode()


def check_nothing_left(commands: Commands, store: ImageStore, paths: dict[str, str]) -> None:
    """Check that no process, temporary file, socket or lock of a command is left."""
    assert commands.leftovers() == []
    assert list(Path(paths["socket"]).parent.iterdir()) == []
    lock = os.open(store.root / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    pruned = commands("slipway", "image", "prune", "--store", store.root)
    assert pruned.code == 0, pruned.stderr
    assert list(store.temporary.iterdir()) == []


@pytest.mark.skipif(not MOMENTS, reason="random moments: make signals")
@pytest.mark.parametrize("verb", [*ENDING, *ENDLESS])
def test_signal_at_any_moment_ends_a_command(
    commands: Commands, store: ImageStore, paths: dict[str, str], verb: str
) -> None:
    line = ENDING.get(verb) or ENDLESS[verb]
    seconds, usual = ENDLESS_SECONDS, 0
    if verb in ENDING:
        began = time.monotonic()
        usual, _ = finish(start(commands, line, paths))
        seconds = time.monotonic() - began
    first = random.SystemRandom().randrange(1 << 32)
    for seed in range(first, first + MOMENTS):
        print(f"{verb}: seed {seed}")
        choice = random.Random(seed)
        number, moment = choice.choice(SIGNALS), choice.uniform(0, seconds)
        with start(commands, line, paths) as process:
            time.sleep(moment)
            process.send_signal(number)
            code, stderr = finish(process)

        # Python itself ends by the signal while it starts, and with 1 if that is SIGINT.
        expected = {usual, 0, 128 + number, -number, *([1] if number == signal.SIGINT else [])}
        assert code in expected, f"seed {seed}: {stderr}"
    check_nothing_left(commands, store, paths)


# --- Programs and servers that hang -----------------------------------------------------------


@pytest.fixture
def hanging(commands: Commands, tmp_path: Path) -> Path:
    """Let apt's programs ignore signals and hang with a child; return the file of their ids."""
    programs, started = tmp_path / "bin", tmp_path / "started"
    programs.mkdir()
    started.touch()
    for name in ("apt-get", "apt-config"):
        (programs / name).write_text(
            "#!/bin/sh\ntrap '' TERM INT HUP\n(while :; do sleep 1000; done) &\n"
            f"echo $$ >>{started}\nwhile :; do sleep 1000; done\n"
        )
        (programs / name).chmod(0o755)
    commands.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    return started


@pytest.mark.debian("apt-get")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "line",
    [
        "slipway image build bash --source debian --store {store}",
        "slipway kernel build --store {store}",
        "vmm-run --language bash -c true --store {store}",
    ],
)
def test_signal_ends_a_command_that_waits_for_a_hanging_apt(
    commands: Commands, hanging: Path, tmp_path: Path, line: str, number: signal.Signals
) -> None:
    empty = ImageStore(tmp_path / "empty")
    with start(commands, line, {"store": str(empty.root)}) as process:
        block_until(hanging.read_text, "apt has started")
        process.send_signal(number)
        code, stderr = finish(process)

    assert code == 128 + number, stderr
    assert commands.leftovers() == []


def test_signal_ends_a_build_that_waits_for_a_silent_registry(
    commands: Commands, store: ImageStore
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as registry:
        registry.settimeout(LIMIT)
        reference = f"docker://127.0.0.1:{registry.getsockname()[1]}/bash:1"
        line = f"slipway image build bash --insecure --from {reference} --store {store.root}"
        with start(commands, line, {}) as process:
            client, _ = registry.accept()
            with client:
                process.send_signal(signal.SIGTERM)
                code, stderr = finish(process)

    assert code == 128 + signal.SIGTERM, stderr
    assert commands.leftovers() == []


# --- Locks ------------------------------------------------------------------------------------


@pytest.fixture
def lock(store: ImageStore) -> Iterator[Path]:
    """Hold the lock of the build of an image."""
    path = store.root / "locks" / "image-bash-amd64"
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield path
    os.close(descriptor)


def test_wait_for_a_lock_names_its_holder_and_ends_at_a_signal(
    commands: Commands, store: ImageStore, lock: Path
) -> None:
    line = f"slipway image build bash --refresh --no-snapshot --store {store.root}"
    told = f"waiting for process {os.getpid()} "
    with start(commands, line, {}) as process:
        assert process.stderr is not None
        read = read_until(process.stderr, told.encode(), "the holder of the lock is named")
        process.send_signal(signal.SIGTERM)
        code, rest = finish(process)

    assert code == 128 + signal.SIGTERM, rest
    assert "which is building image-bash" in read.decode() + rest
    assert commands.leftovers() == []
