"""Ceiling of the networks that others may request: clients of a server, or a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._model.published_ports import LOOPBACK
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from slipway._model.network import Network

# Ports below are for services of the host.
_FIRST_PORT = 1024


class AboveCeiling(InputError):
    """Request for a network that the operator has not allowed."""


def check_ceiling(network: Network | None, ceiling: Network | None, command: str) -> None:
    """Check that a requested network lies inside ``ceiling``; None allows none.

    A published port has to be on the host's 127.0.0.1, and not below 1024. ``command`` is the one
    whose ceiling this is: a request of a model on a server has to lie inside two.

    Raises:
        AboveCeiling: a rule or a port lies outside; the message names it.
    """
    if network is None:
        return
    if ceiling is None:
        raise AboveCeiling(
            "the operator has allowed no network",
            f"The operator can allow one: {command} --network RULES",
        )
    if (rule := network.find_excess(ceiling)) is not None:
        allowed = ", ".join(ceiling.allow)
        raise AboveCeiling(
            f"network rule {rule[:80]!r} is above the operator's ceiling",
            f"The ceiling of {command} is: {allowed[:400]}",
        )
    for published in network.published_ports:
        if published.host != LOOPBACK or 0 < published.port < _FIRST_PORT:
            raise AboveCeiling(
                f"published port {str(published)[:80]!r} is not on {LOOPBACK}, or below"
                f" {_FIRST_PORT}",
                f"Leave out address and port: {published.guest}",
            )
