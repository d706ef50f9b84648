"""Network in separate texts: options of a command line, or parameters of a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._model.network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTexts:
    """Parts of a network, as they were given.

    ``network`` and each of ``allow`` are lists of rules with commas; ``network`` may be ``none``.
    ``network_limit`` and ``network_rate`` are in bytes.
    """

    network: str | None = None
    allow: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    network_limit: int | None = None
    network_rate: int | None = None

    def join(self, spell: Callable[[str], str] = str) -> Network | None:
        """Return the network, or None without any. ``spell`` returns a field's name for errors.

        Raises:
            InputError: a rule or port is invalid, or a limit is given without a network.
        """
        # The rules take long to import, and most runs have no network.
        if self == NetworkTexts():
            return None
        from slipway._model.network import Network
        from slipway._model.network_rules import NONE, parse_rules

        network = spell("network")
        rules = parse_rules(self.network) if self.network is not None else ()
        allow = (*rules, *(rule for text in self.allow for rule in parse_rules(text)))
        is_none = self.network is not None and self.network.strip().lower() == NONE
        if is_none and (allow or self.publish):
            other = spell("allow" if allow else "publish")
            raise InputError(
                f"{network} none and {other} exclude each other", "Leave out one of them."
            )
        limits = self.network_limit, self.network_rate
        if is_none or (self.network is None and not allow and not self.publish):
            if limits != (None, None):
                raise InputError(
                    f"{spell('network_limit')} and {spell('network_rate')} need a network",
                    f"Name one: {network}{' ' if network.startswith('-') else '='}RULES",
                )
            return None
        return Network(allow=allow, publish=self.publish, limit=limits[0], rate=limits[1])
