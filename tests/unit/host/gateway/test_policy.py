"""Policy of the gateway: verdicts on names, addresses and ports."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipway._model.network import Network
from slipway._util.errors import InputError
from slipway.machine.gateway.addresses import GATEWAY, GUEST
from slipway.machine.gateway.policy import (
    NOT_ALLOWED,
    NOT_PUBLIC,
    PORT_NOT_ALLOWED,
    Policy,
    is_name,
)
from slipway.machine.gateway.public_addresses import is_public, pack_address

ALLOWED = ""


def make_policy(*allow: str) -> Policy:
    """Return the policy of a network, by the form in which rules travel to the gateway."""
    return Policy(Network(allow=allow).encode_rules())


def judge_address(policy: Policy, address: str, port: int = 443) -> str:
    return policy.judge_address(pack_address(address), port)


@pytest.mark.parametrize(
    ("rule", "name", "port", "verdict"),
    [
        ("example.com", "example.com", 443, ALLOWED),
        ("example.com", "example.com", 25, PORT_NOT_ALLOWED),
        ("example.com:25", "example.com", 25, ALLOWED),
        ("example.com:443", "example.com", 80, PORT_NOT_ALLOWED),
        ("example.com", "www.example.com", 443, NOT_ALLOWED),
        ("example.com", "example.com.evil.example", 443, NOT_ALLOWED),
        ("example.com", "notexample.com", 443, NOT_ALLOWED),
        ("*.example.com", "a.b.example.com", 443, ALLOWED),
        ("*.example.com", "example.com", 443, NOT_ALLOWED),
        ("*.example.com", "aexample.com", 443, NOT_ALLOWED),
        ("*.example.com:443", "a.example.com", 80, PORT_NOT_ALLOWED),
        ("bücher.example", "xn--bcher-kva.example", 443, ALLOWED),
        ("pypi", "files.pythonhosted.org", 443, ALLOWED),
        ("pypi", "files.pythonhosted.org", 80, PORT_NOT_ALLOWED),
        ("open", "example.com", 1234, ALLOWED),
        ("open", "example.com", 25, PORT_NOT_ALLOWED),
        ("open", "localhost", 80, NOT_ALLOWED),
        ("open", "127.0.0.1", 80, NOT_ALLOWED),
        ("open", "a.0x7f", 80, NOT_ALLOWED),
        ("open", "a..example.com", 80, NOT_ALLOWED),
        ("8.8.8.8", "example.com", 443, NOT_ALLOWED),
        ("host:80", "host", 80, NOT_ALLOWED),
    ],
)
def test_name_has_a_verdict(rule: str, name: str, port: int, verdict: str) -> None:
    policy = make_policy(rule)

    assert policy.judge_name(name, port) == verdict
    assert policy.allows_some_port(name) == (verdict != NOT_ALLOWED)


def test_rules_add_up() -> None:
    policy = make_policy("www.example.com:80", "*.example.com:443")

    assert policy.judge_name("www.example.com", 80) == ALLOWED
    assert policy.judge_name("www.example.com", 443) == ALLOWED
    assert policy.judge_name("www.example.com", 8080) == PORT_NOT_ALLOWED


@pytest.mark.parametrize(
    ("rules", "address", "port", "verdict"),
    [
        (["open"], "8.8.8.8", 53, ALLOWED),
        (["open"], "8.8.8.8", 25, PORT_NOT_ALLOWED),
        (["open", "8.8.8.8:25"], "8.8.8.8", 25, ALLOWED),
        (["open"], "10.0.0.1", 443, NOT_ALLOWED),
        (["open"], "169.254.169.254", 80, NOT_PUBLIC),
        (["open"], "168.63.129.16", 80, NOT_PUBLIC),
        (["open"], "127.0.0.1", 80, NOT_PUBLIC),
        (["open"], "198.18.0.3", 80, NOT_PUBLIC),
        (["8.8.8.0/24"], "8.8.8.8", 443, ALLOWED),
        (["8.8.8.0/24"], "8.8.9.8", 443, NOT_ALLOWED),
        (["8.8.8.0/24:443"], "8.8.8.8", 80, PORT_NOT_ALLOWED),
        (["8.8.8.0/24"], "8.8.8.8", 25, PORT_NOT_ALLOWED),
        (["10.1.0.0/16"], "10.1.2.3", 443, ALLOWED),
        (["10.1.0.0/16"], "10.2.0.1", 443, NOT_ALLOWED),
        (["0.0.0.0/0"], "8.8.8.8", 443, ALLOWED),
        (["0.0.0.0/0"], "10.1.2.3", 443, NOT_ALLOWED),
        (["0.0.0.0/0"], "169.254.169.254", 80, NOT_PUBLIC),
        (["168.0.0.0/8"], "168.63.129.16", 80, NOT_PUBLIC),
        (["example.com"], "8.8.8.8", 443, NOT_ALLOWED),
        (["example.com"], "192.168.1.5", 443, NOT_ALLOWED),
        (["example.com"], "169.254.169.254", 80, NOT_PUBLIC),
        ([], "8.8.8.8", 443, NOT_ALLOWED),
    ],
)
def test_address_has_a_verdict(rules: list[str], address: str, port: int, verdict: str) -> None:
    policy = make_policy(*rules)

    assert judge_address(policy, address, port) == verdict


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        *(("10.0.0.1", NOT_ALLOWED), ("192.168.1.5", NOT_ALLOWED), ("100.64.0.1", NOT_ALLOWED)),
        *(("8.8.8.8", NOT_ALLOWED), ("192.0.2.1", NOT_ALLOWED), ("127.0.0.1", NOT_PUBLIC)),
        *(("169.254.169.254", NOT_PUBLIC), ("198.18.0.3", NOT_PUBLIC), ("224.0.0.1", NOT_PUBLIC)),
    ],
)
def test_address_is_not_allowed_if_a_rule_could_allow_it(address: str, verdict: str) -> None:
    try:
        with_rule = judge_address(make_policy(address), address)
    except InputError:
        with_rule = verdict

    assert judge_address(make_policy("example.com"), address) == verdict
    assert (with_rule == ALLOWED) == (verdict == NOT_ALLOWED)


def test_gateway_address_stands_for_named_ports_of_the_host() -> None:
    policy = make_policy("open", "host:8080")

    assert policy.judge_address(GATEWAY, 8080) == ALLOWED
    assert policy.judge_address(GATEWAY, 8081) == PORT_NOT_ALLOWED
    assert make_policy("open").judge_address(GATEWAY, 8080) == NOT_ALLOWED
    assert policy.has_host_ports
    assert not make_policy("open").has_host_ports


def test_nothing_is_allowed_without_rules() -> None:
    policy = Policy("")

    assert policy.judge_name("example.com", 443) == NOT_ALLOWED
    assert policy.judge_address(GUEST, 443) == NOT_PUBLIC


@pytest.mark.parametrize("line", ["example", "10.0.0.300/8", "host", "host:", "*.", "a.b:x", ";"])
def test_rule_that_is_not_canonical_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Policy(line)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255"),
        *("169.254.169.254", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192"),
        *("192.168.0.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "192.0.2.1", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
        *("fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8"),
        *("::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2002:808:808::1"),
        *("2001::1", "2001:db8::1", "2001:10::1", "3fff::1", "100::1", "4000::1"),
        "2606:4700::5efe:a00:1",
    ],
)
def test_name_never_leads_to_an_address_that_is_not_public(address: str) -> None:
    for policy in (make_policy("open"), make_policy("example.com"), make_policy("10.0.0.0/8")):
        assert policy.judge_result(address) == NOT_PUBLIC


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.0", "2606:4700::1111"]
)
def test_name_may_lead_to_a_public_address(address: str) -> None:
    assert make_policy("example.com").judge_result(address) == ALLOWED


@given(st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
@example(ip_address("192.88.99.1"))
def test_public_address_is_global_by_the_registries(address: IPv4Address | IPv6Address) -> None:
    if is_public(address.packed):
        assert address.is_global
        assert not (address.is_multicast)
        assert not (address.is_reserved)
        assert not (address.is_link_local)


@given(st.integers(0x20 << 120, (0x40 << 120) - 1).map(IPv6Address))
def test_public_address_of_ipv6_has_no_other_address_inside(address: IPv6Address) -> None:
    if is_public(address.packed):
        assert address.is_global
        assert not (address.sixtofour)
        assert not (address.teredo)
        assert not (address.ipv4_mapped)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_global_address_is_public_except_a_few(address: IPv4Address) -> None:
    few = address in {IPv4Address("168.63.129.16")} or str(address).startswith("192.88.99.")

    if address.is_global and not address.is_multicast and not few:
        assert is_public(address.packed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", True),
        ("_a.example", True),
        ("a-b.example", True),
        ("1.2.example", True),
        ("example", False),
        ("example.com.", False),
        ("Example.com", False),
        (".example.com", False),
        ("-a.example", False),
        ("a.example.1", False),
        ("a.0x", False),
        ("a b.example", False),
        ("a\u00e9.example", False),
        ("", False),
        (f"{'a' * 64}.example", False),
        (".".join(["a" * 63] * 4), False),
    ],
)
def test_names_are_those_of_hosts(name: str, expected: bool) -> None:
    assert is_name(name) is expected


@given(st.text(max_size=60), st.integers(0, 65535))
def test_any_name_has_a_verdict(name: str, port: int) -> None:
    policy = make_policy("example.com", "*.example.org:443")

    assert policy.judge_name(name, port) in {ALLOWED, NOT_ALLOWED, PORT_NOT_ALLOWED}
