"""Network namespaces of a test's own: a host and a guest that nothing else can reach.

Needs root. A socket belongs to the namespace in which it was made, so that a test enters one only
to make sockets or to start a process, and uses them from anywhere.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._util.libc import libc
from slipway.jail import namespaces as kinds
from slipway.machine.gateway import addresses
from support.host_programs import need_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# include/uapi/linux/sched.h, mount.h, if_tun.h
CLONE_FS = 0x200
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
TUN = Path("/dev/net/tun")


def explain_missing() -> str:
    """Return why this machine cannot have such namespaces, or an empty text."""
    if os.geteuid():
        return "network namespaces and taps are root's"
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        return f"{TUN}: {error.strerror}"
    return ""


def check(result: int) -> None:
    """Raise the error of a call of the C library that has returned ``result``."""
    if result < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run_in_thread(function: Callable[[], None]) -> None:
    """Run ``function`` in a thread, which may leave the namespaces of this process."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


class Namespace:
    """A network namespace, and a mount namespace in which files of /etc may be others."""

    def __init__(self, files: dict[Path, Path] | None = None) -> None:
        """Make both; each key of ``files`` shows its value's content."""
        self._stack = ExitStack()
        self._files = files or {}
        self._network = self._mounts = -1
        run_in_thread(self._make)

    def _make(self) -> None:
        check(libc.unshare(CLONE_FS))
        check(libc.unshare(int(kinds.Namespace.NET | kinds.Namespace.MOUNT)))
        check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        for place, content in self._files.items():
            target = os.fsencode(place.resolve())
            check(libc.mount(os.fsencode(content), target, None, MS_BIND, None))
        run_ip("link set lo up")
        self._network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, self._network)
        self._mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._stack.callback(os.close, self._mounts)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Let sockets be made, and processes be started, in here by this thread."""
        with ExitStack() as undo:
            network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, network)
            check(libc.setns(self._network, int(kinds.Namespace.NET)))
            undo.callback(lambda: check(libc.setns(network, int(kinds.Namespace.NET))))
            yield

    @contextmanager
    def enter_with_files(self) -> Iterator[None]:
        """Enter with the files of this namespace too, to start a process."""
        with ExitStack() as undo:
            check(libc.unshare(CLONE_FS))
            mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, mounts)
            directory = os.open(".", os.O_PATH | os.O_CLOEXEC)
            undo.callback(os.close, directory)
            undo.callback(os.fchdir, directory)
            check(libc.setns(self._mounts, int(kinds.Namespace.MOUNT)))
            undo.callback(lambda: check(libc.setns(mounts, int(kinds.Namespace.MOUNT))))
            undo.enter_context(self.enter())
            yield

    def add_address(self, address: str) -> None:
        """Give the loopback interface an address, whoever has it in the world."""
        with self.enter():
            run_ip(f"address add {address}/{128 if ':' in address else 32} dev lo")

    def add_interface(self, other: Namespace, name: str) -> None:
        """Join this namespace and another by a pair of interfaces called ``name``, without loss."""
        with self.enter():
            place = f"/proc/{os.getpid()}/fd/{other._network}"
            run_ip(f"link add {name} mtu 65520 type veth peer name {name} netns {place}")
            run_ip(f"link set {name} up")
        with other.enter():
            run_ip(f"link set {name} mtu 65520 up")

    def open_tap(self) -> int:
        """Return the descriptor of a tap whose other end is the guest's eth0, configured."""
        with self.enter():
            tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            flags = IFF_TAP | IFF_NO_PI
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"eth0", flags))
            mac = addresses.GUEST_MAC.hex(":")
            run_ip(f"link set eth0 mtu {addresses.MTU} address {mac}")
            guest, gateway = format_address(addresses.GUEST), format_address(addresses.GATEWAY)
            Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("1")
            run_ip(f"address add {guest}/{addresses.PREFIX_BITS} dev eth0")
            run_ip("link set eth0 up")
            run_ip(f"route add default via {gateway}")
            # As the agent does for servers that listen on the guest's loopback interface.
            Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        return tap

    def close(self) -> None:
        """Let the namespaces go, with the last socket in them."""
        self._stack.close()


def format_address(address: bytes) -> str:
    """Return four bytes as text."""
    return ".".join(map(str, address))


def run_ip(arguments: str) -> None:
    """Run a command of iproute2."""
    subprocess.run([need_program("ip"), *arguments.split()], check=True, capture_output=True)
