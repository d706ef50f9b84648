"""The console script whose path is the first argument, with machines that are none.

Run as a program of its own; ``slipway serve`` is what it is for. See fake_machine.py for what the
programs in those machines can do.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest.mock import patch


def main() -> None:
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    del sys.argv[0]

    from slipway._local.machine_supply import MachineSupply
    from support.fake_machine import FakeLauncher

    launcher = FakeLauncher()
    with (
        patch("slipway._local.runtime.StoredImages", lambda _store: launcher),
        patch(
            "slipway._local.machine_supply.MachineSupply.from_store",
            lambda *_, **__: MachineSupply(launcher),
        ),
        # Such machines need no hypervisor of this host.
        patch("slipway._cli.host_check.check_host", lambda *_: None),
    ):
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
