"""States of a TCP connection, and reasons of its end."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """State of a connection (RFC 9293, 3.3.2); SYN_HELD: a SYN waits for the host's socket."""

    SYN_HELD = "SYN-HELD"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"
    CLOSED = "CLOSED"


class Failure(Enum):
    """Reason why a connection ended before both sides were finished."""

    REFUSED = "refused by the guest"
    RESET = "reset by the guest"
    TIMED_OUT = "no answer of the guest"
    ABORTED = "aborted by the host"
