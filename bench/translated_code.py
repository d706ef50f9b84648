"""Translated code of QEMU for each language's hello world: cold, in a clone, and in a warm clone.

QEMU counts its blocks of translated code (``info jit`` of its monitor). What a run adds was not
translated before: the first run of a machine, and a second one of the same program. Counts do not
depend on the load of the host. On the qemu machine; snapshots that are missing are made.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clones import LANGUAGES, clone, first_output, ground
from slipway._run.launcher import ColdLauncher
from slipway.machine.qemu import QemuMachine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clones import BenchSetup
    from slipway._run.guest import Guest

_FIELDS = {
    "size": re.compile(r"gen code size\s+(\d+)"),
    "blocks": re.compile(r"TB count\s+(\d+)"),
    "flushes": re.compile(r"TB flush count\s+(\d+)"),
}
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class TranslatedCode:
    """Translated code of one QEMU: bytes, blocks, and how often the full cache was discarded."""

    size: int
    blocks: int
    flushes: int


async def read_code(guest: Guest) -> TranslatedCode:
    """Ask the guest's QEMU for its translated code."""
    machine = guest.machine
    assert isinstance(machine, QemuMachine)
    query = {"command-line": "info jit"}
    text = str(await machine.monitor.execute("human-monitor-command", query))
    found = {name: pattern.search(text) for name, pattern in _FIELDS.items()}
    if not all(found.values()):
        sys.exit(f"QEMU's info jit has another form:\n{text}")
    return TranslatedCode(**{name: int(match[1]) for name, match in found.items() if match})


async def measure(launch: Callable[[], Awaitable[Guest]], on: BenchSetup) -> list[TranslatedCode]:
    """Return the code when the agent has answered, after a hello world, and after a second."""
    guest = await launch()
    try:
        codes = [await read_code(guest)]
        for _ in range(2):
            await first_output(guest, on)
            codes.append(await read_code(guest))
    finally:
        await guest.stop()
    return codes


def print_row(name: str, way: str, codes: list[TranslatedCode]) -> None:
    """Print what is there before, and what each run adds."""
    before, first, second = codes
    cells = [f"{before.blocks:>9} {before.size / MEGABYTE:>7.1f}"]
    for old, new in ((before, first), (first, second)):
        if new.flushes != old.flushes:
            cells.append(f"{'discarded':>17}")
        else:
            added = (new.size - old.size) / MEGABYTE
            cells.append(f"{new.blocks - old.blocks:>9} {added:>7.1f}")
    print(f"{name:<12}{way:<7}{''.join(cells)}", flush=True)


async def measure_language(name: str) -> None:
    """Print the rows of one language."""
    async with ground(name, "qemu") as on:
        cold = ColdLauncher(on.store)
        print_row(name, "cold", await measure(lambda: cold.launch(on.assets, on.options), on))
        print_row(name, "clone", await measure(lambda: clone(on), on))
        await on.templates.prepare_warm_clones(on.key, on.assets)
        guest = await clone(on)
        start = guest.start_info
        await guest.stop()
        if start.start != "warm":
            print(f"{name:<12}no warm clone: {start.start_reason}")
            return
        print_row(name, "warm", await measure(lambda: clone(on), on))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("languages", nargs="*", default=LANGUAGES)
    parsed = parser.parse_args()
    print("translated code: blocks and MB when the agent has answered, added by a hello world,")
    print("and added by a second one")
    for name in parsed.languages:
        asyncio.run(measure_language(name))


if __name__ == "__main__":
    main()
