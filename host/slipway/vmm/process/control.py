"""Messages between a VMM's process and its parent: a verb and named texts, one message a datagram.

The text form needs no import in the VMM. The parent does not trust a VMM, and such a text has no
content whose decoding could fail.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

# A report of eight vCPUs is much shorter.
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
# To and from a gateway, which also reports and ends.
RULES = "rules"
PUBLISHED = "published"
NAMES = "names"
# To and from a zygote.
SPAWN = "spawn"
SPAWNED = "spawned"
EXITED = "exited"
CLOSE = "close"
# To a zygote of a program: it has run enough, and forks of it are made from now on.
FREEZE = "freeze"


def create_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a control channel: datagrams in order, with an end of file."""
    import socket

    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(verb: str, **texts: str) -> bytes:
    """Return one message, cut at its maximum length; a NUL in a text becomes a space."""
    parts = [verb, *(f"{name}={text.replace(chr(0), ' ')}" for name, text in texts.items())]
    message = "\0".join(parts)
    try:
        data = message.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which no file name has
        data = message.encode("utf-8", "replace")
    return data[:MAX_MESSAGE]


def send_message(channel: int, verb: str, **texts: str) -> None:
    """Send a message to the parent of this process; without a parent, this process ends."""
    try:
        os.write(channel, encode(verb, **texts))
    except OSError:
        os._exit(1)  # the parent has ended


def decode(message: bytes) -> tuple[str, dict[str, str]]:
    """Return verb and texts of a message; never fails."""
    verb, *parts = message.decode("utf-8", "surrogateescape").split("\0")
    texts = {}
    for part in parts:
        name, _, text = part.partition("=")
        texts[name] = text
    return verb, texts
