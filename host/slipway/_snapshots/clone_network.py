"""Network of a clone, before its gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from slipway._run.guest_network import GuestNetwork
    from slipway._snapshots.key import SnapshotKey


def open_clone_network(
    key: SnapshotKey, on_failure: AsyncExitStack
) -> tuple[GuestNetwork | None, int | None]:
    """Return the network of a clone of ``key`` and its machine's end; None for both without one.

    Raises:
        HostError: this process has too many descriptors.
    """
    if not key.network:
        return None, None
    # Most runs have no network, and are not to pay for the import.
    from slipway._run.guest_network import open_network

    network = open_network(on_failure, key.port)
    return network, network.machine_end
