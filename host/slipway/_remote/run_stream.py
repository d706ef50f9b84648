"""Stream of events of a run on a server, without input and output: position, order, errors.

Clients with and without an event loop share this module.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from slipway._remote.answers import decode_resume, decode_run
from slipway._util.data_form import encode_data
from slipway._util.errors import InputError, UnknownOutcome
from slipway._util.units import MIB
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import MAX_LINE, decode_line, encode_line
from slipway._wire.reader import MAX_OUTPUT, EventReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.events import Event
    from slipway._model.options import Options

# Bytes of stdin in one command: a line of 64 KiB when encoded as base64.
STDIN_PIECE = 48 * 1024
# Connections in a row that may break before a complete line arrives.
ATTEMPTS = 5
# Bytes of events after a cancellation. A server holds about 1 MiB.
MAX_LATE_BYTES = 16 * MIB
STDIN_END = encode_line({"type": "stdin_end"})
_ACTIVITIES = {"building": "was being built", "running": "ran"}


class RunStream:
    """Stream of the run in ``answer``, the reply to ``POST /v1/start`` of the server at ``path``.

    ``socket`` is the path of the output. ``has_sent`` is True when stdin was written to it: then a
    broken stream cannot continue, because nobody knows how much the program has read.

    Raises:
        UnknownOutcome: the answer is invalid.
    """

    def __init__(self, path: str, answer: object, options: Options) -> None:
        self.started = decode_run(answer)
        self.target = f"/v1/runs/{self.started.id}"
        self.socket = self.started.socket
        self.has_sent = False
        self._path = path
        self._reader = EventReader(options.outputs, max(options.output_limit or 0, MAX_OUTPUT))
        # Bytes of the stream, from its beginning, whose lines are handled.
        self._offset = 0
        self._attempts = 0

    @property
    def has_ended(self) -> bool:
        """True after the last event, or a failure that the server has reported."""
        return self._reader.ended

    def decode_line(self, line: bytes) -> Event | None:
        """Return the event that ``line`` completes, or None.

        Raises:
            SlipwayError: the server reports a failure.
            UnknownOutcome: the line is invalid.
        """
        self._offset += len(line)
        self._attempts = 0
        try:
            record = decode_line(line)
        except InputError as error:
            raise make_protocol_error(error.message) from None
        return self._reader.feed(record)

    def prepare_resume(self) -> str:
        """Return the target of the request to continue a broken stream after the last line.

        Raises:
            UnknownOutcome: the stream cannot continue.
        """
        if self.has_sent:
            raise UnknownOutcome(
                "the connection to the run broke, and how much the program read of its stdin is"
                " not known",
                "The program may have run, in part or completely. Ask the server for the run.",
            )
        if self._attempts == ATTEMPTS:
            raise make_protocol_error(f"the output ended {ATTEMPTS} times before the run did")
        self._attempts += 1
        return f"{self.target}/resume?offset={self._offset}"

    def finish_resume(self, answer: object) -> None:
        """Take the answer to that request, with the socket to connect to.

        Raises:
            UnknownOutcome: the answer is invalid.
        """
        self.socket = decode_resume(answer, self._offset)

    def make_lost_error(self, state: str) -> UnknownOutcome:
        """Return the error of a server that is gone while the run was in ``state``."""
        activity = _ACTIVITIES.get(state, f"was {state}")
        return UnknownOutcome(
            f"the server at {self._path} went away while the program {activity}",
            "The program has ended with the server.",
        )

    def make_forgotten_error(self, error: InputError) -> UnknownOutcome:
        """Return the error of a server that no longer knows the run, as ``error`` says."""
        return UnknownOutcome(f"the server has lost the run: {error.message}")

    def make_connect_error(self, error: OSError, seconds: float) -> UnknownOutcome:
        """Return the error of an output that cannot be connected to within ``seconds``."""
        reason = error.strerror or f"no connection within {seconds:g} s"
        return UnknownOutcome(
            f"cannot connect to the output of the run at {self.socket!r:.120}: {reason}",
            "The server may have ended, or may not give you access.",
        )


class LineSplitter:
    """Splitter of received bytes into complete lines, each with its end."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        # The beginning of a line whose end has not arrived.
        self._partial = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            UnknownOutcome: a line is too long.
        """
        first, *rest = data.split(b"\n")
        self._partial += first
        if rest:
            self._lines.append(bytes(self._partial) + b"\n")
            self._lines.extend(line + b"\n" for line in rest[:-1])
            self._partial = bytearray(rest[-1])
        if len(self._partial) >= MAX_LINE:
            raise make_protocol_error(f"a line has more than {MAX_LINE} bytes")

    def take_line(self) -> bytes | None:
        """Return the next complete line; None if more bytes are needed."""
        return self._lines.popleft() if self._lines else None


def encode_stdin(data: bytes) -> Iterator[bytes]:
    """Yield the commands that write ``data`` to stdin."""
    for start in range(0, len(data), STDIN_PIECE):
        yield encode_line({"type": "stdin", **encode_data(data[start : start + STDIN_PIECE])})
