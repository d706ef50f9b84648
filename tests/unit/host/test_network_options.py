"""Network of a command line, of a request's body, and of a tool call; and its ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway._cli.network_options import read_network
from slipway._cli.run_arguments import build_parser
from slipway._model.events import Started
from slipway._model.network import Network
from slipway._model.network_ceiling import AboveCeiling, check_ceiling
from slipway._model.network_use import DeniedDestination, NetworkUse
from slipway._model.options import Options
from slipway._model.published_ports import PublishedPort
from slipway._model.result import Provenance, Result, Timing
from slipway._model.run_request import RunRequest
from slipway._server.http.request_parsing import parse_query
from slipway._server.http.run_request_parsing import parse_json_request, parse_text_request
from slipway._server.problems import InvalidRequest, describe_error
from slipway._util.errors import InputError
from slipway._wire.events import decode_event, encode_event
from slipway._wire.job import encode_job, encode_session
from slipway._wire.option_models import read_options
from slipway._wire.request_models import (
    RunBody,
    RunQuery,
    SessionBody,
    SessionStartBody,
    SessionStartQuery,
    StartBody,
    StartQuery,
)
from slipway._wire.results import decode_result, encode_result

if TYPE_CHECKING:
    import argparse

NETWORK = Network(
    allow=("pypi", "*.example.com:443"), publish=(8000, "8080:80"), limit=5000, rate=2048
)
USE = NetworkUse(3, 4000, 500, 7, (DeniedDestination("evil.example", 443, 7, "not-allowed"),))


def parse(*arguments: str) -> argparse.Namespace:
    return build_parser("vmm-run").parse_args([*arguments, "program.py"])


def encode(text: str) -> bytes:
    return text.encode()


@pytest.mark.parametrize(
    ("arguments", "network"),
    [
        ([], None),
        (["--network", "none"], None),
        (["--network", "open"], Network(allow=("open",))),
        (["--network", "pypi,npm"], Network(allow=("pypi", "npm"))),
        (["--allow", "pypi"], Network(allow=("pypi",))),
        (
            ["--network", "pypi", "--allow", "a.example", "--allow", "b.example,host:80"],
            Network(allow=("pypi", "a.example", "b.example", "host:80")),
        ),
        (["--publish", "8000"], Network(publish=("8000",))),
        (
            ["--network", "pypi", "--network-limit", "1M", "--network-rate", "64K"],
            Network(allow=("pypi",), limit=1 << 20, rate=1 << 16),
        ),
    ],
)
def test_command_line_makes_one_network(arguments: list[str], network: Network | None) -> None:
    assert read_network(parse(*arguments)) == network


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "pipi"], "'pipi'"),
        (["--network", ""], "''"),
        (["--allow", "pypi,"], "''"),
        (["--network", "none,pypi"], "'none'"),
        (["--network", "none", "--allow", "pypi"], "--allow exclude each other"),
        (["--network", "none", "--publish", "80"], "--publish exclude each other"),
        (["--network-limit", "5M"], "need a network"),
        (["--network", "none", "--network-rate", "5M"], "need a network"),
        (["--publish", "0"], "'0'"),
    ],
)
def test_wrong_command_line_is_explained(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_network(parse(*arguments))

    assert words in caught.value.message


def test_hint_has_the_form_of_the_command_line() -> None:
    with pytest.raises(InputError) as caught:
        read_network(parse("--network-limit", "5M"))

    assert caught.value.hint == "Name one: --network RULES"


def test_help_of_the_rules_does_not_speak_of_ports() -> None:
    help_text = " ".join(build_parser("vmm-run").format_help().split())

    assert "destinations that the machine may connect to: none, open," in help_text
    assert "that it publishes" not in help_text


def test_option_of_the_library_is_a_network() -> None:
    assert Options(network=NETWORK).network is NETWORK
    with pytest.raises(InputError, match=r"network is 'pypi', and must be a Network"):
        Options(network="pypi")  # type: ignore[arg-type]


def test_client_and_server_have_the_same_network() -> None:
    options = Options(network=NETWORK)

    job = encode_job(RunRequest(b"print(1)", "python", options, b""))
    session = encode_session("python", options, 60)

    assert read_options(StartBody.model_validate(job))["network"] == NETWORK
    assert read_options(SessionBody.model_validate(session))["network"] == NETWORK
    assert "network" not in encode_job(RunRequest(b"", "python", Options(), b""))


def test_body_has_the_network_of_a_run() -> None:
    body = encode('{"source": "", "language": "bash", "network": {"allow": ["pypi"]}}')

    wanted, _ = parse_json_request(body, RunQuery.model_validate({}), RunBody, {})

    assert wanted.options.network == Network(allow=("pypi",))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ('{"allow": ["pipi"]}', "'pipi'"),
        ('{"allow": "pypi"}', "network.allow"),
        ('{"allows": []}', "network.allows"),
        ('{"publish": [0]}', "'0'"),
        ('{"rate": 1}', "network.rate"),
        ('{"limit": 5000}', "limit of a network needs a rule or a published port"),
        ('["pypi"]', "network"),
    ],
)
def test_wrong_network_of_a_body_is_named(network: str, words: str) -> None:
    body = encode(f'{{"source": "", "language": "bash", "network": {network}}}')

    with pytest.raises(InvalidRequest) as caught:
        parse_json_request(body, StartQuery.model_validate({}), StartBody, {})

    assert caught.value.problem.status == 422
    assert words in caught.value.problem.detail


@pytest.mark.parametrize(
    ("query", "network"),
    [
        ({}, None),
        ({"network": "none"}, None),
        ({"network": "pypi,*.example.com:443"}, Network(allow=("pypi", "*.example.com:443"))),
        ({"allow": "pypi", "network": "npm"}, Network(allow=("npm", "pypi"))),
        ({"publish": "8000,8080:80"}, Network(publish=("8000", "8080:80"))),
        (
            {"allow": "pypi", "network_limit": "5000", "network_rate": "2048"},
            Network(allow=("pypi",), limit=5000, rate=2048),
        ),
    ],
)
def test_query_has_the_network_of_a_run(query: dict[str, str], network: Network | None) -> None:
    parsed = parse_query([("language", "bash"), *query.items()], RunQuery)

    wanted, _ = parse_text_request(b"", parsed, {})

    assert wanted.options.network == network


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"network": "pipi"}, "'pipi'"),
        ({"allow": "pypi,"}, "''"),
        ({"network": "none", "allow": "pypi"}, "network none and allow exclude each other"),
        ({"network_rate": "2048"}, "network_rate need a network"),
        ({"publish": "0"}, "'0'"),
    ],
)
def test_wrong_network_of_a_query_is_named(query: dict[str, str], words: str) -> None:
    parsed = parse_query([("language", "bash"), *query.items()], StartQuery)

    with pytest.raises(InputError) as caught:
        parse_text_request(b"", parsed, {})

    assert words in caught.value.message


def test_hint_for_a_query_has_its_form() -> None:
    parsed = parse_query([("language", "bash"), ("network_limit", "5000")], StartQuery)

    with pytest.raises(InputError) as caught:
        parse_text_request(b"", parsed, {})

    assert caught.value.hint == "Name one: network=RULES"


@pytest.mark.parametrize(("rule", "is_same"), [("pypi", True), ("npm", False)])
def test_network_of_query_and_body_has_to_be_the_same(rule: str, is_same: bool) -> None:
    body = encode('{"source": "", "language": "bash", "network": {"allow": ["pypi"]}}')
    query = parse_query([("allow", rule)], RunQuery)

    if is_same:
        wanted, _ = parse_json_request(body, query, RunBody, {})
        assert wanted.options.network == Network(allow=("pypi",))
    else:
        with pytest.raises(InvalidRequest, match="network is given in the query and in the body"):
            parse_json_request(body, query, RunBody, {})


def test_unknown_part_of_a_network_is_named_without_a_wrong_suggestion() -> None:
    body = encode('{"source": "", "language": "bash", "network": {"alow": ["pypi"]}}')

    with pytest.raises(InvalidRequest, match=r"unknown field 'network\.alow'") as caught:
        parse_json_request(body, parse_query([], RunQuery), RunBody, {})

    assert "Did you mean" not in caught.value.problem.hint


def test_run_of_a_session_takes_no_network() -> None:
    body = encode('{"source": "", "network": {"allow": []}}')

    with pytest.raises(InvalidRequest, match="unknown field 'network'"):
        parse_json_request(body, SessionStartQuery.model_validate({}), SessionStartBody, {})
    with pytest.raises(InvalidRequest, match="unknown field 'allow'") as caught:
        parse_query([("allow", "pypi")], SessionStartQuery)
    assert "POST /v1/sessions" in caught.value.problem.hint


@pytest.mark.parametrize(
    ("network", "ceiling"),
    [
        (None, None),
        (None, Network(allow=("pypi",))),
        (Network(allow=("pypi",)), Network(allow=("open",))),
        (Network(), Network(allow=("pypi",))),
        (Network(publish=(80, "8080:80")), Network(allow=("pypi",))),
    ],
)
def test_request_inside_the_ceiling_is_permitted(
    network: Network | None, ceiling: Network | None
) -> None:
    check_ceiling(network, ceiling, "slipway serve")


@pytest.mark.parametrize(
    ("network", "ceiling", "words"),
    [
        (Network(allow=("pypi",)), None, "no network"),
        (Network(), None, "no network"),
        (Network(allow=("pypi", "npm")), Network(allow=("pypi",)), "'npm'"),
        (Network(allow=("host:22",)), Network(allow=("open",)), "'host:22'"),
        (Network(publish=("0.0.0.0:80",)), Network(allow=("open",)), "'0.0.0.0:80'"),
        (Network(publish=("unix:/tmp/x:80",)), Network(allow=("open",)), "'unix:/tmp/x:80'"),
        (Network(publish=("80:80",)), Network(allow=("open",)), "'127.0.0.1:80:80'"),
    ],
)
def test_request_above_the_ceiling_is_forbidden(
    network: Network, ceiling: Network | None, words: str
) -> None:
    with pytest.raises(AboveCeiling) as caught:
        check_ceiling(network, ceiling, "slipway serve")

    problem = describe_error(caught.value)
    assert (problem.status, problem.kind) == (403, "network-not-allowed")
    assert words in problem.detail


def make_result(network: NetworkUse | None) -> Result:
    provenance = Provenance("qemu", "6.1", "bash", "d", "0.1", 1, 1)
    return Result("bash", None, None, (), Timing(), provenance, network=network)


@pytest.mark.parametrize("network", [None, USE, NetworkUse(failed=True)])
def test_use_of_the_network_comes_back_from_json(network: NetworkUse | None) -> None:
    result = make_result(network)

    assert decode_result(encode_result(result, output=False, files=False)) == result


def test_published_ports_come_back_from_json() -> None:
    ports = (PublishedPort(80, "127.0.0.1", 40123), PublishedPort(81, "unix", 0, "/tmp/x"))

    assert decode_event(encode_event(Started("kvm", ports))) == Started("kvm", ports)
    assert decode_event({"type": "started", "machine": "kvm"}) == Started("kvm")


def test_run_of_a_session_has_its_own_use() -> None:
    later = NetworkUse(
        5,
        4100,
        600,
        9,
        (
            DeniedDestination("evil.example", 443, 8, "not-allowed"),
            DeniedDestination("evil.example", 80, 1, "not-allowed"),
        ),
    )

    since = later.subtract(USE)

    assert (since.connections, since.bytes_to_guest, since.bytes_from_guest) == (2, 100, 100)
    assert since.denials == 2
    assert [(each.port, each.count) for each in since.denied] == [(443, 1), (80, 1)]
    assert USE.subtract(later) == NetworkUse()


def test_denied_destination_is_a_line_for_people() -> None:
    assert str(USE.denied[0]) == "evil.example:443 (not-allowed)"
    assert str(DeniedDestination("evil.example", 0, 1, "not-allowed")) == (
        "evil.example (not-allowed)"
    )
