"""Addresses of the wire between a guest and its gateway, alike for all guests.

The block 198.18.0.0/15 is reserved for benchmarks of isolated networks (RFC 2544), so that it
collides with no local network. Addresses are in network byte order, as packets have them.
"""

from __future__ import annotations

# 198.18.0.2, with a prefix of 30 bits.
GUEST = bytes((198, 18, 0, 2))
PREFIX_BITS = 30
# 127.0.0.1 in the guest, for published ports of servers that listen there only.
GUEST_LOOPBACK = bytes((127, 0, 0, 1))
# 198.18.0.1; also the only resolver of names.
GATEWAY = bytes((198, 18, 0, 1))

# Addresses that stand for names: 198.18.1.0 to 198.19.255.255.
FIRST_NAME = bytes((198, 18, 1, 0))
LAST_NAME = bytes((198, 19, 255, 255))

# Fixed, so that a clone keeps its neighbours. The second bit of the first byte: locally chosen.
GUEST_MAC = bytes.fromhex("525400534c50")
GATEWAY_MAC = bytes.fromhex("525400534c51")

# Bytes of the largest IP packet, and of the Ethernet header before it.
MTU = 65520
ETHERNET_HEADER = 14
MAX_FRAME = MTU + ETHERNET_HEADER
