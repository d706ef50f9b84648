"""Output throughput through the whole chain: program, pipe, agent, port, host, sink.

A C program would need its image; `head -c` of the Python image's coreutils may be missing; so the
program is Python writing large blocks, which costs the guest little. Goal: 20 MB/s.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from slipway import run_async

PROGRAM = """\
import os, sys
block = bytes(range(256)) * 256
left = int(sys.argv[1])
while left:
    left -= os.write(1, block[:left])
"""
MEGABYTE = 1_000_000


async def measure(size: int) -> tuple[float, float]:
    """Seconds from the first to the last byte, and of the run phase."""
    arrivals: list[float] = []
    received = 0

    async def count(_phase: str, _stream: str, data: bytes) -> None:
        nonlocal received
        received += len(data)
        arrivals.append(time.perf_counter())

    result = await run_async(
        PROGRAM,
        "python",
        arguments=(str(size),),
        output_limit=size,
        timeout=300,
        on_output=count,
    )
    result.check()
    if received != size:
        raise SystemExit(f"{received} of {size} bytes arrived")
    return arrivals[-1] - arrivals[0], result.timing.run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    size = parsed.megabytes * MEGABYTE
    for _ in range(parsed.rounds):
        flow, phase = asyncio.run(measure(size))
        print(
            f"{parsed.megabytes} MB of all byte values: {parsed.megabytes / flow:.1f} MB/s between"
            f" first and last byte; whole run phase {phase:.2f} s"
        )


if __name__ == "__main__":
    main()
