"""The lab's command: ``python tests/lab run -- COMMAND ARGUMENT...``; see docs/lab.md."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python was given this directory; its modules are known as lab.NAME, as in the tests.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from lab.command import main

    sys.exit(main(sys.argv[1:]))
