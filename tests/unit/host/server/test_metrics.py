from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from slipway._admission.ticket import Capacity, Load
from slipway._model.network_use import DeniedDestination, NetworkUse
from slipway._model.result import Captured, PhaseResult, Provenance, Result, Timing, Usage, Verdict
from slipway._server.http.metrics import MEDIA_TYPE, Metrics
from slipway._util.errors import HostError, UnknownOutcome

CAPACITY = Capacity(machines=4, memory=1000, cpus=8, queue=16)
LOAD = Load(CAPACITY, machines=1, waiting=2, memory=300, cpus=3)


def result(*, machine: str = "kvm", start: str = "cold", **seconds: float) -> Result:
    usage = Usage(0.1, 0.1, 0.1, 1, 1)
    run = PhaseResult(Verdict.TIMED_OUT, 0, 9, usage, Captured(), Captured())
    provenance = Provenance(machine, "6.1", "rust", "0", "1", 1, 1, start=start)
    return Result("rust", None, run, (), Timing(**seconds), provenance)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def labels(**told: str) -> frozenset[tuple[str, str]]:
    return frozenset(told.items())


def test_load_is_read_for_each_scrape() -> None:
    told = samples(Metrics(lambda: LOAD, lambda: 2, lambda: 3, {}))

    assert {name: value for (name, _), value in told.items() if value} == {
        "slipway_machines": 1,
        "slipway_sessions": 2,
        "slipway_pool_idle": 3,
        "slipway_machines_max": 4,
        "slipway_queue_length": 2,
        "slipway_queue_max": 16,
        "slipway_memory_bytes": 300,
        "slipway_memory_max_bytes": 1000,
        "slipway_cpus": 3,
        "slipway_cpus_max": 8,
    }


def test_counts_runs_and_measures_their_phases() -> None:
    metrics = Metrics(lambda: LOAD, lambda: 2, lambda: 3, {})

    metrics.count_result(result(boot=0.2, run=3.0))
    metrics.count_result(result(machine=""))

    told = samples(metrics)
    runs = "slipway_runs_total"
    assert told[runs, labels(language="rust", machine="kvm", verdict="timed_out")] == 1
    assert told[runs, labels(language="rust", machine="none", verdict="timed_out")] == 1
    assert told["slipway_phase_seconds_sum", labels(phase="run", language="rust")] == 3.0
    assert ("slipway_phase_seconds_sum", labels(phase="build", language="rust")) not in told


def test_counts_starts_by_the_origin_of_the_machine() -> None:
    metrics = Metrics(lambda: LOAD, lambda: 2, lambda: 3, {})

    metrics.count_result(result(start="pool"))
    metrics.count_result(result(start="pool"))
    metrics.count_result(result(machine=""))

    starts = {key: value for key, value in samples(metrics).items() if "starts_total" in key[0]}
    assert starts == {("slipway_starts_total", labels(language="rust", start="pool")): 2}


def test_counts_runs_without_a_result() -> None:
    metrics = Metrics(lambda: LOAD, lambda: 2, lambda: 3, {})

    metrics.count_failure("c", UnknownOutcome("lost"))
    metrics.count_failure("c", HostError("no room"))

    told = samples(metrics)
    assert told["slipway_runs_total", labels(language="c", machine="none", verdict="lost")] == 1
    failed = labels(language="c", machine="none", verdict="host_error")
    assert told["slipway_runs_total", failed] == 1


def test_servers_have_separate_registries() -> None:
    first, second = (
        Metrics(lambda: LOAD, lambda: 2, lambda: 3, {}),
        Metrics(lambda: LOAD, lambda: 2, lambda: 3, {}),
    )

    first.count_refusal("busy")

    assert ("slipway_refusals_total", labels(reason="busy")) in samples(first)
    assert ("slipway_refusals_total", labels(reason="busy")) not in samples(second)


def test_is_plain_text() -> None:
    assert MEDIA_TYPE.startswith("text/plain")


def test_counts_connections_bytes_and_denied_requests() -> None:
    metrics = Metrics(lambda: LOAD, lambda: 0, lambda: 0, {})
    denied = (
        DeniedDestination("evil.example", 443, 5, "not-allowed"),
        DeniedDestination("other.example", 443, 2, "a word of the guest"),
    )

    metrics.count_result(replace(result(), network=NetworkUse(3, 4000, 500, 7, denied)))
    metrics.count_result(result())

    found = samples(metrics)
    assert found["slipway_network_connections_total", labels(verdict="allowed")] == 3
    assert found["slipway_network_connections_total", labels(verdict="denied")] == 7
    assert found["slipway_network_bytes_total", labels(direction="to_guest")] == 4000
    assert found["slipway_network_bytes_total", labels(direction="from_guest")] == 500
    assert found["slipway_network_denied_total", labels(reason="not-allowed")] == 5
    assert found["slipway_network_denied_total", labels(reason="other")] == 2
