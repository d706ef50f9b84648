"""JSON form of results."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from slipway._model.bounds import MAX_FILE_BYTES, MAX_OUTPUTS, MAX_PORT
from slipway._model.host_use import HostUse
from slipway._model.network_use import MAX_DENIED, DeniedDestination, NetworkUse
from slipway._model.result import (
    Captured,
    OutputFile,
    PhaseLimits,
    PhaseResult,
    Provenance,
    Result,
    Timing,
    Usage,
    Verdict,
)
from slipway._util.data_form import encode_data
from slipway._util.errors import InputError
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

# Notes for people; usually two or three.
MAX_WARNINGS = 64


def encode_result(result: Result, *, output: bool, files: bool) -> dict[str, Any]:
    """Return ``result`` for JSON, if wanted with ``output`` and contents of ``files``."""
    record = result.record()
    for phase in ("build", "run"):
        if record[phase] is not None and not output:
            _remove_output(record[phase])
    record["files"] = [_encode_file(file, content=files) for file in result.files]
    return record


def encode_phase(result: PhaseResult) -> dict[str, Any]:
    """Return the result of a phase for JSON, without its output."""
    record = result.record()
    _remove_output(record)
    return record


def decode_result(record: object, contents: Mapping[str, OutputFile] | None = None) -> Result:
    """Return the result in ``record``; ``contents`` has files that were sent before it.

    Raises:
        UnknownOutcome: the record is invalid.
    """
    try:
        return read_result(Fields(record, "the result"), contents or {})
    except InputError as error:
        raise make_protocol_error(error.message) from None


def read_result(record: Fields, contents: Mapping[str, OutputFile]) -> Result:
    """Return the result in ``record``.

    Raises:
        InputError: a field is missing or invalid.
    """
    names = {field.name: field.type for field in fields(Provenance)}
    provenance: dict[str, Any] = {
        name: record.read_integer(name) if kind == "int" else record.read_plain_text(name)
        for name, kind in names.items()
    }
    timing, given = record.read_fields("timing"), [field.name for field in fields(Timing)]
    return Result(
        language=record.read_plain_text("language"),
        build=read_phase(record.read_fields("build")) if "build" in record else None,
        run=read_phase(record.read_fields("run")) if "run" in record else None,
        files=tuple(_read_file(item, contents) for item in record.read_items("files", MAX_OUTPUTS)),
        timing=Timing(**{name: timing.read_number(name) for name in given if name in timing}),
        provenance=Provenance(**provenance),
        warnings=record.read_texts("warnings", MAX_WARNINGS),
        tty=record.read_flag("tty"),
        network=_read_network(record.read_fields("network")) if "network" in record else None,
        host=_read_host_use(record.read_fields("host")) if "host" in record else None,
    )


def _read_host_use(record: Fields) -> HostUse:
    return HostUse(
        record.read_integer("memory_peak"), record.read_number("cpu"), record.read_flag("is_group")
    )


def _read_network(record: Fields) -> NetworkUse:
    items = record.read_items("denied", MAX_DENIED)
    denied = [Fields(item, "a denied destination") for item in items]
    return NetworkUse(
        connections=record.read_integer("connections"),
        bytes_to_guest=record.read_integer("bytes_to_guest"),
        bytes_from_guest=record.read_integer("bytes_from_guest"),
        denials=record.read_integer("denials"),
        denied=tuple(
            DeniedDestination(
                each.read_plain_text("destination"),
                each.read_integer("port", MAX_PORT),
                each.read_integer("count"),
                each.read_plain_text("reason"),
            )
            for each in denied
        ),
        failed=record.read_flag("failed"),
    )


def read_phase(record: Fields) -> PhaseResult:
    """Return the result of a phase in ``record``.

    Raises:
        InputError: a field is missing or invalid.
    """
    verdict = record.read_text("verdict")
    if verdict not in set(Verdict) - {Verdict.BUILD_FAILED}:  # a verdict of runs only
        raise InputError(f"{verdict!r:.60} is not a verdict of a phase")
    usage = record.read_fields("usage")
    return PhaseResult(
        verdict=Verdict(verdict),
        code=record.read_integer("code", 255),
        signal=record.read_integer("signal", 127),
        usage=Usage(
            usage.read_number("wall"),
            usage.read_number("user"),
            usage.read_number("system"),
            usage.read_integer("memory_peak"),
            usage.read_integer("processes_peak"),
        ),
        stdout=_read_captured(record.read_fields("stdout")),
        stderr=_read_captured(record.read_fields("stderr")),
        detail=record.read_plain_text("detail"),
        limits=_read_limits(record.read_fields("limits")),
    )


def _read_limits(record: Fields) -> PhaseLimits:
    given: dict[str, Any] = {
        field.name: (
            record.read_number(field.name)
            if field.name in {"timeout", "cpu_time"}
            else record.read_integer(field.name)
        )
        for field in fields(PhaseLimits)
        if field.name in record
    }
    return PhaseLimits(**given)


def _read_captured(record: Fields) -> Captured:
    size, dropped = record.read_integer("bytes"), record.read_integer("dropped")
    data = record.read_data() if "text" in record or "base64" in record else b""
    if dropped > size or len(data) > size - dropped:
        raise InputError(f"a stream of {size} bytes has {dropped} dropped and {len(data)} kept")
    return Captured(data, size, dropped)


def _read_file(item: object, contents: Mapping[str, OutputFile]) -> OutputFile:
    record = Fields(item, "a file of the result")
    path = record.read_text("path")
    if "missing" in record:
        return OutputFile(path, missing=record.read_plain_text("missing"))
    size, mode = record.read_integer("bytes", MAX_FILE_BYTES), record.read_integer("mode", 0o7777)
    if "text" in record or "base64" in record:
        file = OutputFile(path, mode, record.read_data())
    elif path in contents:
        file = contents[path]
    else:
        raise InputError(f"the content of {path!r:.60} is missing")
    if file.mode != mode or file.data is None or len(file.data) != size:
        raise InputError(f"the content of {path!r:.60} does not match the result")
    return file


def _encode_file(file: OutputFile, *, content: bool) -> dict[str, Any]:
    if file.data is None:
        return {"path": file.path, "missing": file.missing}
    record = {"path": file.path, "mode": file.mode, "bytes": len(file.data)}
    return record | encode_data(file.data) if content else record


def _remove_output(phase: dict[str, Any]) -> None:
    for stream in ("stdout", "stderr"):
        phase[stream].pop("text", None)
        phase[stream].pop("base64", None)
