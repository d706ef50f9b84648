"""Report of a gateway: bounded, whatever its guest requests."""

from __future__ import annotations

from slipway.machine.gateway.report import ANSWER_RATE, MAX_ANSWERS, MAX_DENIED, MAX_WORD, Report


def test_equal_requests_are_counted_together() -> None:
    report = Report()

    for _ in range(3):
        report.deny("example.com", 443, "not allowed")
    report.deny("example.com", 80, "not allowed")

    assert report.format()["denied"].split("\n") == [
        "443 3 example.com not_allowed",
        "80 1 example.com not_allowed",
    ]
    assert report.format()["denials"] == "4"


def test_bytes_beyond_the_limit_do_not_pass() -> None:
    report = Report()
    report.limit = 100

    first = report.bound(60)
    report.bytes_to_guest += first
    second = report.bound(40)
    report.bytes_from_guest += second
    before = report.is_limit_reached
    third = report.bound(1)

    assert (first, second, third) == (60, 40, 0)
    assert (before, report.is_limit_reached) == (False, True)


def test_everything_passes_without_a_limit() -> None:
    report = Report()
    report.bytes_to_guest = 1 << 60

    assert report.bound(1 << 40) == 1 << 40
    assert not report.is_limit_reached


def test_list_of_denied_requests_is_bounded_and_their_number_is_not() -> None:
    report = Report()

    for number in range(5 * MAX_DENIED):
        report.deny(f"{number}.example", 443, "not allowed")

    assert len(report.format()["denied"].split("\n")) == MAX_DENIED
    assert report.denials == 5 * MAX_DENIED


def test_answers_to_denied_requests_are_bounded() -> None:
    now = 5.0
    report = Report(lambda: now)

    answers = [report.deny("a", 1, "no") for _ in range(MAX_ANSWERS + 2)]
    now += 2 / ANSWER_RATE
    later = [report.deny("a", 1, "no") for _ in range(4)]

    assert answers == [True] * MAX_ANSWERS + [False] * 2
    assert (later[0], later[-1]) == (True, False)
    assert report.denials == MAX_ANSWERS + 6


def test_name_of_any_content_is_one_word() -> None:
    report = Report()

    report.deny("a b\n\0\x1b[2J" + "x" * 1000, 1, "no")
    report.deny("", 1, "no")

    first, second = report.format()["denied"].split("\n")
    assert len(first.split(" ")) == len(second.split(" ")) == 4
    assert first.isprintable()
    assert len(first) < MAX_WORD + 20
