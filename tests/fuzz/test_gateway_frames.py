"""Frames of any content for the gateway: one declared error, bounded bytes, no busy loop.

``SLIPWAY_FUZZ_FRAMES`` is the number of frames, for ``make fuzz-frames``.
"""

from __future__ import annotations

import os
import random

from hypothesis import given
from hypothesis import strategies as st

from slipway.machine.gateway.tcp_state import State
from support.hostile_guest import FrameTarget, HostileGuest

FRAMES = int(os.environ.get("SLIPWAY_FUZZ_FRAMES", "20000"))
# A guest in a new world now and then: each begins with unknown connections.
FRAMES_OF_ONE_GUEST = 5000


def test_near_misses_and_damaged_frames_grow_nothing() -> None:
    seed = random.getrandbits(32) if "SLIPWAY_FUZZ_FRAMES" in os.environ else 15
    states: set[State] = set()
    for number in range(0, FRAMES, FRAMES_OF_ONE_GUEST):
        source = random.Random(seed + number)
        target = FrameTarget(source)
        guest = HostileGuest(source, target)
        try:
            guest.run(FRAMES_OF_ONE_GUEST)
        except BaseException:
            print(f"seed {seed + number}, frame {guest.frames}")
            raise
        states |= target.states

    # The search is only worth something if it comes everywhere.
    assert states == set(State)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_random_frames_raise_nothing_else(frames: list[bytes]) -> None:
    target = FrameTarget(random.Random(1))

    for frame in frames:
        target.handle(frame, 0.0)

    assert target.dropped <= len(frames)
    target.check_bounds()
