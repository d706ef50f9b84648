"""Reader of events from a stream of records."""

from __future__ import annotations

from slipway._model.bounds import MAX_FILE_BYTES
from slipway._model.events import (
    Ended,
    Event,
    Output,
    PhaseEnded,
    PhaseStarted,
    Preparing,
    Queued,
    Started,
)
from slipway._model.result import OutputFile
from slipway._util.errors import InputError
from slipway._util.units import MIB
from slipway._wire.errors import decode_error, make_protocol_error
from slipway._wire.events import read_event
from slipway._wire.fields import Fields

# Bytes of a stream if the server's language sets the limit: more than any language of Slipway.
MAX_OUTPUT = 64 * MIB
# Allowed orders of phases. A cancelled run may end after any of them.
_STEPS = {("", "build"), ("", "run"), ("build", "run")}


class EventReader:
    """Reader of the events in the records of one stream; checks their order and bounds.

    Unknown kinds of records are ignored, for newer servers. Only files with a path in ``outputs``
    are accepted, and at most ``limit`` bytes of each stream of a phase.
    """

    def __init__(self, outputs: tuple[str, ...] = (), limit: int = MAX_OUTPUT) -> None:
        self._outputs = outputs
        self._limit = limit
        self._received: dict[str, int] = {}
        self._contents: dict[str, OutputFile] = {}
        self._incoming: tuple[str, int, int, bytearray] | None = None
        self._room = MAX_FILE_BYTES
        self._last_phase = ""
        self._phase = ""
        self.ended = False

    def feed(self, record: object) -> Event | None:
        """Return the event that ``record`` completes, or None.

        Raises:
            SlipwayError: the server reports a failure.
            UnknownOutcome: the server broke the protocol.
        """
        try:
            fields = Fields(record, "an event")
            kind = fields.read_text("type")
            if self.ended:
                raise InputError(f"{kind!r:.60} after the end")
            failed = kind == "failed"
            event = None if failed else self._read_event(fields, kind)
        except InputError as error:
            raise make_protocol_error(error.message) from None
        if failed:
            self.ended = True
            raise decode_error(record)
        return event

    def _read_event(self, fields: Fields, kind: str) -> Event | None:
        if self._incoming is not None and kind != "file_data":
            raise InputError(f"{kind!r:.60} before the end of a file")
        match kind:
            case "file":
                self._begin_file(fields)
            case "file_data":
                self._continue_file(fields)
            case "refused":
                raise InputError(f"a command was refused: {fields.read_plain_text('message'):.200}")
        event = read_event(fields, kind, self._contents)
        if event is not None and not self._is_in_order(event):
            raise InputError(f"{kind!r} is out of order")
        if isinstance(event, Ended):
            if tuple(file.path for file in event.result.files) != self._outputs:
                raise InputError("the files of the result are not the requested files")
            self.ended = True
        return event

    def _is_in_order(self, event: Event) -> bool:
        match event:
            case Queued() | Preparing() | Started():
                return not self._last_phase
            case PhaseStarted(phase):
                right = not self._phase and (self._last_phase, phase) in _STEPS
                self._phase = self._last_phase = phase
                self._received = {"stdout": 0, "stderr": 0}
                return right
            case Output(phase, stream, data):
                self._received[stream] = self._received.get(stream, 0) + len(data)
                if self._received[stream] > self._limit:
                    raise InputError(f"{stream} has more than {self._limit} bytes")
                return phase == self._phase
            case PhaseEnded(phase):
                right = phase == self._phase
                self._phase = ""
                return right
            case Ended():
                return True

    def _begin_file(self, fields: Fields) -> None:
        path = fields.read_text("path")
        if path not in self._outputs or path in self._contents:
            raise InputError(f"the file {path!r:.60} was not requested, or is repeated")
        size, mode = fields.read_integer("size", self._room), fields.read_integer("mode", 0o7777)
        self._room -= size
        self._incoming = path, mode, size, bytearray()
        self._end_file()

    def _continue_file(self, fields: Fields) -> None:
        if self._incoming is None:
            raise InputError("data of a file without its name")
        _, _, size, content = self._incoming
        data = fields.read_data()
        if not data or len(content) + len(data) > size:
            raise InputError("a file has no data, or more than its size")
        content += data
        self._end_file()

    def _end_file(self) -> None:
        assert self._incoming is not None
        path, mode, size, content = self._incoming
        if len(content) == size:
            self._contents[path] = OutputFile(path, mode, bytes(content))
            self._incoming = None
