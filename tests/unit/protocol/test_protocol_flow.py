"""Credit of senders and receivers."""

import pytest

from slipway_protocol.errors import ProtocolError
from slipway_protocol.flow import ReceiveWindow, SendWindow


def test_sender_may_spend_what_was_granted_and_no_more() -> None:
    window = SendWindow(10)
    window.spend(4)
    window.grant(5)
    window.spend(11)

    assert window.available == 0
    with pytest.raises(ProtocolError) as caught:
        window.spend(1)
    assert caught.value.message == "1 bytes sent with credit for 0"


def test_sender_without_a_window_waits_for_credit() -> None:
    window = SendWindow()

    assert window.available == 0


def test_spending_too_much_spends_nothing() -> None:
    window = SendWindow(10)

    with pytest.raises(ProtocolError):
        window.spend(11)

    assert window.available == 10


def test_receiver_notices_a_peer_that_overdraws() -> None:
    window = ReceiveWindow(10)
    window.count_received(7)

    with pytest.raises(ProtocolError) as caught:
        window.count_received(4)

    assert caught.value.message == "4 bytes received with credit for 3"


def test_receiver_grants_in_halves_of_its_window() -> None:
    window = ReceiveWindow(10)
    window.count_received(10)

    assert [window.count_consumed(count) for count in (2, 2, 1, 4, 1)] == [0, 0, 5, 0, 5]


def test_bytes_not_yet_granted_are_an_overdraft() -> None:
    window = ReceiveWindow(10)
    window.count_received(10)
    window.count_consumed(4)

    with pytest.raises(ProtocolError):
        window.count_received(1)


def test_consuming_everything_always_frees_a_sender_that_is_out_of_credit() -> None:
    for size in range(1, 50):
        window = ReceiveWindow(size)
        window.count_received(size)

        assert sum(window.count_consumed(1) for _ in range(size)) > 0


def test_worked_example_of_the_specification() -> None:
    """docs/protocol.md, "Flow control"."""
    agent, host = SendWindow(100), ReceiveWindow(100)

    agent.spend(60)
    host.count_received(60)
    assert host.count_consumed(30) == 0
    agent.spend(40)
    host.count_received(40)
    assert agent.available == 0
    assert host.count_consumed(30) == 60
    agent.grant(60)
    assert agent.available == 60
    with pytest.raises(ProtocolError):
        host.count_received(61)
