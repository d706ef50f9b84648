"""Frames through the network device of our VMM, without KVM, a guest or a gateway.

The driver of the tests lays frames of a guest out as Linux does: a header of its own, pages of 4
KiB, and buffers of 4 KiB to receive into. Only the device's calls are timed, for a few frames at a
time, which the socket can hold. Goals: 25 us for the longest frame from the guest, 60 us to it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from slipway.vmm.devices.virtio_mmio import Register
from slipway.vmm.devices.virtio_net import MAX_FRAME, Queue
from support.network_driver import NetworkGuest

SIZES = (MAX_FRAME, 1514, 66)
PAGE = 4096


def split_into_pages(size: int) -> int:
    """Return the number of buffers of a frame; a chain of the driver has at most 16."""
    return min(-(-size // PAGE), 15)


def time_transmit(guest: NetworkGuest, size: int, frames: int) -> float:
    """Return the seconds a frame for ``frames`` from the guest by one notification."""
    ring = guest.rings[Queue.TRANSMIT]
    pieces = split_into_pages(size)
    step = -(-size // pieces)
    parts = [(guest.data + at, min(step, size - at)) for at in range(0, size, step)]
    for _ in range(frames):
        ring.add([(guest.other_data, 12), *parts], writable=False)
    began = time.perf_counter()
    guest.write(Register.QUEUE_NOTIFY, Queue.TRANSMIT)
    seconds = time.perf_counter() - began
    assert [len(frame) for frame in guest.peer.receive_all()] == [size] * frames
    while ring.get() is not None:
        pass
    return seconds / frames


def time_receive(guest: NetworkGuest, size: int, frames: int) -> float:
    """Return the seconds a frame for ``frames`` to the guest at one edge of the socket."""
    for _ in range(frames):
        guest.peer.send(bytes(size))
    began = time.perf_counter()
    guest.device.ready(readable=True)
    seconds = time.perf_counter() - began
    assert [len(frame) for frame in guest.settle()] == [size] * frames
    return seconds / frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    rounds = parser.parse_args().rounds
    guest = NetworkGuest().boot()
    print(f"{'bytes':>6}  {'from the guest':<28}  to the guest")
    for size in SIZES:
        frames = 3 if size == MAX_FRAME else 32
        cells = []
        for measure in (time_transmit, time_receive):
            measure(guest, size, frames)  # warms the caches
            times = [measure(guest, size, frames) for _ in range(rounds)]
            median, least = statistics.median(times), min(times)
            cells.append(
                f"{median * 1e6:6.1f} us ({least * 1e6:.1f}) {size / median / 1e6:6.0f} MB/s"
            )
        print(f"{size:>6}  {cells[0]:<28}  {cells[1]}", flush=True)
    guest.peer.close()


if __name__ == "__main__":
    main()
