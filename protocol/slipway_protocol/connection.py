"""One end of the conversation, without input or output of its own."""

from __future__ import annotations

from dataclasses import dataclass

from slipway_protocol.codec import decode, encode
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import BadFrame, FrameReader, encode_frame
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from slipway_protocol.messages import Message
    from slipway_protocol.schema import Table

    Event: TypeAlias = "Message | BadFrame | Violation"


@dataclass(frozen=True, slots=True)
class Violation:
    """A whole frame whose content breaks the protocol, and how."""

    reason: str


class Connection:
    """Turns received bytes into events and messages into bytes to send.

    Bad frames are noise on the line: dropped, counted, reported. Violations come from a peer that
    framed correctly and still broke the rules; what to do about it is the caller's decision.
    """

    def __init__(self, incoming: Table) -> None:
        self._incoming = incoming
        self._reader = FrameReader()
        self.bad_frames = 0

    @classmethod
    def host(cls) -> Connection:
        """The host's end: takes what agents send."""
        return cls(AGENT_TO_HOST)

    @classmethod
    def agent(cls) -> Connection:
        """The agent's end: takes what hosts send."""
        return cls(HOST_TO_AGENT)

    def receive(self, data: bytes) -> list[Event]:
        """What ``data`` completes, in order. Never raises, whatever ``data`` holds."""
        events: list[Event] = []
        for frame in self._reader.feed(data):
            if isinstance(frame, BadFrame):
                self.bad_frames += 1
                events.append(frame)
                continue
            try:
                events.append(decode(frame, self._incoming))
            except ProtocolError as error:
                events.append(Violation(error.message))
        return events

    def send(self, message: Message) -> bytes:
        """The bytes that carry ``message``.

        Raises:
            ProtocolError: the message is longer than a frame may be.
        """
        return encode_frame(encode(message))
