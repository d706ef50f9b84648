"""Counts and times for Prometheus, in a registry for each server.

Clients cannot choose the value of any label: languages come from the store, routes from the
application, and all others are words of Slipway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from slipway._util.errors import UnknownOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from slipway._admission.ticket import Load
    from slipway._model.network_use import NetworkUse
    from slipway._model.result import Result
    from slipway._util.errors import SlipwayError
    from slipway._util.shares import Holdings

MEDIA_TYPE = CONTENT_TYPE_LATEST

_PHASES = (
    *("queue", "prepare", "boot", "agent", "ready", "restore"),
    *("build", "run", "teardown"),
)
# Upper bounds in seconds: from the start of a pooled clone to the longest run, an hour.
_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)

# A gateway that a guest has taken over could report any word.
_DENIAL_REASONS = frozenset(
    {
        *("not-allowed", "port-not-allowed", "not-public", "own-address", "wrong-server-name"),
        *("no-address", "too-many-connections", "limit-reached", "udp"),
    }
)


class Metrics:
    """Metrics of one server, as ``GET /metrics`` shows them.

    Args:
        load: returns the current load.
        sessions: returns the number of open sessions.
        idle: returns the number of idle clones.
        shared: bounded things that users share, by name.
    """

    def __init__(
        self,
        load: Callable[[], Load],
        sessions: Callable[[], int],
        idle: Callable[[], int],
        shared: Mapping[str, Holdings],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_LoadCollector(load, sessions, idle))
        self._registry.register(_ShareCollector(shared))
        self._runs = Counter(
            "slipway_runs",
            "Runs that have ended. The verdict of a run whose machine was lost is lost, of a run "
            "that this host could not start host_error.",
            ("language", "machine", "verdict"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "slipway_phase_seconds",
            "Wall-clock seconds of the parts of runs.",
            ("phase", "language"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._starts = Counter(
            "slipway_starts",
            "Starts of runs by the origin of their machine: cold, snapshot, warm, pool or session.",
            ("language", "start"),
            registry=self._registry,
        )
        self._refusals = Counter(
            "slipway_refusals",
            "Refused requests, by the type of their problem.",
            ("reason",),
            registry=self._registry,
        )
        self._connections = Counter(
            "slipway_network_connections",
            "Connections of runs' machines by verdict: allowed or denied.",
            ("verdict",),
            registry=self._registry,
        )
        self._bytes = Counter(
            "slipway_network_bytes",
            "Bytes of runs' machines by direction: to_guest or from_guest.",
            ("direction",),
            registry=self._registry,
        )
        self._denied = Counter(
            "slipway_network_denied",
            "Denied requests of runs' machines, by reason, as far as results list them.",
            ("reason",),
            registry=self._registry,
        )
        self._requests = Counter(
            "slipway_http_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=self._registry,
        )

    def count_result(self, result: Result) -> None:
        """Count a run that has a result."""
        provenance = result.provenance
        self._runs.labels(result.language, provenance.machine or "none", str(result.verdict)).inc()
        if provenance.machine:  # a run that was cancelled early never had a machine
            self._starts.labels(result.language, provenance.start).inc()
        for phase in _PHASES:
            if seconds := getattr(result.timing, phase):
                self._seconds.labels(phase, result.language).observe(seconds)

        if result.network is not None:
            self._count_network(result.network)

    def _count_network(self, use: NetworkUse) -> None:
        self._connections.labels("allowed").inc(use.connections)
        self._connections.labels("denied").inc(use.denials)
        self._bytes.labels("to_guest").inc(use.bytes_to_guest)
        self._bytes.labels("from_guest").inc(use.bytes_from_guest)
        for each in use.denied:
            reason = each.reason if each.reason in _DENIAL_REASONS else "other"
            self._denied.labels(reason).inc(each.count)

    def count_failure(self, language: str, error: SlipwayError) -> None:
        """Count a run without a result."""
        verdict = "lost" if isinstance(error, UnknownOutcome) else "host_error"
        self._runs.labels(language, "none", verdict).inc()

    def count_refusal(self, reason: str) -> None:
        """Count a request that was answered with a problem of this kind."""
        self._refusals.labels(reason).inc()

    def count_response(self, route: str, status: int) -> None:
        """Count a response."""
        self._requests.labels(route, str(status)).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class _LoadCollector(Collector):
    """Gauges whose values are read for each scrape."""

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
            ("machines", "Running machines.", load.machines),
            ("sessions", "Open sessions.", self._sessions()),
            ("pool_idle", "Idle clones in the pool.", self._idle()),
            ("machines_max", "Machines that may run at once.", capacity.machines),
            ("queue_length", "Waiting runs and sessions.", load.waiting),
            ("queue_max", "Runs and sessions that may wait.", capacity.queue),
            ("memory_bytes", "Memory of running machines.", load.memory),
            ("memory_max_bytes", "Memory that machines may have together.", capacity.memory),
            ("cpus", "vCPUs of running machines.", load.cpus),
            ("cpus_max", "vCPUs that machines may have together.", capacity.cpus),
        ):
            yield GaugeMetricFamily(f"slipway_{name}", text, value)


class _ShareCollector(Collector):
    """Gauges of the things that users share, and counts of how often one gave way to another."""

    def __init__(self, shared: Mapping[str, Holdings]) -> None:
        self._shared = shared

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("slipway_shared", "What users hold, by thing.", labels=("thing",))
        most = GaugeMetricFamily("slipway_shared_max", "The bound on it.", labels=("thing",))
        given = CounterMetricFamily(
            "slipway_gave_way", "How often a user gave way to another.", labels=("thing",)
        )
        for name, holdings in self._shared.items():
            used.add_metric((name,), holdings.total)
            most.add_metric((name,), holdings.bound)
            given.add_metric((name,), holdings.given_way)
        yield from (used, most, given)
