"""Shares of a bounded thing: by user, and within each user by key.

A server has many bounded things: machines, places in the queue, connections, bytes of bodies, kept
runs, sessions, image builds. All follow one rule, which is here: a user who is alone may have all;
at the bound, a share that holds less takes from the share that holds most, and users are compared
before keys. Therefore a user gains nothing by many keys.
"""

from __future__ import annotations

from dataclasses import dataclass

# While what a user holds cannot be taken back, the user may hold this many times the room that is
# left for others: alone, 7/8 of all.
_TIMES_FREE = 7


@dataclass(frozen=True, slots=True)
class Share:
    """User and key for which something is held.

    ``user`` is the id of a client's user as text; "" for callers in this process.
    """

    user: str = ""
    key: str = ""


class Holdings:
    """Amounts of one bounded thing, held by shares.

    Args:
        bound: the most that all may hold together.
        leaves_room: True if the thing cannot be taken back from a share. Then the last eighth of
            the room is left for users who hold little.
    """

    def __init__(self, bound: int, *, leaves_room: bool = False) -> None:
        self.bound = bound
        self.total = 0
        # How often something was taken back from a share.
        self.given_way = 0
        self._leaves_room = leaves_room
        self._by_user: dict[str, int] = {}
        self._by_share: dict[Share, int] = {}

    def of_user(self, user: str) -> int:
        """Return the amount that all shares of ``user`` hold."""
        return self._by_user.get(user, 0)

    def of_share(self, share: Share) -> int:
        """Return the amount that ``share`` holds."""
        return self._by_share.get(share, 0)

    def list_shares(self) -> list[tuple[Share, int]]:
        """Return all shares that hold something, each with its amount."""
        return list(self._by_share.items())

    def has_room(self, share: Share, amount: int = 1) -> bool:
        """Tell if ``share`` may take ``amount`` without taking anything from others."""
        free = self.bound - self.total - amount
        if not self._leaves_room:
            return free >= 0
        return free >= 0 and self.of_user(share.user) + amount <= _TIMES_FREE * free

    def add(self, share: Share, amount: int = 1) -> None:
        """Count ``amount`` for ``share``."""
        if not amount:
            return
        self.total += amount
        self._by_user[share.user] = self.of_user(share.user) + amount
        self._by_share[share] = self.of_share(share) + amount

    def remove(self, share: Share, amount: int = 1) -> None:
        """Count ``amount`` no longer for ``share``, which holds at least as much."""
        if not amount:
            return
        self.total -= amount
        self._by_user[share.user] -= amount
        self._by_share[share] -= amount
        # Names come from clients: those without a holding are not remembered.
        if not self._by_user[share.user]:
            del self._by_user[share.user]
        if not self._by_share[share]:
            del self._by_share[share]

    def take_back(self, share: Share, amount: int = 1) -> None:
        """Count ``amount`` no longer for ``share``, which has given way to another."""
        self.remove(share, amount)
        self.given_way += 1

    def list_givers(self, taker: Share, amount: int = 1) -> list[Share]:
        """Return the shares that have to give way to ``taker``, the one that holds most first.

        A user gives way if the user holds more than the taker's user would with ``amount``. Within
        the taker's own user, keys are compared likewise, and come last. Of equal keys of one user
        the newest is first.
        """
        of_user = self.of_user(taker.user) + amount
        of_share = self.of_share(taker) + amount
        givers = [
            share
            for share, held in self._by_share.items()
            if (
                held > of_share if share.user == taker.user else self._by_user[share.user] > of_user
            )
        ]
        givers.reverse()
        return sorted(givers, key=lambda share: self._rank_giver(share, taker))

    def _rank_giver(self, share: Share, taker: Share) -> tuple[bool, int, str, int]:
        of_user, of_share = self._by_user[share.user], self._by_share[share]
        return share.user == taker.user, -of_user, share.user, -of_share
