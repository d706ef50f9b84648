"""Rules of a network: destinations that a guest may connect to.

A rule is ``open``, a preset, a name, ``*.name``, ``name:port``, an IPv4 address or block, with or
without ``:port``, or ``host:port``. docs/network.md has the grammar as a table.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from slipway._model.bounds import MAX_PORT
from slipway._util.address_blocks import CLOSED_BLOCKS, SITE_BLOCKS
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from ipaddress import IPv4Network

# The public names that each registry's own client uses. A name whose content anyone may write,
# such as a store of objects, is not among them.
PRESETS: dict[str, tuple[str, ...]] = {
    "pypi": ("pypi.org:443", "files.pythonhosted.org:443"),
    "npm": ("registry.npmjs.org:443",),
    "crates": ("index.crates.io:443", "static.crates.io:443", "crates.io:443"),
    "go": ("proxy.golang.org:443", "sum.golang.org:443"),
    "debian": (
        "deb.debian.org:80",
        "deb.debian.org:443",
        "security.debian.org:80",
        "security.debian.org:443",
    ),
}
OPEN = "open"
NONE = "none"
HOST = "host"
# The port of mail servers (SMTP). Only a rule that ends in this port lets a guest send mail.
MAIL_PORT = 25
# Characters of a name and of its parts (RFC 1035, section 2.3.4).
MAX_NAME = 253
MAX_LABEL = 63
# Characters of a rule before it is read: a name, with "*." and a port, and room for spaces. Rules
# come from clients, and the encodings of IDNA take the square of the time for long texts.
MAX_RULE = 300

# Compiled when needed: most command lines have no rule.
_LABEL = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
# The last part of a name that C libraries would read as a part of an address.
_NUMBER = "[0-9]+|0x[0-9a-f]*"
_ADDRESS = "[0-9.]+(?:/[0-9]+)?"
# Letters that the two versions of IDNA (RFC 3490, RFC 5891) encode differently.
_AMBIGUOUS = frozenset("\u00df\u03c2\u200c\u200d")
_EXAMPLES = "Examples: pypi, api.example.com:443, *.example.com, 10.1.0.0/16, host:8080."
_HOST_PORT = "For a port of this host, write host:8080."
# A user who names one of these closed addresses wants a server of this host: all its addresses,
# loopback, and the wire, where the gateway stands for this host.
_OWN_BLOCKS = ("0.0.0.0/8", "127.0.0.0/8", "198.18.0.0/15")


class RuleKind(enum.Enum):
    """Kind of a rule."""

    OPEN = "open"
    NAME = "name"
    # All names below a name, and not the name itself.
    SUFFIX = "suffix"
    ADDRESS = "address"
    # A port of the host's own 127.0.0.1.
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule in canonical form; ``name`` is a name, an IPv4 block or empty, ``port`` 0 is any.

    Any port does not include that of mail servers.
    """

    kind: RuleKind
    name: str = ""
    port: int = 0

    def __str__(self) -> str:
        """Return the rule as the gateway reads it, and as a user would write it."""
        word = {
            RuleKind.OPEN: OPEN,
            RuleKind.NAME: self.name,
            RuleKind.SUFFIX: f"*.{self.name}",
            RuleKind.ADDRESS: self.name,
            RuleKind.HOST: HOST,
        }[self.kind]
        return f"{word}:{self.port}" if self.port else word

    def covers(self, other: Rule) -> bool:
        """Return True if this rule allows all that ``other`` allows."""
        if self.kind is RuleKind.OPEN:
            return other.port != MAIL_PORT and other.is_public
        if self.port != other.port and (self.port or other.port == MAIL_PORT):
            return False
        match self.kind, other.kind:
            case RuleKind.NAME, RuleKind.NAME:
                return self.name == other.name
            case RuleKind.SUFFIX, RuleKind.NAME | RuleKind.SUFFIX:
                below = other.name.endswith(f".{self.name}")
                return below or (other.kind is RuleKind.SUFFIX and other.name == self.name)
            case RuleKind.ADDRESS, RuleKind.ADDRESS:
                return self._covers_block(other)
            case RuleKind.HOST, RuleKind.HOST:
                return True
        return False

    @property
    def is_public(self) -> bool:
        """Return True if the rule lets a guest connect to public addresses only."""
        if self.kind is RuleKind.ADDRESS:
            return find_site_block(_read_block(self.name)) is None
        return self.kind is not RuleKind.HOST

    def _covers_block(self, other: Rule) -> bool:
        # 0.0.0.0/0 means public addresses only, so that it does not cover 10.0.0.0/8.
        inner = _read_block(other.name)
        outer = _read_block(self.name)
        same = find_site_block(inner) == find_site_block(outer)
        return same and inner.subnet_of(outer)


def parse_rules(text: str) -> tuple[str, ...]:
    """Return the rules of a list with commas, to be read later; ``none`` alone is no rule."""
    if text.strip().lower() == NONE:
        return ()
    return tuple(part.strip() for part in text.split(","))


