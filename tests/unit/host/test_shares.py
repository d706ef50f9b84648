"""Who has to give way to whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slipway._util.shares import Holdings, Share

GREEDY, MODEST = Share("1001"), Share("1002")


def test_single_user_may_have_all() -> None:
    holdings = Holdings(4)

    for _ in range(4):
        assert holdings.has_room(GREEDY)
        holdings.add(GREEDY)

    assert not holdings.has_room(GREEDY)
    assert holdings.list_givers(GREEDY) == []


def test_user_who_has_most_gives_way() -> None:
    holdings = Holdings(6)
    holdings.add(GREEDY, 4)
    holdings.add(MODEST, 2)

    assert holdings.list_givers(MODEST) == [GREEDY]
    assert holdings.list_givers(GREEDY) == []


def test_nobody_gives_way_to_one_who_would_then_have_more() -> None:
    holdings = Holdings(4)
    holdings.add(GREEDY, 2)
    holdings.add(MODEST, 2)

    assert holdings.list_givers(MODEST) == []
    assert holdings.list_givers(GREEDY) == []


def test_many_keys_of_one_user_count_as_one_user() -> None:
    holdings = Holdings(8)
    keys = [Share("1001", f"key-{number}") for number in range(6)]
    for key in keys:
        holdings.add(key)
    holdings.add(MODEST, 2)

    assert set(holdings.list_givers(MODEST)) == set(keys)
    assert MODEST not in holdings.list_givers(Share("1001", "fresh"))


def test_keys_of_one_user_are_compared_with_each_other() -> None:
    holdings = Holdings(4)
    greedy, modest = Share("1001", "greedy"), Share("1001", "modest")
    holdings.add(greedy, 3)
    holdings.add(modest, 1)

    assert holdings.list_givers(modest) == [greedy]


def test_other_users_give_before_the_own_keys() -> None:
    holdings = Holdings(9)
    own = Share("1002", "other")
    holdings.add(GREEDY, 6)
    holdings.add(own, 3)

    assert holdings.list_givers(Share("1002", "new")) == [GREEDY, own]


def test_room_that_cannot_be_taken_back_is_left_for_others() -> None:
    holdings = Holdings(256, leaves_room=True)

    assert holdings.has_room(GREEDY, 224)
    assert not holdings.has_room(GREEDY, 225)
    holdings.add(GREEDY, 224)
    assert holdings.has_room(MODEST, 28)


def test_names_without_a_holding_are_forgotten() -> None:
    holdings = Holdings(1)
    for number in range(100):
        share = Share(str(number), str(number))
        holdings.add(share)
        holdings.remove(share)

    assert (holdings.total, holdings.list_givers(Share("new"), -1)) == (0, [])


_SHARES = st.builds(Share, st.sampled_from("abc"), st.sampled_from("xyz"))


@given(takers=st.lists(_SHARES, max_size=80), bound=st.integers(1, 12))
def test_a_user_who_asks_often_enough_has_an_equal_part(takers: list[Share], bound: int) -> None:
    holdings = Holdings(bound)

    def ask(share: Share) -> None:
        if not holdings.has_room(share):
            givers = holdings.list_givers(share)
            if not givers:
                return
            holdings.remove(givers[0])
        holdings.add(share)

    for share in takers:
        ask(share)
        assert holdings.total <= bound
    for _ in range(bound):
        for user in "abc":
            ask(Share(user, "x"))

    held = [holdings.of_user(user) for user in "abc"]
    assert max(held) - min(held) <= 1
