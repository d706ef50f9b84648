"""Network interface of the guest: drivers, address, route and the gateway's Ethernet address.

Configured by ioctl: a program for each step would take 50 ms under emulation. Structures are those
of 64-bit Linux (include/uapi/linux/if.h, if_arp.h, route.h), alike on x86-64 and arm64.
"""

from __future__ import annotations

import errno
import fcntl
import socket
from struct import pack
from time import monotonic, sleep

from slipway_agent.kernel_modules import NETWORK_MODULES, load_modules
from slipway_protocol import messages as m

INTERFACE = "eth0"
# The driver makes the interface while it is loaded; a device that is probed later is slow.
WAIT_SECONDS = 10.0
STEP_SECONDS = 0.001

# include/uapi/linux/sockios.h
SIOCADDRT = 0x890B
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SIOCSIFMTU = 0x8922
SIOCSARP = 0x8955
# include/uapi/linux/if.h: IFF_UP, IFF_RUNNING
IFF_UP_RUNNING = 0x41
# include/uapi/linux/if_arp.h: ATF_COM (complete), ATF_PERM (never asked for again)
ATF_COMPLETE_PERMANENT = 0x02 | 0x04
ARPHRD_ETHER = 1
# include/uapi/linux/route.h: RTF_UP, RTF_GATEWAY
RTF_UP_GATEWAY = 0x01 | 0x02

_ANY = bytes(4)
# Before the interface is up, or the kernel would send its IPv6 solicitations.
_SETTINGS = (
    (f"/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6", b"1"),
    # The gateway may connect to a server that a program has bound to 127.0.0.1 only.
    (f"/proc/sys/net/ipv4/conf/{INTERFACE}/route_localnet", b"1"),
)


def connect(spec: m.Connect, modules: str = NETWORK_MODULES) -> m.Connected:
    """Load the drivers of the directory ``modules``, and bring the interface up as in ``spec``.

    May be repeated: the last ``spec`` applies.

    Raises:
        OSError: a driver cannot be loaded, the interface does not appear, or the kernel refuses.
    """
    began = monotonic()
    problems = load_modules(modules)
    if problems:
        raise OSError(problems[0])
    _await_interface()
    loaded = monotonic()
    _configure(spec)
    return m.Connected(int((loaded - began) * 1e6), int((monotonic() - loaded) * 1e6))


def raise_loopback() -> None:
    """Bring the loopback interface up.

    Raises:
        OSError: the kernel refuses.
    """
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        _raise_interface(control.fileno(), "lo")
    finally:
        control.close()


def _await_interface() -> None:
    deadline = monotonic() + WAIT_SECONDS
    while True:
        try:
            socket.if_nametoindex(INTERFACE)
            return
        except OSError:
            if monotonic() > deadline:
                text = f"the interface {INTERFACE} did not appear in {WAIT_SECONDS:g} s"
                raise OSError(errno.ENODEV, text) from None
        sleep(STEP_SECONDS)


def _configure(spec: m.Connect) -> None:
    for path, value in _SETTINGS:
        try:
            with open(path, "wb", buffering=0) as file:
                file.write(value)
        except FileNotFoundError:
            pass  # a kernel without IPv6
    control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        _request_configuration(control.fileno(), spec)
    finally:
        control.close()


def _request_configuration(fd: int, spec: m.Connect) -> None:
    name = INTERFACE.encode()
    mask = (0xFFFF_FFFF << (32 - spec.prefix) & 0xFFFF_FFFF).to_bytes(4, "big")
    fcntl.ioctl(fd, SIOCSIFMTU, pack("16si20x", name, spec.mtu))
    fcntl.ioctl(fd, SIOCSIFADDR, pack("16s16s8x", name, _pack_address(spec.address)))
    fcntl.ioctl(fd, SIOCSIFNETMASK, pack("16s16s8x", name, _pack_address(mask)))
    _raise_interface(fd, INTERFACE)
    fcntl.ioctl(fd, SIOCSARP, _pack_neighbour(spec.gateway, spec.gateway_mac))
    try:
        fcntl.ioctl(fd, SIOCADDRT, _pack_default_route(spec.gateway))
    except FileExistsError:
        pass  # the route of an earlier Connect


def _raise_interface(fd: int, name: str) -> None:
    fcntl.ioctl(fd, SIOCSIFFLAGS, pack("16sH22x", name.encode(), IFF_UP_RUNNING))


def _pack_address(address: bytes) -> bytes:
    """Return a ``struct sockaddr_in``, 16 bytes."""
    return pack("HH4s8x", socket.AF_INET, 0, address)


def _pack_neighbour(address: bytes, mac: bytes) -> bytes:
    """Return a ``struct arpreq``, 68 bytes."""
    return pack(
        "16sH6s8xi16x16s",
        _pack_address(address),
        ARPHRD_ETHER,
        mac,
        ATF_COMPLETE_PERMANENT,
        INTERFACE.encode(),
    )


def _pack_default_route(gateway: bytes) -> bytes:
    """Return a ``struct rtentry``, 120 bytes: by the gateway, whose network names the interface."""
    any_address = _pack_address(_ANY)
    return pack("8x16s16s16sH62x", any_address, _pack_address(gateway), any_address, RTF_UP_GATEWAY)
