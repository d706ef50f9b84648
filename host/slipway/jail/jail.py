"""Jail: the steps by which a new process gives up the host, before it handles input of a guest."""

from __future__ import annotations

import os
from contextlib import contextmanager

from slipway.jail import capabilities, life
from slipway.jail.capabilities import LinuxCapability, has_capability
from slipway.jail.identity import FIRST_ID, take_identity
from slipway.jail.namespaces import Namespace, fork_into, map_root, unshare
from slipway.jail.part import JailRefusal, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from slipway.jail.root_tree import RootTree

# Entered by unshare(2) in this order, each by itself: a refusal then names its part.
_ENTERED: Mapping[Part, Namespace] = {
    Part.MOUNT_NAMESPACE: Namespace.MOUNT,
    Part.NET_NAMESPACE: Namespace.NET,
    Part.IPC_NAMESPACE: Namespace.IPC,
    Part.UTS_NAMESPACE: Namespace.UTS,
    Part.CGROUP_NAMESPACE: Namespace.CGROUP,
}
# Without the first, the host does not let a process have the second.
_NEEDS: Mapping[Part, Part] = {Part.ROOT_TREE: Part.MOUNT_NAMESPACE}


class Jail:
    """Jail for children of this process: what they see, and which parts they get.

    ``left_out`` are parts that this host refuses, or that the process does without. All others have
    to succeed. As root each child gets the user id ``first_id`` plus the number of its process.
    """

    __slots__ = ("_born_as", "_parent", "first_id", "left_out", "tree")

    def __init__(
        self,
        tree: RootTree,
        left_out: Collection[Part] = (),
        first_id: int = FIRST_ID,
        parent: int = 0,
    ) -> None:
        """Take the process that calls as the parent of the children.

        With ``parent``, the id of its own parent, the process that calls enters the jail itself,
        without a pid namespace, which a process has from its birth.

        Raises:
            OSError: this process has too many descriptors, or the parent has ended.
        """
        self.tree = tree
        self.left_out = frozenset(left_out)
        self.first_id = first_id
        self._parent = os.pidfd_open(parent or os.getpid())
        # User and group of a child that is born in its user namespace, which does not show them.
        self._born_as: tuple[int, int] | None = None

    def wants(self, part: Part) -> bool:
        """Tell if children get ``part``."""
        return part not in self.left_out and _NEEDS.get(part) not in self.left_out

    def fork(self, group: int = -1) -> int:
        """Fork this process, which has one thread; return the id of the child, and 0 in the child.

        The child dies with its parent, and is born in the cgroup whose descriptor is ``group``, if
        given. It has to call :meth:`enter` and :meth:`seal`.

        Raises:
            JailRefusal: this host refuses.
        """
        flags = Namespace(0)
        if self.wants(Part.PID_NAMESPACE):
            flags = Namespace.PID
            # An ordinary user has other namespaces only within one of users. A child of root first
            # changes its user id, which it could not do from within.
            if self.wants(Part.USER_NAMESPACE) and not has_capability(LinuxCapability.SETUID):
                flags |= Namespace.USER
        self._born_as = (os.getuid(), os.getgid()) if Namespace.USER in flags else None
        # The kernel does not say which of both it refuses; the first is left out before the other.
        part = Part.USER_NAMESPACE if Namespace.USER in flags else Part.PID_NAMESPACE
        with _refusal_of(part):
            process = fork_into(flags, group)
        if not process:
            life.bind_to(self._parent)
        return process

    def enter(self) -> None:
        """Put this process, which :meth:`fork` has just made, into namespaces and the root tree.

        It keeps the capabilities that it has in there.

        Raises:
            JailRefusal: this host refuses a part.
        """
        user, group = self._born_as or (os.getuid(), os.getgid())
        if (
            self._born_as is None
            and self.wants(Part.USER_ID)
            and has_capability(LinuxCapability.SETUID)
        ):
            with _refusal_of(Part.USER_ID):
                user = group = take_identity(self.first_id)
        if self.wants(Part.USER_NAMESPACE):
            with _refusal_of(Part.USER_NAMESPACE):
                if self._born_as is None:
                    unshare(Namespace.USER)
                map_root(user, group)
        for part, namespace in _ENTERED.items():
            if self.wants(part):
                with _refusal_of(part):
                    unshare(namespace)
        if self.wants(Part.ROOT_TREE):
            with _refusal_of(Part.ROOT_TREE):
                self.tree.enter()

    def seal(self) -> None:
        """Give up all capabilities and gains of rights; the life stays bound to the parent's.

        Raises:
            JailRefusal: this host refuses a part.
        """
        life.forbid_privileges()
        if self.wants(Part.CAPABILITIES):
            with _refusal_of(Part.CAPABILITIES):
                capabilities.drop_all()
        life.bind_to(self._parent)  # the change of the user has deleted the first request

    def close(self) -> None:
        """Close the descriptor of the jail, in the parent or a child; no child is made after that.

        May be called again.
        """
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1


@contextmanager
def _refusal_of(part: Part) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JailRefusal(part, error) from None
