"""Process that tries what gateways need of this host: ``python -c ... PARENT``.

It is confined as a gateway is, and then looks a name up as a gateway does. Each step prints a line:
``confined`` or ``confined without-landlock``, and then ``resolved``, ``unknown`` or ``silent``.
"""

from __future__ import annotations

import _socket
import os
import sys

from slipway._util.errors import HostError
from slipway.machine.gateway.confine import confine
from slipway.machine.gateway.resolver import ignore_search_domains, look_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Reserved for examples, and resolved like any other public name (RFC 2606, section 3).
NAME = b"example.com"


def main() -> NoReturn:
    """Run both steps, and end."""
    ignore_search_domains()
    try:
        has_landlock = confine(int(sys.argv[-1]))
    except HostError as error:
        print(error.message, file=sys.stderr, flush=True)
        os._exit(1)
    print("confined" if has_landlock else "confined without-landlock", flush=True)
    print(_try_resolver(), flush=True)
    os._exit(0)


def _try_resolver() -> str:
    """Return a word for the answer of the host's resolver."""
    try:
        look_up(NAME)
    except _socket.gaierror as error:
        unknown = (_socket.EAI_NONAME, _socket.EAI_NODATA)
        return "unknown" if error.errno in unknown else "silent"
    except OSError:
        return "silent"
    return "resolved"
