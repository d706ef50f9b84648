"""Plugin of pytest: the protocol of the frozen agent, on slim stand-ins for imported modules.

``pytest -p support.slim tests/unit/protocol/test_protocol_codec.py`` runs tests on the
stand-ins; not those that look at fields with the dataclasses module, as the stand-in has no such
functions. The
stand-ins are in place only while the protocol is imported: pytest and the tests themselves keep
the real modules.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

FREEZE = Path(__file__).parents[2] / "agent" / "freeze"
# Not a stand-in for the standard library, but on the slim side all the same.
PACKAGES = ("sliplib", "msgpack")


class _SlimFinder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        base = FREEZE / "slim" / name.replace(".", "/")
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return spec_from_file_location(name, file)
        parent, _, child = name.rpartition(".")
        if parent in PACKAGES and child:
            real = PathFinder.find_spec(parent)
            assert real is not None
            return PathFinder.find_spec(name, real.submodule_search_locations)
        return None


def _install() -> None:
    contents = tomllib.loads((FREEZE / "contents.toml").read_text("utf-8"))
    names = [*contents["slim"], *PACKAGES]
    hidden = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name in names or name.split(".")[0] in (*PACKAGES, "slipway_protocol")
    }
    finder = _SlimFinder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("slipway_protocol.connection")
        importlib.import_module("slipway_protocol.flow")
    finally:
        sys.meta_path.remove(finder)
        for name in names:
            sys.modules.pop(name, None)
        for name, module in hidden.items():
            if name.split(".")[0] not in (*PACKAGES, "slipway_protocol"):
                sys.modules[name] = module
    slim = sys.modules["slipway_protocol.messages"].Phase
    assert type(slim).__module__ == "enum"
    assert not hasattr(slim, "__members__"), "the real enum is in use"


_install()
