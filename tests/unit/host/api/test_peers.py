from __future__ import annotations

import os
import socket

import pytest

from slipway._model.errors import InputError
from slipway._server.peers import AllowList, Peer, group_id, peer_of, user_id

OWNER = 1000


def peer(uid: int, *groups: int) -> Peer:
    return Peer(1, uid, frozenset(groups))


def test_knows_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()

    with ours, theirs:
        found = peer_of(ours)

    assert found.pid == os.getpid()
    assert found.uid == os.geteuid()
    assert found.groups >= {os.getegid(), *os.getgroups()}


def test_says_so_where_the_kernel_does_not_know() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_of(ours)


def test_lets_in_root_and_its_own_user_and_nobody_else() -> None:
    allowed = AllowList.of(OWNER, [])

    assert allowed.permits(peer(0))
    assert allowed.permits(peer(OWNER))
    assert not allowed.permits(peer(1001, 0, OWNER))


def test_lets_in_users_groups_and_everybody() -> None:
    assert AllowList.of(OWNER, ["1001"]).permits(peer(1001))
    assert AllowList.of(OWNER, ["@27"]).permits(peer(1001, 5, 27))
    assert AllowList.of(OWNER, ["*"]).permits(peer(1001))


def test_lets_only_root_and_its_own_user_see_the_runs_of_others() -> None:
    allowed = AllowList.of(OWNER, ["*", "1001"])

    assert allowed.oversees(peer(0))
    assert allowed.oversees(peer(OWNER))
    assert not allowed.oversees(peer(1001))


def test_knows_users_and_groups_by_name_and_number() -> None:
    assert user_id("root") == 0
    assert user_id("12") == 12
    assert group_id("root") == 0
    assert group_id("34") == 34


@pytest.mark.parametrize("name", ["", "no-such-name", "-1", "4294967295", "9" * 30, "a\0b", "٣"])
def test_refuses_users_and_groups_that_there_are_not(name: str) -> None:
    with pytest.raises(InputError):
        user_id(name)
    with pytest.raises(InputError):
        group_id(name)
