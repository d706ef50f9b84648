"""Network of one guest: the link of its machine, and the gateway behind it."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from slipway._model.network import Network
from slipway._model.network_use import NetworkUse
from slipway._util.errors import HostError
from slipway.machine.child import open_pair
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link
from slipway.machine.model import PortKind

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from slipway._model.published_ports import PublishedPort


class GuestNetwork:
    """Network of one guest, which owns both ends of the link at first.

    A machine inherits :attr:`machine_end`; then :meth:`release_machine_end` closes ours. Without
    :meth:`start_gateway`, frames of the guest wait in the link: an idle clone needs no gateway. An
    agent whose port is TCP always needs one, and may get another with other rules.
    """

    def __init__(
        self, gateway_end: socket.socket, machine_end: socket.socket, port: PortKind
    ) -> None:
        self._gateway_end = gateway_end
        self._machine_end = machine_end
        self._has_agent = port is PortKind.TCP
        # Our end of the agent's stream, until it is taken.
        self._stream: socket.socket | None = None
        self._gateway: GatewayHandle | None = None
        self._network = Network()
        self._checksums = True
        self._taken = NetworkUse()
        # Published ports, with the numbers that the kernel has chosen.
        self.ports: tuple[PublishedPort, ...] = ()

    @classmethod
    def create(cls, port: PortKind) -> Self:
        """Return the network of a machine to come.

        Raises:
            HostError: this process has too many descriptors.
        """
        try:
            return cls(*create_link(), port)
        except OSError as error:
            raise HostError(f"cannot make a network: {error.strerror}") from None

    @property
    def gateway_pid(self) -> int | None:
        """The id of the gateway's process; None before its start."""
        return None if self._gateway is None else self._gateway.pid

    @property
    def machine_end(self) -> int:
        """Descriptor of the machine's end."""
        return self._machine_end.fileno()

    def release_machine_end(self) -> None:
        """Close the machine's end here, so that its process has the only one."""
        self._machine_end.close()

    async def start_gateway(
        self, network: Network, names: tuple[str, ...] = (), *, checksums: bool = True
    ) -> None:
        """Start a gateway with the rules of ``network``, and wait until its ports are published.

        Without such ports nothing is waited for: frames of the guest lie in the link until the
        gateway is ready, and a gateway that cannot start is reported with the use of the network.
        ``names`` are those that the guest has looked up already. Without ``checksums``, the
        machine's device vouches for its frames.

        A gateway that has these rules already stays. For an agent whose port is TCP,
        :meth:`take_stream` has a new stream after each start.

        Raises:
            InputError: a port cannot be published.
            HostError: the gateway did not start.
        """
        if self._gateway is not None:
            if network == self._network:
                return
            await self._gateway.close()
        self._network = network
        self._checksums = checksums
        settings = GatewaySettings(
            rules=network.encode_rules(),
            publish=network.published_ports,
            rate=network.rate or 0,
            limit=network.limit or 0,
            names=names,
            checksums=checksums,
        )
        with ExitStack() as theirs:
            agent = self._open_stream(theirs) if self._has_agent else None
            self._gateway = GatewayHandle.start(settings, self._gateway_end.fileno(), agent)
        if not self._has_agent:  # else another gateway may follow
            self._gateway_end.close()
        if network.publish:
            self.ports = await self._gateway.wait_ready()

    def _open_stream(self, theirs: ExitStack) -> int:
        """Make a stream to the agent; return the gateway's end, which ``theirs`` closes."""
        with ExitStack() as ours:
            self._stream, descriptor = open_pair(socket.socketpair, ours, theirs)
            ours.pop_all()
        return descriptor

    def take_stream(self) -> socket.socket | None:
        """Return our end of the agent's stream, if the last start of a gateway has made it."""
        stream, self._stream = self._stream, None
        return stream

    async def start_fork(self, original: GuestNetwork) -> None:
        """Start a gateway that knows the names of ``original``, with the same rules.

        Ports whose place is taken by the original are left out.

        Raises:
            HostError: the gateway did not start.
        """
        network = original._network
        free = tuple(
            str(published)
            for published in network.published_ports
            if not published.port and not published.path
        )
        names = () if original._gateway is None else await original._gateway.fetch_names()
        await self.start_gateway(
            replace(network, publish=free), names, checksums=original._checksums
        )

    async def take_use(self) -> NetworkUse:
        """Return the use of the network since the last call."""
        if self._gateway is None:
            return NetworkUse()
        report = await self._gateway.fetch_report()
        total = replace(report, failed=self._gateway.has_failed)
        taken, self._taken = self._taken, total
        return total.subtract(taken)

    async def close(self) -> None:
        """End the gateway. May be called again."""
        with ExitStack() as closing:
            closing.callback(self._machine_end.close)
            closing.callback(self._gateway_end.close)
            if self._stream is not None:
                closing.callback(self._stream.close)
            if self._gateway is not None:
                await self._gateway.close()


def open_network(undo: AsyncExitStack, port: PortKind) -> GuestNetwork:
    """Return the network of a machine to come, whose agent has ``port``; ``undo`` closes it.

    Raises:
        HostError: this process has too many descriptors.
    """
    network = GuestNetwork.create(port)
    undo.push_async_callback(network.close)
    return network
