"""Public addresses: those of the internet, as numbers and without the module ipaddress.

The sources are the registries of special addresses (RFC 6890 and IANA's pages), read strictly:
an address is public only if it belongs to the internet without doubt.
"""

from __future__ import annotations

import _socket

from slipway._util import address_blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Block = tuple[int, int]
    """First and last address."""


def read_block(text: str) -> Block:
    """Return first and last address of an IPv4 or IPv6 block, written with slash and bits.

    Raises:
        OSError: the address is invalid.
        ValueError: the number of bits is invalid.
    """
    address, _, bits = text.partition("/")
    packed = pack_address(address)
    size = 1 << 8 * len(packed) - int(bits)
    first = int.from_bytes(packed, "big") & -size
    return first, first + size - 1


def pack_address(text: str) -> bytes:
    """Return an IPv4 or IPv6 address in network byte order.

    Raises:
        OSError: the text is not an address, or has the zone of a link (RFC 4007).
    """
    family = _socket.AF_INET6 if ":" in text else _socket.AF_INET
    return _socket.inet_pton(family, text)


def _read_blocks(*texts: str) -> tuple[Block, ...]:
    return tuple(map(read_block, texts))


SITE_BLOCKS = _read_blocks(*address_blocks.SITE_BLOCKS)
CLOSED_BLOCKS = _read_blocks(*address_blocks.CLOSED_BLOCKS)
# All other addresses of IPv6 are local, multicast, translated (NAT64, mapped), or of no use yet.
_UNICAST = _read_blocks("2000::/3")
# Protocol assignments with Teredo (RFC 4380), documentation, 6to4 (RFC 3056): some of these have
# an IPv4 address inside, which may be a private one.
_SPECIAL = _read_blocks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
# Third quarter of addresses whose last quarter is an IPv4 address (ISATAP, RFC 5214).
_ISATAP = (0x00005EFE, 0x02005EFE)


def is_public(packed: bytes) -> bool:
    """Return True if an address belongs to the internet, and to nothing nearer."""
    number = int.from_bytes(packed, "big")
    if len(packed) == 4:
        return not contain(SITE_BLOCKS, number) and not contain(CLOSED_BLOCKS, number)
    if (number >> 32 & 0xFFFFFFFF) in _ISATAP:
        return False
    return contain(_UNICAST, number) and not contain(_SPECIAL, number)


def contain(blocks: Iterable[Block], number: int) -> bool:
    """Return True if an address lies in one of ``blocks`` of the same version of IP."""
    return any(first <= number <= last for first, last in blocks)
