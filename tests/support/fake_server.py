"""Console script with fake machines; the first argument is the path of the script.

Made for ``slipway serve``, as a separate program. See fake_machine.py for the commands of programs
in those machines.
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
