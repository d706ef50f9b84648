"""Two TCP ends of the gateway on a bad wire: all bytes arrive once, or a reset is known."""

from __future__ import annotations

import random
from math import inf

from hypothesis import event, given
from hypothesis import strategies as st

from support.tcp_wire import Faults, Peer, TcpWire

shares = st.sampled_from([0.0, 0.05, 0.1, 0.3])
faults = st.builds(
    Faults,
    lost=shares,
    repeated=shares,
    truncated=shares,
    split=shares,
    delay=st.sampled_from([0.0, 0.0001, 0.01, 0.7]),
)
sizes = st.integers(0, 5) | st.integers(0, 5_000) | st.integers(0, 3 << 20)


@st.composite
def peers(draw: st.DrawFn) -> Peer:
    size = draw(sizes)
    data = random.Random(size).randbytes(size)
    size = draw(st.sampled_from([1 << 20, 70_000, 3000]))
    pause = draw(st.sampled_from([0.0, 0.0, 0.001, 0.05]))
    return Peer(data, read_size=size, read_pause=pause)


@given(st.integers(0, 2**32), faults, peers(), peers())
def test_all_bytes_arrive_once_and_in_order(
    seed: int, faults: Faults, client: Peer, server: Peer
) -> None:
    wire = TcpWire(random.Random(seed), faults, client, server)

    wire.run(most_seconds=5_000)

    assert client.end is not None
    assert server.data.startswith(client.received)
    assert client.data.startswith(server.received)
    failures = [peer.end.failure for peer in (client, server) if peer.end is not None]
    event(f"failures {failures}")
    if any(failures) or server.end is None:
        assert faults.lost + faults.truncated > 0, failures
        # An end that is left open has nothing to send or to ask: else it would have learnt of it.
        for peer in (client, server):
            assert peer.end is None or peer.is_done or peer.end.deadline == inf
        return
    assert client.is_done
    assert server.is_done
    assert len(client.received) == len(server.data)
    assert len(server.received) == len(client.data)