def read_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules that ``text`` stands for: several for a preset.

    Raises:
        InputError: the rule is invalid.
    """
    if len(text) > MAX_RULE:
        raise _refuse(text, f"has more than {MAX_RULE} characters", "Give each rule by itself.")
    word = text.strip().lower()
    if word == OPEN:
        return (Rule(RuleKind.OPEN),)
    if word in PRESETS:
        return tuple(_read_rule(rule, rule) for rule in PRESETS[word])
    return (_read_rule(text, word),)


# Each rule of a request is compared with each of the ceiling.
@lru_cache(4 * MAX_RULE)
def find_site_block(block: IPv4Network) -> str | None:
    """Return the block of ``SITE_BLOCKS`` in which ``block`` lies."""
    return next((site for site in SITE_BLOCKS if block.subnet_of(_read_block(site))), None)


def _read_rule(text: str, word: str) -> Rule:
    if not word or word == NONE:
        raise _refuse(text, "is not a rule", "Leave out the network, or write none alone.")
    if "://" in word:
        host = re.split("[/?#]", word.split("://", 1)[1])[0].rpartition("@")[2]
        raise _refuse(text, "is an address of a page", f"Write the name: {host[:80]}")
    if word.startswith("[") or word.count(":") > 1:
        raise _refuse(text, "is an IPv6 address", "Guests have IPv4 only: allow a name.")
    if word.strip("*.:") == "":
        raise _refuse(text, "names no destination", "Write open for all public destinations.")
    name, colon, port = word.partition(":")
    rule = _read_destination(text, name, bool(colon))
    return replace(rule, port=_read_port(text, port, rule.kind)) if colon else rule


def _read_destination(text: str, name: str, has_port: bool) -> Rule:
    if name == HOST:
        if not has_port:
            raise _refuse(text, "has no port", "Name one port of this host: host:8080")
        return Rule(RuleKind.HOST)
    if name in PRESETS or name == OPEN:
        raise _refuse(text, "has a port of its own", f"Write {name} without a port.")
    if re.fullmatch(_ADDRESS, name):
        return Rule(RuleKind.ADDRESS, _check_block(text, name))
    if "/" in name:
        raise _refuse(text, "is not a name or an IPv4 block", _EXAMPLES)
    if name.removesuffix(".") == "localhost":
        raise _refuse(text, "is this host", _HOST_PORT)
    if name.startswith("*."):
        if "." not in name[2:].removesuffix("."):
            raise _refuse(text, "has a name of one part", "Write *.example.com, or open.")
        return Rule(RuleKind.SUFFIX, _check_name(text, name[2:]))
    return Rule(RuleKind.NAME, _check_name(text, name))


def _read_port(text: str, port: str, kind: RuleKind) -> int:
    digits = port.isascii() and port.isdigit() and len(port) < 6
    if not digits or not 1 <= int(port) <= MAX_PORT:
        otherwise = "." if kind is RuleKind.HOST else "; leave out for any."
        raise _refuse(text, "has an invalid port", f"Ports are 1 to {MAX_PORT}{otherwise}")
    return int(port)


def _check_name(text: str, name: str) -> str:
    """Return a name in lower case and in ASCII (IDNA), without the dot at its end."""
    name = name.removesuffix(".")
    labels = [_encode_label(text, label) for label in name.split(".")]
    if len(labels) == 1:
        from slipway._util.near_names import suggest_name

        hint = suggest_name(name, (*PRESETS, OPEN), f"Presets are {', '.join(PRESETS)}.")
        raise _refuse(text, "is an unknown preset, or a name of one part", hint)
    if re.fullmatch(_NUMBER, labels[-1]):
        raise _refuse(text, "ends in a number, which no name does", _EXAMPLES)
    encoded = ".".join(labels)
    if len(encoded) > MAX_NAME:
        raise _refuse(text, f"has more than {MAX_NAME} characters", "Write a shorter name.")
    return encoded


def _encode_label(text: str, label: str) -> str:
    encoded = label
    # The encoded form of a label is longer.
    if not label.isascii() and len(label) <= MAX_LABEL:
        if _AMBIGUOUS & set(label):
            raise _refuse(
                text, "has a letter with two encodings", "Write the name in its form with xn--."
            )
        from encodings.idna import ToASCII

        try:
            encoded = ToASCII(label).decode("ascii").lower()
        except UnicodeError:
            encoded = ""
    if len(encoded) > MAX_LABEL:
        raise _refuse(text, f"has a part of more than {MAX_LABEL} characters", _EXAMPLES)
    if not re.fullmatch(_LABEL, encoded):
        raise _refuse(text, "is not a rule", _EXAMPLES)
    return encoded


def _check_block(text: str, block: str) -> str:
    """Return an IPv4 block as address, slash and bits; an address is a block of 32 bits."""
    from ipaddress import IPv4Network

    try:
        found = IPv4Network(block, strict=False)
    except ValueError:
        raise _refuse(text, "is not an IPv4 address or block", _EXAMPLES) from None
    if str(found.network_address) != block.partition("/")[0]:
        raise _refuse(text, "has bits beside its block", f"Write {found}.")
    if any(found.subnet_of(_read_block(closed)) for closed in CLOSED_BLOCKS):
        is_own = any(found.subnet_of(_read_block(own)) for own in _OWN_BLOCKS)
        hint = _HOST_PORT if is_own else "Link-local, multicast and reserved addresses are closed."
        raise _refuse(text, "is an address that no rule allows", hint)
    return str(found)


@lru_cache(4 * MAX_RULE)
def _read_block(block: str) -> IPv4Network:
    from ipaddress import IPv4Network

    return IPv4Network(block)


def _refuse(text: str, why: str, hint: str) -> InputError:
    return InputError(f"network rule {text[:80]!r} {why}", hint)
