"""A stream of records, as the events that they make up."""

from __future__ import annotations

from slipway._model.bounds import MAX_FILE_BYTES
from slipway._model.errors import InputError
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
from slipway._model.options import MIB
from slipway._model.result import OutputFile
from slipway._wire.errors import decode_error, make_protocol_error
from slipway._wire.events import read_event
from slipway._wire.fields import Fields

# Of a stream whose limit the server's language sets: more than any that comes with Slipway.
MAX_OUTPUT = 64 * MIB
# What has begun last and what may begin then. One cancelled early ends anywhere.
_STEPS = {("", "build"), ("", "run"), ("build", "run")}


class EventReader:
    """Makes events of the records of one stream, and checks their order and bounds.

    Kinds of records that are not known are ignored, so that a newer server may say more.
    ``outputs`` are the paths that were asked for; no other file is taken. Of each stream of a
    phase at most ``limit`` bytes are.
    """

    def __init__(self, outputs: tuple[str, ...] = (), limit: int = MAX_OUTPUT) -> None:
        self._outputs = outputs
        self._limit = limit
        self._received: dict[str, int] = {}
        self._contents: dict[str, OutputFile] = {}
        self._incoming: tuple[str, int, int, bytearray] | None = None
        self._room = MAX_FILE_BYTES
        self._begun = ""
        self._phase = ""
        self.ended = False

    def feed(self, record: object) -> Event | None:
        """The event that ``record`` completes; None where there is none.

        Raises:
            SlipwayError: the failure that the server tells.
            UnknownOutcome: the server broke the protocol.
        """
        try:
            fields = Fields(record, "an event")
            kind = fields.text("type")
            if self.ended:
                raise InputError(f"{kind!r:.60} came after the end")
            failed = kind == "failed"
            event = None if failed else self._event(fields, kind)
        except InputError as error:
            raise make_protocol_error(error.message) from None
        if failed:
            self.ended = True
            raise decode_error(record)
        return event

    def _event(self, fields: Fields, kind: str) -> Event | None:
        if self._incoming is not None and kind != "file_data":
            raise InputError(f"{kind!r:.60} came before the whole of a file")
        match kind:
            case "file":
                self._begin_file(fields)
            case "file_data":
                self._continue_file(fields)
            case "refused":
                raise InputError(f"it refused a command: {fields.plain_text('message'):.200}")
        event = read_event(fields, kind, self._contents)
        if event is not None and not self._in_order(event):
            raise InputError(f"{kind!r} came out of order")
        if isinstance(event, Ended):
            if tuple(file.path for file in event.result.files) != self._outputs:
                raise InputError("the result's files are not those that were asked for")
            self.ended = True
        return event

    def _in_order(self, event: Event) -> bool:
        match event:
            case Queued() | Preparing() | Started():
                return not self._begun
            case PhaseStarted(phase):
                right = not self._phase and (self._begun, phase) in _STEPS
                self._phase = self._begun = phase
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
        path = fields.text("path")
        if path not in self._outputs or path in self._contents:
            raise InputError(f"{path!r:.60} came, which was not asked for or has come")
        size, mode = fields.integer("size", self._room), fields.integer("mode", 0o7777)
        self._room -= size
        self._incoming = path, mode, size, bytearray()
        self._end_file()

    def _continue_file(self, fields: Fields) -> None:
        if self._incoming is None:
            raise InputError("data of a file came without its name")
        _, _, size, content = self._incoming
        data = fields.data()
        if not data or len(content) + len(data) > size:
            raise InputError("a file came with no data, or with more than its size")
        content += data
        self._end_file()

    def _end_file(self) -> None:
        assert self._incoming is not None
        path, mode, size, content = self._incoming
        if len(content) == size:
            self._contents[path] = OutputFile(path, mode, bytes(content))
            self._incoming = None
