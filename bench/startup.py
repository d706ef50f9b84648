"""Start-up on both sides: the host up to QEMU's exec, and the agent up to Ready.

The host: from the start of the process to the exec of QEMU, by replacing QEMU with a program that
ends at once, so that what is measured is the whole way there. Goal: under 150 ms.
The agent: CPU time of its process from its exec to Ready, as it reports it itself. Goal: 0.7 s
under TCG.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.languages import find_language
from slipway_initramfs.store.image_store import ImageStore

ROUNDS = 9


def host_seconds() -> list[float]:
    """Process start to QEMU's exec."""
    program = Path(sys.executable).with_name("vmm-run")
    source = Path(__file__).parent.parent / "examples" / "hello.py"
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        stamp = Path(directory) / "exec"
        stand_in = Path(directory) / "qemu-system-x86_64"
        stand_in.write_text(f"#!/bin/sh\ndate +%s.%N >{stamp}\n")
        stand_in.chmod(0o755)
        environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}
        for _ in range(ROUNDS + 1):
            began = time.time()
            subprocess.run(
                [program, "--no-server", source], env=environment, capture_output=True, check=False
            )
            seconds.append(float(stamp.read_text()) - began)
    return seconds[1:]


async def agent_start() -> tuple[float, float]:
    """CPU seconds of the agent up to Ready, and the guest's uptime then."""
    options = Options()
    language = find_language("python")
    guest = await Guest.start(find_assets(language, options, ImageStore(), print), options)
    try:
        ready = await guest.wait_ready()
    finally:
        await guest.stop()
    return ready.start_us / 1e6, ready.uptime_us / 1e6


def show(name: str, values: list[float]) -> None:
    """One row: minimum, median, maximum."""
    median = statistics.median(values)
    print(f"{name:<44} min {min(values):.3f}  median {median:.3f}  max {max(values):.3f} s")


def main() -> None:
    show("host: process start to QEMU's exec", host_seconds())
    starts = [asyncio.run(agent_start()) for _ in range(5)]
    show("agent: CPU from its exec to Ready", [cpu for cpu, _ in starts])
    show("guest: uptime at Ready", [uptime for _, uptime in starts])


if __name__ == "__main__":
    main()
