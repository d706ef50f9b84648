"""JSON form of published ports."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipway._model.bounds import MAX_PORT
from slipway._model.published_ports import MAX_PUBLISHED, PublishedPort
from slipway._wire.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Iterable


def encode_ports(ports: Iterable[PublishedPort]) -> list[dict[str, Any]]:
    """Return ``ports`` for JSON."""
    return [asdict(each) for each in ports]


def read_ports(record: Fields) -> tuple[PublishedPort, ...]:
    """Return the published ports in the field ``ports`` of ``record``.

    Raises:
        InputError: a field is missing or invalid.
    """
    items = [Fields(item, "a port") for item in record.read_items("ports", MAX_PUBLISHED)]
    return tuple(
        PublishedPort(
            each.read_integer("guest", MAX_PORT),
            each.read_plain_text("host"),
            each.read_integer("port", MAX_PORT),
            each.read_plain_text("path"),
        )
        for each in items
    )
