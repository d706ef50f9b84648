"""Rules of a network: their grammar, their canonical form, and which rule lies inside which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._model.network import MAX_RULES, Network
from slipway._model.network_rules import (
    PRESETS,
    RuleKind,
    parse_rules,
    read_rules,
)
from slipway._util.address_blocks import CLOSED_BLOCKS, SITE_BLOCKS
from slipway._util.errors import InputError
from slipway.machine.gateway import policy, public_addresses

PAGE = Path(__file__).parents[3] / "docs/network.md"

# 253 characters.
LONGEST = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))

labels = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
names = st.lists(labels, min_size=2, max_size=4).map(".".join)
ports = st.just("") | st.integers(1, 65535).map(":{}".format)
blocks = st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "8.8.0.0/16", "8.8.8.8", "100.0.0.0/8"]
)
rules = st.just("open") | st.builds(
    "{}{}".format, names | names.map("*.{}".format) | blocks, ports
).filter(lambda text: not text.rpartition(".")[2].isdigit() or text[0].isdigit())
rules = rules | st.integers(1, 65535).map("host:{}".format) | st.sampled_from(list(PRESETS))


LONG_UNICODE = "".join(chr(0x4E00 + number % 5000) for number in range(15_000))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("open", ["open"]),
        (" OPEN ", ["open"]),
        ("npm", ["registry.npmjs.org:443"]),
        ("Example.COM.", ["example.com"]),
        ("example.com:8443", ["example.com:8443"]),
        ("*.Example.com:443", ["*.example.com:443"]),
        ("bücher.example", ["xn--bcher-kva.example"]),
        ("xn--bcher-kva.example", ["xn--bcher-kva.example"]),
        ("_dmarc.example.com", ["_dmarc.example.com"]),
        ("93.184.216.34", ["93.184.216.34/32"]),
        ("10.1.0.0/16:22", ["10.1.0.0/16:22"]),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
        ("host:8080", ["host:8080"]),
        (LONGEST, [LONGEST]),
    ],
)
def test_rule_has_one_canonical_form(text: str, canonical: list[str]) -> None:
    found = [str(rule) for rule in read_rules(text)]

    assert found == canonical


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pyp", "Did you mean 'pypi'?"),
        ("debain", "Did you mean 'debian'?"),
        ("intranet", "Presets are pypi"),
        ("*.com", "has a name of one part. Write *.example.com, or open."),
        ("localhost:8080", "write host:8080"),
        ("pypi:443", "Write pypi without a port."),
        ("open:443", "Write open without a port."),
        ("", "not a rule"),
        ("none", "write none alone"),
        ("*", "Write open"),
        ("https://api.example.com/v1", "Write the name: api.example.com"),
        ("example.com/v1", "not a name or an IPv4 block"),
        ("a..example.com", "not a rule"),
        ("-a.example.com", "not a rule"),
        ("*.*.example.com", "not a rule"),
        ("a b.example.com", "not a rule"),
        ("a\uff0eb.example", "not a rule"),
        ("\udc80.example", "not a rule"),
        ("straße.example", "two encodings"),
        (f"{'a' * 64}.example", "part of more than 63"),
        (f"{'a' * 63}." * 4 + "example", "more than 253"),
        # Texts of clients whose encoding would take minutes.
        (f"{LONG_UNICODE[:200]}.example", "part of more than 63"),
        (f"{LONG_UNICODE}.example", "more than 300"),
        ("1." * 500_000, "more than 300"),
        ("example.com:0", "invalid port"),
        ("example.com:65536", "invalid port"),
        ("example.com:", "invalid port"),
        ("example.com:https", "invalid port"),
        ("example.com:٤٤٣", "invalid port"),
        ("2001:db8::1", "IPv6"),
        ("[2001:db8::1]:80", "IPv6"),
        ("10.0.0.1/8", "Write 10.0.0.0/8."),
        ("10.0.0.0/33", "not an IPv4 address or block"),
        ("010.0.0.1", "not an IPv4 address or block"),
        ("127.1", "not an IPv4 address or block"),
        ("a.0x7f", "ends in a number"),
        ("127.0.0.1:8080", "write host:8080"),
        ("169.254.169.254", "no rule allows. Link-local"),
        ("198.18.0.1", "write host:8080"),
        ("224.0.0.0/4", "no rule allows"),
        ("host", "has no port"),
        ("host:0", "Ports are 1 to 65535."),
    ],
)
def test_wrong_rule_is_named_with_its_remedy(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_rules(text)

    assert repr(text[:80]) in caught.value.message
    assert words in f"{caught.value.message}. {caught.value.hint}"


@given(st.text(max_size=80))
def test_any_text_is_a_rule_or_an_input_error(text: str) -> None:
    try:
        found = read_rules(text)
    except InputError:
        return

    assert all(re.fullmatch(r"[a-z0-9_*./:-]+", str(rule)) for rule in found)


@given(rules)
def test_canonical_form_reads_as_itself(text: str) -> None:
    for rule in read_rules(text):
        assert read_rules(str(rule)) == (rule,)


def test_list_is_divided_at_commas() -> None:
    assert parse_rules("pypi, *.example.com:443") == ("pypi", "*.example.com:443")
    assert parse_rules("none") == ()


def test_wrong_rule_of_a_list_is_named() -> None:
    with pytest.raises(InputError, match="'pipi'"):
        Network(allow=parse_rules("npm,pipi"))


@pytest.mark.parametrize(
    ("outer", "inner", "is_inside"),
    [
        ("open", "example.com", True),
        ("open", "*.example.com:443", True),
        ("open", "pypi", True),
        ("open", "8.8.8.8", True),
        ("open", "0.0.0.0/0", True),
        ("open", "open", True),
        ("open", "example.com:25", False),
        ("open", "10.0.0.0/8", False),
        ("open", "100.64.0.1", False),
        ("open", "host:8080", False),
        ("example.com", "example.com:443", True),
        ("example.com", "example.com:25", False),
        ("example.com:25", "example.com:25", True),
        ("example.com:443", "example.com", False),
        ("example.com", "www.example.com", False),
        ("example.com", "open", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com:80", True),
        ("*.example.com", "*.b.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "wwwexample.com", False),
        ("*.b.example.com", "*.example.com", False),
        ("10.0.0.0/8", "10.1.0.0/16:22", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("0.0.0.0/0", "8.8.8.8", True),
        ("0.0.0.0/0", "10.0.0.1", False),
        ("0.0.0.0/0", "example.com", False),
        ("host:8080", "host:8080", True),
        ("host:8080", "host:8081", False),
    ],
)
def test_request_stays_inside_a_ceiling(outer: str, inner: str, is_inside: bool) -> None:
    excess = Network(allow=(inner,)).find_excess(Network(allow=(outer,)))

    assert excess == (None if is_inside else inner)


def test_ceiling_names_the_first_rule_outside() -> None:
    ceiling = Network(allow=("pypi", "*.example.com"))

    assert Network(allow=("a.example.com", "npm", "go")).find_excess(ceiling) == "npm"
    assert Network(allow=("pypi",)).find_excess(None) == "pypi"
    assert Network().find_excess(None) is None


@given(rules, rules, rules)
def test_being_inside_is_transitive(first: str, second: str, third: str) -> None:
    one, two, three = (Network(allow=(text,)) for text in (first, second, third))

    if not three.find_excess(two) and not two.find_excess(one):
        assert three.find_excess(one) is None


@given(rules)
def test_each_rule_is_inside_itself(text: str) -> None:
    network = Network(allow=(text,))

    assert network.find_excess(network) is None


def test_long_list_is_refused_before_a_rule_is_read() -> None:
    with pytest.raises(InputError, match="10000 rules, and at most 200"):
        Network(allow=("is not a rule",) * 10_000)


def test_network_is_frozen_and_has_each_rule_once() -> None:
    network = Network(allow=["npm", "registry.npmjs.org:443", "NPM"])  # type: ignore[arg-type]

    assert network.encode_rules() == "registry.npmjs.org:443"
    assert network == Network(allow=("npm", "registry.npmjs.org:443", "NPM"))
    assert hash(network)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allow": "pypi"}, "allow of a network is one text"),
        ({"allow": ("pipi",)}, "'pipi'"),
        ({"allow": tuple(f"n{i}.example.com" for i in range(MAX_RULES + 1))}, "at most 200"),
        ({"limit": 0}, "limit of a network is 0"),
        ({"rate": 1}, "rate of a network is 1"),
        ({"limit": "5"}, "limit of a network is '5'"),
    ],
)
def test_wrong_value_of_a_network_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Network(**options)  # type: ignore[arg-type]

    assert words in caught.value.message


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"allow": "pypi"}, "Write allow=[text]."),
        ({"publish": 5000}, "Write publish=[...]."),
        ({"allow": ["pypi"], "rate": 0}, "Leave out rate for the default."),
        ({"limit": 5}, "Add allow or publish, or leave out limit."),
        ({"rate": 5000}, "Add allow or publish, or leave out rate."),
    ],
)
def test_hint_is_python_that_can_be_written(options: dict[str, object], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        Network(**options)  # type: ignore[arg-type]

    assert caught.value.hint == hint


def test_record_has_what_was_given() -> None:
    network = Network(allow=("pypi",), publish=(8000,), limit=5_000)

    assert network.record() == {"allow": ["pypi"], "publish": [8000], "limit": 5_000}


def test_preset_has_one_port_for_each_name() -> None:
    for preset in PRESETS:
        for rule in read_rules(preset):
            assert rule.kind is RuleKind.NAME
            assert rule.port in {80, 443}


def read_table(heading: str) -> list[list[str]]:
    """Return the cells of the table of docs/network.md whose first column has this heading."""
    lines = PAGE.read_text().rsplit(f"\n| {heading} | ", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_page_has_an_example_of_each_form() -> None:
    rows = read_table("form")

    for form, example, _ in rows:
        for rule in read_rules(example.strip("`")):
            port = form.endswith(":port") or form == "preset"
            assert bool(rule.port) == port, example
    kinds = [rule.kind for row in rows for rule in read_rules(row[1].strip("`"))]
    assert set(kinds) == set(RuleKind)


def test_page_has_the_names_of_each_preset() -> None:
    rows = read_table("preset")

    assert {row[0].strip("`"): tuple(row[1].replace("`", "").split()) for row in rows} == PRESETS


def test_page_tells_all_reasons() -> None:
    reasons = {
        value
        for name, value in vars(policy).items()
        if name.isupper() and isinstance(value, str) and "-" in value
    }

    assert {row[0].strip("`") for row in read_table("reason")} == reasons


def test_gateway_and_rules_have_the_same_blocks() -> None:
    for theirs, ours in (
        (SITE_BLOCKS, public_addresses.SITE_BLOCKS),
        (CLOSED_BLOCKS, public_addresses.CLOSED_BLOCKS),
    ):
        assert tuple(map(public_addresses.read_block, theirs)) == ours
