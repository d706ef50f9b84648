"""Counts and times for Prometheus, in a registry of the server's own.

No label takes a value that a client can choose: languages are those of the store, routes those of
the application, and the rest are words of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from slipway._admission import Load
    from slipway._model.errors import SlipwayError
    from slipway._model.result import Result

MEDIA_TYPE = CONTENT_TYPE_LATEST

_PHASES = ("queue", "prepare", "boot", "ready", "restore", "build", "run", "teardown")
# From a warm start in milliseconds to the longest run that may be, an hour.
_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


class Metrics:
    """What there is to be told at ``GET /metrics``.

    Asked each time: ``load``; ``sessions``, for how many are open; ``idle``, for how many clones
    wait.
    """

    def __init__(
        self, load: Callable[[], Load], sessions: Callable[[], int], idle: Callable[[], int]
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LoadCollector(load, sessions, idle))
        self._runs = Counter(
            "slipway_runs",
            "Runs that have ended; a lost machine has the verdict lost, one that this host could "
            "not start host_error.",
            ("language", "machine", "verdict"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "slipway_phase_seconds",
            "Where the time of runs went, in wall-clock seconds.",
            ("phase", "language"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._starts = Counter(
            "slipway_starts",
            "Machines of runs by where they came from: cold, snapshot, pool or session.",
            ("language", "start"),
            registry=self._registry,
        )
        self._refusals = Counter(
            "slipway_refusals",
            "Requests that were refused, by the type of their problem.",
            ("reason",),
            registry=self._registry,
        )
        self._requests = Counter(
            "slipway_http_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=self._registry,
        )

    def ended(self, result: Result) -> None:
        """A run has a result."""
        provenance = result.provenance
        self._runs.labels(result.language, provenance.machine or "none", str(result.verdict)).inc()
        if provenance.machine:  # one that was cancelled early had none
            self._starts.labels(result.language, provenance.start).inc()
        for phase in _PHASES:
            if seconds := getattr(result.timing, phase):
                self._seconds.labels(phase, result.language).observe(seconds)

    def failed(self, language: str, error: SlipwayError) -> None:
        """A run has no result."""
        from slipway._model.errors import UnknownOutcome

        verdict = "lost" if isinstance(error, UnknownOutcome) else "host_error"
        self._runs.labels(language, "none", verdict).inc()

    def refused(self, reason: str) -> None:
        """A request was answered with a problem of this kind."""
        self._refusals.labels(reason).inc()

    def answered(self, route: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _LoadCollector(Collector):
    """Gauges that are looked up when they are asked for."""

    def __init__(
        self, load: Callable[[], Load], sessions: Callable[[], int], idle: Callable[[], int]
    ) -> None:
        self._load = load
        self._sessions = sessions
        self._idle = idle

    def collect(self) -> Iterable[Metric]:
        load = self._load()
        capacity = load.capacity
        for name, text, value in (
            ("vms", "Machines that run.", load.vms),
            ("sessions", "Sessions that are open.", self._sessions()),
            ("pool_idle", "Clones that wait for runs.", self._idle()),
            ("vms_max", "Machines that may run at once.", capacity.vms),
            ("queue_length", "Runs that wait for room.", load.waiting),
            ("queue_max", "Runs that may wait.", capacity.queue),
            ("memory_bytes", "Memory that machines have.", load.memory),
            ("memory_max_bytes", "Memory that machines may have.", capacity.memory),
            ("cpus", "vCPUs that machines have.", load.cpus),
            ("cpus_max", "vCPUs that machines may have.", capacity.cpus),
        ):
            yield GaugeMetricFamily(f"slipway_{name}", text, value)
