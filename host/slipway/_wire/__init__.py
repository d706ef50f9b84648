"""What server and client say to each other, as JSON: both directions, everything checked.

What the functions for a server's side refuse is an InputError; what those for a client's refuse
(events, results, errors) is an UnknownOutcome, for a job may have run behind it.
"""

from __future__ import annotations

from slipway._wire.errors import MAX_RETRY, broken, error_of, error_record
from slipway._wire.events import event_of, event_record, event_records
from slipway._wire.fields import MAX_LINE, Fields, data_of, data_record, line, parse
from slipway._wire.job import job_record, session_record
from slipway._wire.reader import MAX_OUTPUT, EventReader
from slipway._wire.results import result_of, result_record

__all__ = [
    "MAX_LINE",
    "MAX_OUTPUT",
    "MAX_RETRY",
    "EventReader",
    "Fields",
    "broken",
    "data_of",
    "data_record",
    "error_of",
    "error_record",
    "event_of",
    "event_record",
    "event_records",
    "job_record",
    "line",
    "parse",
    "result_of",
    "result_record",
    "session_record",
]
