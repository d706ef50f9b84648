"""The lines of the command line about the use of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._cli.network_report import MAX_SHOWN_DENIED, report_network
from slipway._model.network_use import DeniedDestination, NetworkUse

if TYPE_CHECKING:
    import pytest


def make_use(*reasons: str, failed: bool = False) -> NetworkUse:
    denied = tuple(
        DeniedDestination(f"n{number}.example", 443, 1, reason)
        for number, reason in enumerate(reasons)
    )
    return NetworkUse(denials=len(denied), denied=denied, failed=failed)


def test_denied_destinations_are_listed_with_their_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_network(make_use("not-public", "port-not-allowed"), verbose=True)

    assert capsys.readouterr().err.splitlines() == [
        "slipway: denied: n0.example:443 (not-public)",
        "slipway: denied: n1.example:443 (port-not-allowed)",
        "slipway: hint: allow a destination with --allow NAME or ADDRESS, also with :PORT",
    ]


def test_reason_that_no_rule_changes_has_no_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    report_network(make_use("not-public", "no-address"), verbose=True)

    assert "hint" not in capsys.readouterr().err


def test_address_of_this_host_has_another_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    report_network(make_use("own-address"), verbose=True)

    assert capsys.readouterr().err.splitlines()[1:] == [
        "slipway: hint: for a port of this host, --allow host:PORT, and connect to host:PORT"
    ]


def test_limit_that_was_reached_has_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    report_network(make_use("limit-reached"), verbose=True)

    assert capsys.readouterr().err.splitlines() == [
        "slipway: denied: n0.example:443 (limit-reached)",
        "slipway: hint: allow more bytes with --network-limit SIZE",
    ]


def test_list_of_denied_destinations_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    report_network(make_use(*["not-public"] * (MAX_SHOWN_DENIED + 3)), verbose=True)

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MAX_SHOWN_DENIED + 1
    assert lines[-1] == "slipway: denied: 3 more destinations, see --json"


def test_program_that_succeeded_has_a_line_for_a_failed_gateway_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report_network(make_use("not-allowed", failed=True), verbose=False)

    assert capsys.readouterr().err == (
        "slipway: the network ended before the program: its gateway failed\n"
    )
