"""JavaScript: the names by which node takes each source for what it is, a module or a script.

Node 22 finds out by itself; node 18 goes by names, and by the package.json that is nearest.
"""

from __future__ import annotations

from typing import Final

from slipway._request import InputFile
from slipway._sources.node_text import is_module

_PACKAGE: Final = "package.json"


def name_source(
    name: str, source: bytes, files: tuple[InputFile, ...]
) -> tuple[str, tuple[InputFile, ...]]:
    """What the source is called, and the package.json that is put beside it, where it needs that.

    Where the caller has chosen, by a name or a package.json of its own, that is left alone.
    """
    stem, _, suffix = name.rpartition(".")
    taken = {file.path for file in files}
    told = any(path.rpartition("/")[2] == _PACKAGE for path in taken)
    beside = () if told else (file.data for file in files if file.path.endswith(".js"))
    more = (InputFile(_PACKAGE, b'{"type": "module"}\n'),) if any(map(is_module, beside)) else ()
    if suffix == "js" and not told:
        # With that package.json, what ends with .js is a module, whatever it says.
        wanted = "mjs" if is_module(source) else "cjs" if more else "js"
        if f"{stem}.{wanted}" not in taken:
            name = f"{stem}.{wanted}"
    return name, more
