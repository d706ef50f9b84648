"""A job's limits: the language's, the caller's, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slipway._model.bounds import DEFAULT_FETCH_LIMIT
from slipway._model.options import Options
from slipway._model.result import PhaseLimits
from slipway._run.job_message import Surroundings, build_job_message
from slipway._run.job_report import PhaseReport
from slipway._run.job_request import JobRequest
from slipway._run.results import build_phase_result
from slipway._util.units import MIB
from slipway._wire.fields import Fields
from slipway._wire.results import encode_phase, read_phase
from slipway_initramfs.languages import catalogue
from slipway_protocol import messages as m

RUN = m.Limits(30_000, 30_000, 0, 1024, 0, 65536, 16 * MIB, soft_open_files=1024)
BUILD = m.Limits(120_000, 120_000, 0, 1024, 0, 65536, MIB, soft_open_files=1024)


def limits(cpus: int = 1, **options: Any) -> tuple[m.Limits, m.Limits]:
    """Those of the build and of the program."""
    language = catalogue.find_language("rust")
    job, _ = build_job_message(JobRequest(language, b"x", Options(**options)), Surroundings(cpus))
    assert job.build is not None
    return job.build.limits, job.run.limits


def test_limits_that_nobody_set_are_the_languages() -> None:
    assert limits() == (BUILD, RUN)


@pytest.mark.parametrize(
    ("options", "cpus", "wall", "cpu"),
    [
        ({"timeout": 5}, 1, 5, 30),
        ({"timeout": 5}, 8, 5, 40),
        ({"timeout": 300}, 1, 300, 300),
        ({"timeout": 300}, 2, 300, 600),
        ({"timeout": 300, "cpu_time": 7}, 2, 300, 7),
        ({"cpu_time": 300}, 1, 30, 300),
    ],
)
def test_wall_clock_time_that_is_asked_for_raises_the_cpu_time(
    options: dict[str, float], cpus: int, wall: int, cpu: int
) -> None:
    build, run = limits(cpus, **options)

    assert (run.wall_ms, run.cpu_ms) == (1000 * wall, 1000 * cpu)
    assert build == BUILD

    build, run = limits(cpus, **{f"build_{name}": value for name, value in options.items()})

    least = 120 if "cpu_time" not in options else 0
    assert build.cpu_ms == 1000 * max(
        options.get("cpu_time", cpus * options.get("timeout", 0)), least
    )
    assert build.wall_ms == 1000 * options.get("timeout", 120)
    assert run == RUN


def test_each_limit_can_be_asked_for() -> None:
    build, run = limits(
        memory_limit=64 * MIB, build_memory_limit=99 * MIB, processes=7, open_files=2000,
        file_size=MIB, output_limit=5, kill_on_output=True,
    )  # fmt: skip

    assert run == m.Limits(30_000, 30_000, 64 * MIB, 7, MIB, 2000, 5, kill_on_output=True)
    assert build == replace(BUILD, memory_bytes=99 * MIB)


def test_output_files_are_bounded_in_each_job_that_asks_for_some() -> None:
    language = catalogue.find_language("bash")

    def read_bound(**options: Any) -> int:
        job, _ = build_job_message(JobRequest(language, b"x", Options(**options)))
        return job.outputs_bytes

    assert read_bound(outputs=("a",), fetch_limit=5) == 5
    assert read_bound(outputs=("a",)) == DEFAULT_FETCH_LIMIT
    assert read_bound(fetch_limit=5) == 0


def test_command_tells_a_runtime_its_memory() -> None:
    language = catalogue.find_language("javascript")

    def build_arguments(memory: int, **options: Any) -> tuple[str, ...]:
        job, _ = build_job_message(
            JobRequest(language, b"x", Options(arguments=("{memory}",), **options)),
            Surroundings(memory=memory),
        )
        return job.run.argv[1:]

    assert build_arguments(100 * MIB) == ("--max-old-space-size=100", "main.js", "{memory}")
    assert build_arguments(100 * MIB, memory_limit=64 * MIB)[0] == "--max-old-space-size=100"
    assert build_arguments(100 * MIB, memory_limit=40 * MIB)[0] == "--max-old-space-size=40"
    assert build_arguments(0, memory_limit=40 * MIB)[0] == "--max-old-space-size=40"


def test_result_tells_the_limits_that_were_in_force() -> None:
    done = m.PhaseDone(1, m.Phase.RUN, m.Verdict.OK, 0, 0, m.Usage(), "")
    none = {m.Stream.STDOUT: 0, m.Stream.STDERR: 0}

    for told, expected in (
        (RUN, PhaseLimits(30.0, 30.0, None, 1024, 65536, None, 16 * MIB)),
        (m.Limits(), PhaseLimits()),
        (m.Limits(1, 1500, 5, 6, 7, 8, 9), PhaseLimits(0.001, 1.5, 5, 6, 8, 7, 9)),
    ):
        result = build_phase_result(PhaseReport(done, told, none, none, 0.0))

        assert result.limits == expected
        assert read_phase(Fields(encode_phase(result), "it")).limits == expected
