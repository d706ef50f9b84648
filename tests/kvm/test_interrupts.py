"""Interrupts by eventfd, and the start of other vCPUs by interrupt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from support.guest_code import DATA, DONE, OTHERS_CODE, OTHERS_DATA, Code, build_others_code
from support.waiting import block_until

if TYPE_CHECKING:
    from kvm.conftest import Bare
    from support.bare_metal import BareMetal

READY, STARTED = 0xF5, 0xF6
LINES = (3, 4, 16, 20)


class Edge:
    """A port: when the guest writes to it, it gets ``count`` edges."""

    def __init__(self, machine: BareMetal, line: int, count: int = 1) -> None:
        self.descriptor = machine.interrupt_on(line)
        self._count = count
        machine.add_port(READY, 1, self)

    def read(self, offset: int, size: int) -> int:
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        for _ in range(self._count):
            os.eventfd_write(self.descriptor, 1)


@pytest.mark.parametrize("line", LINES)
def test_edge_that_comes_before_the_guest_halts_is_not_lost(bare: Bare, line: int) -> None:
    code = Code().interrupts(line).out(READY, 1).wait_for_interrupt().end_test()
    machine = bare(code.handler())
    edge = Edge(machine, line)

    ending = machine.run()

    assert (ending.text, machine.number()) == ("done", 1)
    os.close(edge.descriptor)


@pytest.mark.parametrize("line", LINES)
def test_guest_that_has_halted_is_woken(bare: Bare, line: int) -> None:
    code = Code().interrupts(line).store(DATA + 8, 1).wait_for_interrupt().end_test()
    machine = bare(code.handler())
    descriptor = machine.interrupt_on(line)

    machine.start()
    # It halts next; if it has not yet, the edge waits.
    block_until(lambda: machine.number(DATA + 8), "the guest has written its mark")
    os.eventfd_write(descriptor, 1)

    assert (machine.wait().text, machine.number()) == ("done", 1)
    os.close(descriptor)


def test_each_of_many_edges_wakes_the_guest(bare: Bare) -> None:
    count = 50
    code = Code().interrupts(4).repeat(count, "again").out(READY, 1).wait_for_interrupt()
    machine = bare(code.until_zero("again").end_test().handler())
    edge = Edge(machine, 4)

    machine.run()

    assert machine.number() == count
    os.close(edge.descriptor)


def test_edges_before_the_guest_looks_are_one_interrupt(bare: Bare) -> None:
    code = Code().interrupts(4).out(READY, 1).wait_for_interrupt().end_test()
    machine = bare(code.handler())
    edge = Edge(machine, 4, count=5)

    machine.run()

    assert machine.number() in {1, 2}  # one that is served, and one that waits
    os.close(edge.descriptor)


def test_edge_of_a_line_that_the_guest_has_masked_changes_nothing(bare: Bare) -> None:
    code = Code().interrupts(4).out(READY, 1).unmask().end_test()
    machine = bare(code.handler())
    edge = Edge(machine, 5)

    machine.run()

    assert machine.number() == 0
    os.close(edge.descriptor)


def test_other_vcpus_start_where_the_first_sends_them(bare: Bare) -> None:
    code = Code()
    for number in (1, 2, 3):
        code.wake(number).wait_for(number, OTHERS_DATA)
    machine = bare(code.end_test(), cpus=4)
    machine.memory.write(OTHERS_CODE, build_others_code(STARTED, 1))

    class Seen:
        values: list[int] = []  # noqa: RUF012

        def read(self, offset: int, size: int) -> int:
            return 0xFF

        def write(self, offset: int, size: int, value: int) -> None:
            self.values.append(value)

    machine.add_port(STARTED, 1, Seen())

    ending = machine.run()

    assert (ending.text, Seen.values) == ("done", [1, 2, 3])
    assert [sum(thread.exits.values()) for thread in machine.threads] == [1, 2, 2, 2]


def test_vcpu_that_nobody_starts_waits_without_an_exit(bare: Bare) -> None:
    machine = bare(Code().end_test(), cpus=2)

    machine.run()

    assert machine.threads[1].exits == {}


def test_vcpu_that_nobody_starts_can_be_paused_and_resumed(bare: Bare) -> None:
    code = Code().wait_for(1).wake(1).wait_for(2).end_test()
    machine = bare(code, cpus=2)
    machine.memory.write(OTHERS_CODE, build_others_code(DONE, 0))  # the same end as the first's
    machine.start()

    for _ in range(3):
        for thread in machine.threads:
            thread.pause()
        for thread in machine.threads:
            thread.resume()
    machine.memory.write(DATA, b"\1")

    assert machine.wait().text == "done"
