"""docs/vmm.md names every module of the VMM, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
HOST = ROOT / "host/slipway"


def test_page_names_every_module_of_the_vmm() -> None:
    page = (ROOT / "docs/vmm.md").read_text()
    named = set(re.findall(r"`(vmm/[\w/]+\.py)`", page))

    modules = {
        str(path.relative_to(HOST))
        for path in HOST.glob("vmm/**/*.py")
        if path.name != "__init__.py"
    }

    assert named == modules
