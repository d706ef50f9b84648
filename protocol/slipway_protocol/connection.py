"""Sans-IO connection: bytes to events and messages to bytes, for either end."""

from __future__ import annotations

from dataclasses import dataclass

from slipway_protocol.codec import decode, encode
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import BadFrame, FrameReader, encode_frame
from slipway_protocol.messages import Packed
from slipway_protocol.packing import pack, unpack
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from slipway_protocol.messages import Message
    from slipway_protocol.schema import Table

    Event: TypeAlias = "Message | BadFrame | Violation"


@dataclass(frozen=True, slots=True)
class Violation:
    """Intact frame whose payload breaks the protocol; ``reason`` is one sentence."""

    reason: str


class Connection:
    """State of one end: an unfinished frame, and the number of bad frames.

    A bad frame is noise on the line. It is dropped, counted and reported. A violation comes from a
    peer that framed correctly and broke the rules; the caller decides how to react.
    """

    def __init__(self, incoming: Table) -> None:
        self._incoming = incoming
        self._reader = FrameReader()
        # True to send messages as Packed where that is shorter; see slipway_protocol.packing.
        self.packs = False
        self.bad_frames = 0

    @classmethod
    def host(cls) -> Connection:
        """Return the host's end, which accepts the messages of agents."""
        return cls(AGENT_TO_HOST)

    @classmethod
    def agent(cls) -> Connection:
        """Return the agent's end, which accepts the messages of hosts."""
        return cls(HOST_TO_AGENT)

    def receive(self, data: bytes) -> list[Event]:
        """Return the events that ``data`` completes, in order. No ``data`` raises an exception."""
        events: list[Event] = []
        for frame in self._reader.feed(data):
            if isinstance(frame, BadFrame):
                self.bad_frames += 1
                events.append(frame)
                continue
            try:
                message = decode(frame, self._incoming)
                events.append(unpack(message) if isinstance(message, Packed) else message)
            except ProtocolError as error:
                events.append(Violation(error.message))
        return events

    def send(self, message: Message) -> bytes:
        """Return the frame of ``message``, as bytes for the stream.

        Raises:
            ProtocolError: the message does not fit into a frame.
        """
        payload = encode(message)
        return encode_frame(pack(payload) if self.packs else payload)
