"""Internet checksum (RFC 1071), in little-endian arithmetic.

The one's complement sum does not depend on the order of bytes in a word, as long as sum and result
use the same order (RFC 1071, 2 (B)). Little-endian is the order in which Python reads bytes into an
integer fastest, and that reading takes most of the 60 us for 64 KiB.
"""

from __future__ import annotations

# 2**16 is 1 modulo 65535: a number may be cut at any multiple of 16 bits, and its parts added. Data
# is read in parts of this size, for shorter numbers cost less each; their sum is then halved.
_PART_BYTES = 8192
_FOLDS = tuple((bits, (1 << bits) - 1) for bits in (32768, 16384, 8192, 4096))
# Shorter numbers are divided at once.
_SHORT_BYTES = 512


def sum_words(data: bytes | bytearray | memoryview) -> int:
    """Return a number that is congruent to the sum of ``data``'s 16-bit words, modulo 65535.

    Data of an odd length is padded with a zero byte. Numbers of several pieces may be added if
    each piece but the last has an even length.
    """
    if len(data) <= _SHORT_BYTES:
        return int.from_bytes(data, "little")
    total = 0
    view = memoryview(data)
    for at in range(0, len(data), _PART_BYTES):
        total += int.from_bytes(view[at : at + _PART_BYTES], "little")
    for bits, mask in _FOLDS:
        total = (total >> bits) + (total & mask)
    return total


def sum_network_words(data: bytes | bytearray | memoryview) -> int:
    """Return the sum of ``data``'s big-endian words modulo 65535, to be added to header fields."""
    total = sum_words(data) % 0xFFFF
    return total >> 8 | (total & 0xFF) << 8


def finish_checksum(total: int) -> int:
    """Return the checksum of pieces with the sum ``total``, to be stored in the order of the sum.

    ``total`` is larger than 0: each packet has a length or type that is not 0.
    """
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)
