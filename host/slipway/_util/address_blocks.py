"""Blocks of IPv4 addresses that a guest may not reach by a name, as text with slash and bits."""

from __future__ import annotations

# Blocks of which a rule may name a part, though no name may lead there: private networks
# (RFC 1918), networks of providers (RFC 6598), and those for documentation (RFC 5737).
SITE_BLOCKS = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
)
# Blocks that no rule can allow: this host itself, its link with the address of cloud metadata,
# Azure's address of the same kind, protocol assignments, relays of 6to4, the wire between guest and
# gateway, multicast, reserved (RFC 6890).
CLOSED_BLOCKS = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "168.63.129.16/32",
    "192.0.0.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
