"""Many jobs of all languages at once, on a server that may have two machines.

Emulated, 50 jobs take minutes, of two processors. So every run of the tests has a few, of the
languages that take least, and ``make mixed-jobs`` has 50 of all: SLIPWAY_TEST_JOBS.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slipway._remote.client import AsyncClient
from support.programs import PATIENCE
from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.result import Result

pytestmark = pytest.mark.alone

PROGRAMS = Path(__file__).with_name("programs")
LANGUAGES = ("bash", "python", "javascript", "c", "c++", "go", "rust")
JOBS = int(os.environ.get("SLIPWAY_TEST_JOBS", "4"))
MAX_MACHINES = 2


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        options = ("--max-machines", str(MAX_MACHINES), "--queue", str(JOBS))
        with Server(Path(directory), *options) as started:
            yield started
        assert (started.process.returncode, started.leftovers()) == (0, [])


async def run_job(client: AsyncClient, number: int, machine: str) -> Result:
    language = LANGUAGES[number % len(LANGUAGES)]
    (program,) = (PROGRAMS / language).glob("mixed.*")
    options: dict[str, Any] = {**PATIENCE, "machine": machine}
    return await client.run(
        program.read_bytes(),
        language,
        stdin=b"x" * (1000 + number),
        arguments=(str(number),),
        outputs=("square.txt",),
        **options,
    )


async def most_machines(server: Server) -> int:
    """How many machines were there at once; looks until it is cancelled."""
    most = 0
    try:
        while True:
            most = max(most, len(server.machines()))
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return most


@pytest.mark.timeout(300 + 60 * JOBS)
async def test_jobs_of_all_languages_share_two_machines(server: Server, machine: str) -> None:
    watch = asyncio.create_task(most_machines(server))
    await asyncio.sleep(0)  # to be cancelled before it has begun is to say nothing

    async with AsyncClient(server.path) as client:
        results = await asyncio.gather(
            *(run_job(client, number, machine) for number in range(JOBS))
        )
    watch.cancel()

    for number, result in enumerate(results):
        language, code = LANGUAGES[number % len(LANGUAGES)], number % 100
        assert result.stdout == f"{language} {number} {1000 + number}\n"
        assert result.stderr == f"error {number}\n"
        assert (result.verdict, result.code) == ("failed" if code else "ok", code)
        assert [file.data for file in result.files] == [b"%d\n" % number**2]
    assert await watch == MAX_MACHINES
