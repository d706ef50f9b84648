"""Exits to the VMM of one boot and one job, by place, for both kinds of port.

Needs a usable KVM; otherwise run it in the lab: ``make bench-lab`` or ``python tests/lab run --
python bench/exits.py``. The counts depend on the guest alone, and are alike on every host. Goal:
under 2,000 for a quiet boot to Ready.
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language_of_file
from slipway._run.output_sink import OutputTail
from slipway.machine.kvm import KvmMachine
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import KERNELS

if TYPE_CHECKING:
    from slipway._run.assets import Assets

EXAMPLE = Path(__file__).parent.parent / "examples" / "hello.py"
SHOWN = 12
PORTS = ("virtio", "uart")


def find_assets_and_options(file: Path, serial: bool, kernel: str | None) -> tuple[Assets, Options]:
    """Return the assets of ``file``'s language, and options that choose port and kernel."""
    language = find_language_of_file(file)
    options = Options(machine="kvm", port="serial" if serial else "virtio", kernel=kernel)
    return find_assets(language, options, ImageStore(), print), options


async def count(file: Path, serial: bool, kernel: str | None) -> None:
    """Boot, run ``file``, and print the exits of each."""
    language = find_language_of_file(file)
    assets, options = find_assets_and_options(file, serial, kernel)
    guest = await Guest.start(assets, options)
    try:
        await guest.wait_ready()
        assert isinstance(guest.machine, KvmMachine)
        boot = await guest.machine.count_exits()
        source = file.read_bytes()
        await guest.run(JobRequest(language, source, options), OutputTail(1))
        job = await guest.machine.count_exits()
    finally:
        await guest.stop()
    port = "UART" if serial else "virtio port"
    print(f"\nLinux {assets.kernel.version}, agent on the {port}; boot to Ready: {boot[0]}")
    print("  " + "\n  ".join(boot[1 : SHOWN + 1]))
    print(f"  with a job of {len(source)} bytes of source: {job[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=EXAMPLE)
    parser.add_argument("--prepare", action="store_true", help="make what boots, and end")
    parser.add_argument(
        "--kernel", choices=KERNELS, action="append", help="each in turn; default: the one in use"
    )
    parser.add_argument("--port", choices=PORTS, action="append", help="default: each in turn")
    parsed = parser.parse_args()
    for port, kernel in product(parsed.port or PORTS, parsed.kernel or [None]):
        if parsed.prepare:
            find_assets_and_options(parsed.file, port == "uart", kernel)
        else:
            asyncio.run(count(parsed.file, port == "uart", kernel))


if __name__ == "__main__":
    main()
