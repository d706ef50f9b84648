"""Destinations of connections: the verdicts of policy, look-up and routes, put together."""

from __future__ import annotations

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.memory_budget import LEAST_BYTES
from slipway.machine.gateway.policy import HOST, OWN_ADDRESS, WRONG_SERVER_NAME
from slipway.machine.gateway.public_addresses import pack_address
from slipway.machine.gateway.routes import Routes
from slipway.machine.gateway.server_name import (
    TLS_PORT,
    MalformedHelloError,
    find_server_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway.machine.gateway.name_table import NameTable
    from slipway.machine.gateway.policy import Policy
    from slipway.machine.gateway.report import Report
    from slipway.machine.gateway.tcp_segment import Flow

    Inspector = Callable[[bytes], bool | None]
    """Function of all bytes of the guest until now: may they pass? None: more are needed."""

# Reason of a refusal: the host's resolver knows no address.
NO_ADDRESS = "no-address"
_LOOPBACK = "127.0.0.1"


class Destination:
    """Destination of a guest's SYN.

    ``name`` is None for an address without a name. ``reason`` is that of a refusal, or empty.
    ``label`` is the text of a port of the host, whose address is its loopback.
    """

    __slots__ = ("address", "label", "name", "port", "reason")

    def __init__(
        self, address: str, name: str | None, port: int, reason: str, label: str = ""
    ) -> None:
        self.address = address
        self.name = name
        self.port = port
        self.reason = reason
        self.label = label

    def __str__(self) -> str:
        return self.label or self.name or self.address


class Destinations:
    """Judge of destinations; refusals after the first verdict go to the report."""

    def __init__(self, policy: Policy, table: NameTable, report: Report) -> None:
        self._policy = policy
        self._table = table
        self._report = report
        self._routes = Routes()

    def judge(self, flow: Flow) -> Destination:
        """Return the destination of a new connection, with the verdict on it."""
        name = self._table.find_name(flow.address)
        if name is not None:
            return Destination("", name, flow.port, self._policy.judge_name(name, flow.port))
        reason = self._policy.judge_address(flow.address, flow.port)
        if flow.address == GATEWAY:
            return Destination(_LOOPBACK, None, flow.port, reason, HOST)
        if not reason and self._routes.is_own(flow.address):
            reason = OWN_ADDRESS
        return Destination(".".join(map(str, flow.address)), None, flow.port, reason)

    def choose(self, name: str, port: int, addresses: list[str]) -> list[tuple[str, int]]:
        """Return the addresses of a look-up that may be connected to, with the port."""
        reason = NO_ADDRESS
        chosen = []
        for address in addresses:
            refusal = self._policy.judge_result(address)
            if not refusal and self._routes.is_own(pack_address(address)):
                refusal = OWN_ADDRESS
            if refusal:
                reason = refusal
            else:
                chosen.append((address, port))
        if not chosen:
            self._report.deny(name, port, reason)
        return chosen

    def build_inspector(self, name: str, port: int) -> Inspector | None:
        """Return the check of the server name in TLS: another that is not allowed is refused."""
        if port != TLS_PORT:
            return None

        def inspect(sent: bytes) -> bool | None:
            try:
                found = find_server_name(sent)
            except MalformedHelloError:
                found = "?"
            # A window of the guest has no room for more.
            if found is None and len(sent) < LEAST_BYTES:
                return None
            if found in ("", name) or (found and not self._policy.judge_name(found, port)):
                return True
            self._report.deny(found or "?", port, WRONG_SERVER_NAME)
            return False

        return inspect
