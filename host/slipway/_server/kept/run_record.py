"""JSON form of a kept run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway._wire.errors import encode_error
from slipway._wire.results import encode_result

if TYPE_CHECKING:
    from slipway._server.kept.kept_run import KeptRun


def build_run_record(run: KeptRun) -> dict[str, Any]:
    """Return the response of ``GET /v1/runs/{id}``; ``created`` is in seconds since the epoch."""
    path = run.socket
    record: dict[str, Any] = {
        "id": run.id,
        "language": run.execution.language,
        "state": "ended" if run.ended else run.execution.state,
        "position": None if run.ended else run.execution.position,
        "created": round(run.created, 3),
        "socket": None if path is None else str(path),
        "stream": run.policy.stream,
        "detached": run.policy.detached,
        "session": run.policy.session or None,
        "kept_from": run.kept_from,
    }
    if run.result is not None:
        record["result"] = encode_result(run.result, output=False, files=False)
    if run.failure is not None:
        record["failure"] = encode_error(run.failure)
    return record
