"""Internet checksum (RFC 1071), in little-endian arithmetic.

The one's complement sum does not depend on the order of bytes in a word, as long as sum and
result use the same order (RFC 1071, 2 (B)). Little-endian is the order in which Python reads bytes
into an integer fastest: 65 us for 64 KiB of random data, instead of 104 us.
"""

from __future__ import annotations

# 2**16 is 1 modulo 65535. A number may so be cut at any multiple of 16 bits, and its parts added;
# halves that are added cost less than a division of the whole.
_FOLDS = tuple((bits, (1 << bits) - 1) for bits in (1 << power for power in range(18, 11, -1)))


def sum_words(data: bytes | bytearray | memoryview) -> int:
    """Return a number that is congruent to the sum of ``data``'s 16-bit words, modulo 65535.

    Data of an odd length is padded with a zero byte. Numbers of several pieces may be added if
    each piece but the last has an even length.
    """
    total = int.from_bytes(data, "little")
    if len(data) > 512:
        for bits, mask in _FOLDS:
            total = (total >> bits) + (total & mask)
    return total


def finish_checksum(total: int) -> int:
    """Return the checksum of pieces with the sum ``total``, to be stored in little-endian order.

    ``total`` is larger than 0: each packet has a length or type that is not 0.
    """
    return 0xFFFF - (total % 0xFFFF or 0xFFFF)
