"""JSON form of events.

A stream of events is lines of JSON, each an object with the name of the event as ``type``. Output
files come before the ``ended`` that lists them, each as one ``file`` and several ``file_data``. A
stream may end with ``failed`` instead of ``ended``.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

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
from slipway._util.data_form import encode_data
from slipway._util.errors import InputError
from slipway._util.text import to_plain_line
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields
from slipway._wire.ports import encode_ports, read_ports
from slipway._wire.results import encode_phase, encode_result, read_phase, read_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slipway._model.result import OutputFile

# Bytes of a file in one line: 64 KiB as base64.
FILE_PIECE = 48 * 1024
MAX_OUTPUT_PIECE = 128 * 1024
PHASES = ("build", "run")
STREAMS = ("stdout", "stderr")


def encode_event(event: Event) -> dict[str, Any]:
    """Return ``event`` for JSON; of files, the names, modes and sizes."""
    match event:
        case Output(phase, stream, data):
            return {"type": "output", "phase": phase, "stream": stream, **encode_data(data)}
        case Queued(position):
            return {"type": "queued", "position": position}
        case Preparing(detail):
            return {"type": "preparing", "detail": to_plain_line(detail)}
        case Started(machine, ports):
            return {"type": "started", "machine": machine, "ports": encode_ports(ports)}
        case PhaseStarted(phase):
            return {"type": "phase_started", "phase": phase}
        case PhaseEnded(phase, result):
            return {"type": "phase_ended", "phase": phase, "result": encode_phase(result)}
        case Ended(whole):
            return {"type": "ended", "result": encode_result(whole, output=False, files=False)}


def encode_event_and_files(event: Event) -> Iterator[dict[str, Any]]:
    """Yield all records of ``event``: pieces of its files, then the event."""
    if isinstance(event, Ended):
        for file in event.result.files:
            if file.data is not None:
                size = len(file.data)
                yield {"type": "file", "path": file.path, "mode": file.mode, "size": size}
                for start in range(0, size, FILE_PIECE):
                    piece = base64.b64encode(file.data[start : start + FILE_PIECE])
                    yield {"type": "file_data", "base64": piece.decode("ascii")}
    yield encode_event(event)


def decode_event(record: object, contents: Mapping[str, OutputFile] | None = None) -> Event:
    """Return the event in ``record``; ``contents`` are the files of an Ended.

    Raises:
        UnknownOutcome: the record is invalid.
    """
    try:
        fields = Fields(record, "an event")
        event = read_event(fields, fields.read_text("type"), contents or {})
        if event is None:
            raise InputError(f"unknown event {fields.read_text('type')!r:.60}")
    except InputError as error:
        raise make_protocol_error(error.message) from None
    return event


def read_event(fields: Fields, kind: str, contents: Mapping[str, OutputFile]) -> Event | None:
    """Return the event of this kind, or None for an unknown kind.

    Raises:
        InputError: a field is missing or invalid.
    """
    match kind:
        case "output":
            data = fields.read_data()
            if not 0 < len(data) <= MAX_OUTPUT_PIECE:
                raise InputError(f"an event has {len(data)} bytes of output")
            return Output(
                fields.read_choice("phase", PHASES), fields.read_choice("stream", STREAMS), data
            )
        case "queued":
            return Queued(fields.read_integer("position"))
        case "preparing":
            return Preparing(fields.read_plain_text("detail"))
        case "started":
            ports = read_ports(fields) if "ports" in fields else ()
            return Started(fields.read_plain_text("machine"), ports)
        case "phase_started":
            return PhaseStarted(fields.read_choice("phase", PHASES))
        case "phase_ended":
            result = read_phase(fields.read_fields("result"))
            return PhaseEnded(fields.read_choice("phase", PHASES), result)
        case "ended":
            return Ended(read_result(fields.read_fields("result"), contents))
    return None
