"""Look-ups of names beside the loop: few threads, limits, and no answer that comes twice."""

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway.resolver import MAX_ADDRESSES, MAX_LOOKUPS, SECONDS, Resolver
from support.waiting import LIMIT, block_until

if TYPE_CHECKING:
    from collections.abc import Iterator


class Names:
    """Look-up whose answers wait until they are released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.release.set()
        self.asked: list[bytes] = []
        self.table: dict[bytes, list[str]] = {}

    def look_up(self, name: bytes) -> list[str]:
        self.asked.append(name)
        block_until(self.release.is_set, "the test lets the look-up answer")
        if name not in self.table:
            raise OSError("unknown")
        return self.table[name]


@pytest.fixture
def names() -> Iterator[Names]:
    names = Names()
    yield names
    names.release.set()


def wait_for(resolver: Resolver, answers: list[list[str]], count: int) -> None:
    def collect() -> bool:
        resolver.collect()
        return len(answers) >= count

    block_until(collect, "the look-ups are answered")


def test_addresses_come_in_their_order_and_not_too_many(names: Names) -> None:
    names.table[b"many"] = [f"192.0.2.{number}" for number in range(50)]
    resolver = Resolver(names.look_up)
    answers: list[list[str]] = []

    assert resolver.start(b"many", answers.append, 0.0)
    wait_for(resolver, answers, 1)

    assert answers == [names.table[b"many"][:MAX_ADDRESSES]]


def test_unknown_name_has_no_address(names: Names) -> None:
    resolver = Resolver(names.look_up)
    answers: list[list[str]] = []

    resolver.start(b"unknown", answers.append, 0.0)
    wait_for(resolver, answers, 1)

    assert answers == [[]]


def test_requests_for_one_name_share_a_look_up(names: Names) -> None:
    names.table[b"a"] = ["192.0.2.1"]
    names.release.clear()
    resolver = Resolver(names.look_up)
    answers: list[list[str]] = []
    for _ in range(5):
        resolver.start(b"a", answers.append, 0.0)

    names.release.set()
    wait_for(resolver, answers, 5)

    assert (names.asked, answers) == ([b"a"], [["192.0.2.1"]] * 5)


def test_later_request_is_a_look_up_of_its_own(names: Names) -> None:
    names.table[b"a"] = ["192.0.2.1"]
    resolver = Resolver(names.look_up)
    answers: list[list[str]] = []
    resolver.start(b"a", answers.append, 0.0)
    wait_for(resolver, answers, 1)
    names.table[b"a"] = ["192.0.2.2"]

    resolver.start(b"a", answers.append, 0.0)
    wait_for(resolver, answers, 2)

    assert answers == [["192.0.2.1"], ["192.0.2.2"]]


def test_look_ups_under_way_are_bounded_and_so_are_threads(names: Names) -> None:
    names.release.clear()
    resolver = Resolver(names.look_up)
    answers: list[list[str]] = []

    started = [
        resolver.start(b"%d" % number, answers.append, 0.0) for number in range(MAX_LOOKUPS + 5)
    ]
    block_until(lambda: len(names.asked) == 2, "two threads look up")

    assert started.count(True) == MAX_LOOKUPS
    assert len(names.asked) == 2


def test_silent_resolver_ends_in_an_empty_answer_once(names: Names) -> None:
    names.table[b"slow"] = ["192.0.2.1"]
    names.release.clear()
    resolver = Resolver(names.look_up)
    answers: list[list[str]] = []
    resolver.start(b"slow", answers.append, 100.0)

    resolver.expire(100.0 + SECONDS - 1)
    early = list(answers)
    resolver.expire(100.0 + SECONDS)
    names.release.set()
    assert select.select([resolver.wake], [], [], LIMIT)[0], "the look-up has ended"
    resolver.collect()

    assert (early, answers) == ([], [[]])
