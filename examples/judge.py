"""Judge: runs the submissions to one problem, in several languages at the same time.

    python examples/judge.py
    python examples/judge.py --api-sock /run/slipway/api

The first form starts machines in this process, the second on a server: slipway serve.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass

from slipway import AsyncClient, AsyncRuntime, SlipwayError


@dataclass(frozen=True)
class Problem:
    title: str
    tests: tuple[tuple[bytes, str], ...]  # input, expected output
    seconds: float
    memory: int


@dataclass(frozen=True)
class Submission:
    author: str
    language: str
    source: str


PROBLEM = Problem(
    title="Write the sum of the numbers that you read.",
    tests=((b"1 2 3\n", "6"), (b"4 -9\n", "-5")),
    seconds=5,
    memory=64 * 1024 * 1024,
)

SUBMISSIONS = (
    Submission("ada", "python", "print(sum(map(int, input().split())))"),
    Submission("bob", "bash", "read -r a b c; echo $((a + b))"),
    Submission("eve", "bash", "while :; do :; done"),
    Submission("dan", "python", "print(int(input()))"),
    Submission("cyd", "c", "int main(void) { retrun 0; }"),
)

NAMES = {
    "failed": "runtime error",
    "signaled": "runtime error",
    "timed_out": "time limit exceeded",
    "cpu_exceeded": "time limit exceeded",
    "memory_exceeded": "memory limit exceeded",
    "output_exceeded": "output limit exceeded",
    "build_failed": "compile error",
}


async def judge(runs, problem, submission):
    """Return the verdict on a submission, and a line of explanation for the author."""
    for number, (given, expected) in enumerate(problem.tests, 1):
        result = await runs.run(
            submission.source,
            submission.language,
            stdin=given,
            key=submission.author,  # authors take turns in the queue
            timeout=problem.seconds,
            memory_limit=problem.memory,
            output_limit=64 * 1024,
            kill_on_output=True,
        )
        if not result.ok:
            lines = result.stderr.strip().splitlines() or [result.summary()]
            explanation = next((line for line in lines if "error:" in line), lines[-1])
            return NAMES.get(result.verdict, result.verdict), f"test {number}: {explanation}"
        if result.stdout.split() != expected.split():
            return "wrong answer", f"test {number}: {result.stdout.strip()[:40]!r}"
    return "accepted", f"{len(problem.tests)} tests"


async def report(runs, problem, submission):
    """Print the verdict on a submission; return False if the host failed."""
    try:
        verdict, explanation = await judge(runs, problem, submission)
    except SlipwayError as error:  # of the host or the request: judge again
        verdict, explanation = "not judged", f"{error.message}. {error.hint}"
    print(f"{submission.author:6}{submission.language:8}{verdict:22}{explanation}", flush=True)
    return verdict != "not judged"


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api-sock", metavar="PATH", help="server to use (default: none)")
    path = parser.parse_args().api_sock
    async with AsyncClient(path) if path else AsyncRuntime() as runs:
        print(PROBLEM.title)
        judged = await asyncio.gather(*(report(runs, PROBLEM, each) for each in SUBMISSIONS))
    return 0 if all(judged) else 1


sys.exit(asyncio.run(main()))
