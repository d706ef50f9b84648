from __future__ import annotations

import os
import socket

import pytest

from slipway._server.peers import AllowList, Peer, find_group_id, find_user_id, read_peer
from slipway._util.errors import InputError

OWNER = 1000


def peer(uid: int, *groups: int) -> Peer:
    return Peer(1, uid, frozenset(groups))


def test_peer_is_the_process_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()

    with ours, theirs:
        found = read_peer(ours)

    assert found.pid == os.getpid()
    assert found.uid == os.geteuid()
    assert found.groups >= {os.getegid(), *os.getgroups()}


def test_unknown_peer_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        read_peer(ours)


def test_only_root_and_the_own_user_are_allowed_by_default() -> None:
    allowed = AllowList.parse(OWNER, [])

    assert allowed.is_allowed(peer(0))
    assert allowed.is_allowed(peer(OWNER))
    assert not allowed.is_allowed(peer(1001, 0, OWNER))


def test_users_groups_and_everybody_can_be_allowed() -> None:
    assert AllowList.parse(OWNER, ["1001"]).is_allowed(peer(1001))
    assert AllowList.parse(OWNER, ["@27"]).is_allowed(peer(1001, 5, 27))
    assert AllowList.parse(OWNER, ["*"]).is_allowed(peer(1001))


def test_only_root_and_the_own_user_see_runs_of_other_users() -> None:
    allowed = AllowList.parse(OWNER, ["*", "1001"])

    assert allowed.is_overseer(peer(0))
    assert allowed.is_overseer(peer(OWNER))
    assert not allowed.is_overseer(peer(1001))


def test_knows_users_and_groups_by_name_and_number() -> None:
    assert find_user_id("root") == 0
    assert find_user_id("12") == 12
    assert find_group_id("root") == 0
    assert find_group_id("34") == 34


@pytest.mark.parametrize("name", ["", "no-such-name", "-1", "4294967295", "9" * 30, "a\0b", "٣"])
def test_refuses_unknown_users_and_groups(name: str) -> None:
    with pytest.raises(InputError):
        find_user_id(name)
    with pytest.raises(InputError):
        find_group_id(name)
