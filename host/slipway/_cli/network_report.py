"""Lines of a command line about the use of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._cli.terminal import write_line

if TYPE_CHECKING:
    from slipway._model.network_use import NetworkUse

# Denied destinations that are listed.
MAX_SHOWN_DENIED = 8
# End of the reasons that a further rule may change.
_NOT_ALLOWED = "not-allowed"
_OWN_ADDRESS = "own-address"
_LIMIT_REACHED = "limit-reached"


def report_network(use: NetworkUse, *, verbose: bool) -> None:
    """Report a gateway that failed and, for a failed program or with ``-v``, what was denied."""
    if use.failed:
        write_line("the network ended before the program: its gateway failed")
    if not verbose:
        return
    for each in use.denied[:MAX_SHOWN_DENIED]:
        write_line(f"denied: {each}")
    if (more := len(use.denied) - MAX_SHOWN_DENIED) > 0:
        write_line(f"denied: {more} more destinations, see --json")
    # The rule itself is not printed: its name is the program's text, and this line is to be pasted.
    if any(each.reason.endswith(_NOT_ALLOWED) for each in use.denied):
        write_line("hint: allow a destination with --allow NAME or ADDRESS, also with :PORT")
    if any(each.reason == _LIMIT_REACHED for each in use.denied):
        write_line("hint: allow more bytes with --network-limit SIZE")
    if any(each.reason == _OWN_ADDRESS for each in use.denied):
        write_line("hint: for a port of this host, --allow host:PORT, and connect to host:PORT")
