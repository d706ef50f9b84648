"""Splice of the agent's port: a connection to the guest that is tried until the agent answers.

It carries the protocol of host and agent in the place of a serial port. Its other side is a stream
socket that this process has inherited, so that no port of the host is involved.
"""

from __future__ import annotations

from slipway.machine.gateway.report import Report
from slipway.machine.gateway.splice import Splice
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from slipway.machine.gateway.memory_budget import MemoryBudget
    from slipway.machine.gateway.poller import Poller

# The port that the agent listens on: slipway_agent.tcp_port.
AGENT_PORT = 1
# Seconds until the next attempt: the least, and as a share of the time since the first.
LEAST_PAUSE = 0.02
PAUSE_SHARE = 1 / 50


class AgentSplice(Splice):
    """Connection to the agent, and the host's stream. Its bytes are not the guest's traffic."""

    __slots__ = ("_began", "_budget", "_first")

    def __init__(
        self,
        stream: _socket.socket,
        poller: Poller,
        touch: Callable[[Splice], None],
        budget: MemoryBudget,
        now: float,
        first: int,
    ) -> None:
        """Begin the first attempt for ``stream``, which is closed at the end.

        ``first`` is a random number of 32 bits (RFC 6528).
        """
        super().__init__(TcpEnd.connect(now, first, budget), poller, Report(), touch)
        self._budget = budget
        self._began = now
        self._first = first
        self.attempt_ends = now + LEAST_PAUSE
        self.adopt(stream)

    @property
    def will_retry(self) -> bool:
        """True while the agent has not answered, so that the end's state is no end."""
        return self.attempt_ends != 0

    def try_next_address(self, now: float) -> None:
        """Repeat the SYN, whatever became of the last.

        The number is the same: an answer to an earlier SYN is one to this.
        """
        self.end = TcpEnd.connect(now, self._first, self._budget)
        self.attempt_ends = now + max(LEAST_PAUSE, (now - self._began) * PAUSE_SHARE)
        self._touch(self)

    def cut(self) -> None:
        """Do nothing: the limit is that of the guest's traffic."""

    def move(self, now: float, *, may_send: bool) -> None:
        """Move bytes; the first that the agent answers with ends the attempts."""
        if self.attempt_ends and self.end.state not in (State.SYN_SENT, State.CLOSED):
            self.attempt_ends = 0.0
        super().move(now, may_send=may_send)
