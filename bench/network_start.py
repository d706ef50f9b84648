"""Start of a machine without and with a network: a boot and a clone, in turn.

Seconds from the request to the agent's answer. The gateway is started beside the machine and not
waited for. Goals of the network: at most 60 ms more for a boot, 5 ms for a clone, and nothing for a
machine without one.

Runs in this process; snapshots that are missing in the default store are made.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import TYPE_CHECKING

from clones import BenchSetup, clone, ground
from side_by_side import table
from slipway._model.network import Network
from slipway._run.launcher import ColdLauncher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._run.guest import Guest

NETWORK = Network(allow=("host:1",))


async def clone_with_network(on: BenchSetup) -> Guest:
    """Return a clone whose gateway has been started."""
    guest = await clone(on)
    await guest.start_gateway(NETWORK)
    return guest


async def measure(rounds: int, language: str, machine: str) -> None:
    async with ground(language, machine) as plain, ground(language, machine, NETWORK) as networked:
        cold = ColdLauncher(plain.store)
        ways: dict[str, Callable[[], Awaitable[Guest]]] = {
            "boot": lambda: cold.launch(plain.assets, plain.options),
            "boot, network": lambda: cold.launch(networked.assets, networked.options),
            "clone": lambda: clone(plain),
            "clone, network": lambda: clone_with_network(networked),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, launch in ways.items():
                began = time.perf_counter()
                guest = await launch()
                passed = time.perf_counter() - began
                await guest.stop()
                if number:  # the first round warms caches
                    seconds[name].append(passed)
    table(f"request to the agent's answer, {rounds} rounds", seconds)
    medians = {name: statistics.median(row) for name, row in seconds.items()}
    for name in ("boot", "clone"):
        added = medians[f"{name}, network"] - medians[name]
        print(f"a network adds to a {name}: {added * 1e3:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--language", default="bash")
    parser.add_argument("--machine", default="qemu")
    parsed = parser.parse_args()
    asyncio.run(measure(parsed.rounds, parsed.language, parsed.machine))


if __name__ == "__main__":
    main()
