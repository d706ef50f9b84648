"""Options of a command line that together make the network of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway._cli.quantities import parse_size
from slipway._model.values import check_bounds

if TYPE_CHECKING:
    import argparse

    from slipway._model.network import Network

RULES = "RULE[,RULE...]"


def add_network_options(add: Any, meaning: str) -> None:
    """Add the options to a section whose ``add_argument`` is ``add``.

    ``meaning`` is the help of the first, the rules.
    """
    add(
        "--network",
        metavar=RULES,
        default=None,
        help=f"{meaning}: none, open, or rules such as pypi, "
        "api.example.com:443, *.example.com, 10.1.0.0/16, host:8080 (default: none)",
    )
    add(
        "--allow",
        action="append",
        default=[],
        metavar="RULE",
        help="destination besides those of --network (repeatable)",
    )
    add(
        "--publish",
        action="append",
        default=[],
        metavar="[HOST:][PORT:]GUEST",
        help="port of the machine that this host listens for, on 127.0.0.1 and a free port unless "
        "given; or unix:PATH:GUEST (repeatable)",
    )
    add(
        "--network-limit",
        type=parse_size,
        metavar="SIZE",
        help="bytes to and from the machine together",
    )
    add(
        "--network-rate",
        type=parse_size,
        metavar="SIZE",
        help="bytes to and from the machine in each second",
    )


def read_network(parsed: argparse.Namespace) -> Network | None:
    """Return the network of a command line, or None without any.

    Raises:
        InputError: a rule or port is invalid, or a limit is out of bounds or without a network.
    """
    from slipway._model.network import Rate, Total
    from slipway._model.network_texts import NetworkTexts

    # Under these names, which rename_options_in_errors() knows.
    check_bounds("network_limit", Total, parsed.network_limit)
    check_bounds("network_rate", Rate, parsed.network_rate)
    texts = NetworkTexts(
        network=parsed.network,
        allow=tuple(parsed.allow),
        publish=tuple(parsed.publish),
        network_limit=parsed.network_limit,
        network_rate=parsed.network_rate,
    )
    return texts.join(lambda name: "--" + name.replace("_", "-"))


def read_ceiling(parsed: argparse.Namespace) -> Network | None:
    """Return the network that an operator allows to others; None for ``none``, or without any.

    Raises:
        InputError: a rule is invalid.
    """
    from slipway._model.network import Network
    from slipway._model.network_rules import parse_rules

    rules = parse_rules(parsed.network) if parsed.network is not None else ()
    return Network(allow=rules) if rules else None


def add_ceiling(add: Any, whose: str, note: str = "") -> None:
    """Add ``--network`` for the networks that ``whose`` programs may request.

    ``note`` is a further phrase of its help.
    """
    add(
        "--network",
        metavar=RULES,
        default=None,
        help=f"ceiling of the networks that {whose} may request: none, open, or rules{note} "
        "(default: none)",
    )
