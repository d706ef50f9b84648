"""What a VMM's process and its parent tell each other: a verb and named texts, one a datagram.

The text form is as small as its readers: the VMM imports nothing for it, and its parent, which must
trust nothing that comes out of a VMM, has nothing to decode that could go wrong.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

# Far more than a report of eight vCPUs.
MAX_MESSAGE = 64 * 1024

START = "start"
RUNNING = "running"
FAILED = "failed"
ENDED = "ended"
PAUSE = "pause"
PAUSED = "paused"
RESUME = "resume"
RESUMED = "resumed"
REPORT = "report"
SNAPSHOT = "snapshot"
SAVED = "saved"
REFUSED = "refused"
TOUCHED = "touched"
# To and from the process that makes clones.
CLONE = "clone"
CLONED = "cloned"
EXITED = "exited"
CLOSE = "close"


def create_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a control channel: datagrams, in order, with an end of file."""
    import socket

    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(verb: str, **texts: str) -> bytes:
    """One message, cut off where it is too long; a NUL in a text becomes a space."""
    parts = [verb, *(f"{name}={text.replace(chr(0), ' ')}" for name, text in texts.items())]
    message = "\0".join(parts)
    try:
        data = message.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, which no file's name has
        data = message.encode("utf-8", "replace")
    return data[:MAX_MESSAGE]


def decode(message: bytes) -> tuple[str, dict[str, str]]:
    """The verb and the texts of a message; never fails."""
    verb, *parts = message.decode("utf-8", "surrogateescape").split("\0")
    texts = {}
    for part in parts:
        name, _, text = part.partition("=")
        texts[name] = text
    return verb, texts
