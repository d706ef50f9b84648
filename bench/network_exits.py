"""Datagrams of a guest that a peer sends back: exits to the VMM by place, and the guest's times.

On the kvm machine the counts depend on the guest and on how far answers come together, and times
are those of hardware only on hardware: ``python tests/lab run -- python bench/network_exits.py``.
QEMU has no counts. Goal: at most 0.1 exits a KiB at an MTU of 65520.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.output_sink import OutputTail
from slipway._run.start_machine import start_machine
from slipway.machine.kvm import KvmMachine
from slipway_initramfs.store.image_store import ImageStore
from support.echo_peer import EchoPeer, open_peer
from support.hypervisors import with_hypervisor

# Number of datagrams, bytes of each, and how many are under way at once.
SERIES = ((1, 1, 1), (300, 1, 1), (64, 65492, 1), (64, 65492, 2), (960, 1472, 16))
PROGRAM = """
import os, socket, statistics, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
s.connect(("198.18.0.1", 7))
data = os.urandom({size})
times = []
for _ in range({number} // {together}):
    began = time.perf_counter()
    for _ in range({together}):
        s.send(data)
    for _ in range({together}):
        assert s.recv(70000) == data
    times.append(time.perf_counter() - began)
print(f"median {{statistics.median(times) * 1e6:.0f}} us, least {{min(times) * 1e6:.0f}}")
"""


def parse_counts(lines: list[str]) -> Counter[str]:
    """Return the counts of :meth:`KvmMachine.count_exits` by place."""
    counts = Counter({"all": int(lines[0].split()[0])})
    for line in lines[1:]:
        number, _, place = line.partition(" ")
        counts[place] = int(number)
    return counts


async def count_exits(guest: Guest) -> Counter[str]:
    """Return the exits so far, by place; empty for a machine that does not count them."""
    if isinstance(guest.machine, KvmMachine):
        return parse_counts(await guest.machine.count_exits())
    return Counter()


async def run_series(guest: Guest, peer: EchoPeer) -> None:
    """Run the series one after the other, and print what each took beyond an empty one."""
    python = find_language("python")
    base: Counter[str] | None = None
    for number, size, together in SERIES:
        source = PROGRAM.format(size=size, number=number, together=together).encode()
        peer.lengths.clear()
        before = await count_exits(guest)
        tail = OutputTail(200)
        await guest.run(JobRequest(python, source, Options(timeout=600)), tail)
        exits = await count_exits(guest)
        exits.subtract(before)
        if base is None:
            base = exits
            continue
        exits.subtract(base)
        kib = sum(peer.lengths) * 2 / 1024
        print(f"{number} datagrams of {size} bytes and back, {together} at once:", flush=True)
        print("  " + tail.data.decode().strip())
        if exits:
            print(f"  {exits['all'] / number:.1f} exits each, {exits['all'] / kib:.3f} a KiB")
            places = [f"{count} {place}" for place, count in exits.most_common(8)[1:]]
            print("  " + ", ".join(places), flush=True)


async def measure(machine: str) -> None:
    """Boot a guest with a network, and run the series."""
    store = ImageStore()
    assets = find_assets(find_language("python"), Options(), store, print)
    assets = with_hypervisor(assets, machine)
    async with open_peer() as peer:
        link = peer.machine_end.fileno()
        async with Guest(await start_machine(assets, Options(), network=link)) as guest:
            peer.machine_end.close()
            await guest.wait_ready()
            await run_series(guest, peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", default="kvm", choices=("kvm", "qemu"))
    asyncio.run(measure(parser.parse_args().machine))


if __name__ == "__main__":
    main()
