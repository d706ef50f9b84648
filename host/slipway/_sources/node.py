"""JavaScript: the names by which node takes each source for what it is, a module or a script.

Node 22 finds out by itself; node 18 goes by names, and by the package.json that is nearest.
"""

from __future__ import annotations

from typing import Final

from slipway._model.input_file import InputFile
from slipway._sources.node_text import MAX_READ, is_module

_PACKAGE: Final = "package.json"
# Of the files beside the source, together: see slipway._sources.node_text.
MAX_READ_BESIDE: Final = 512 * 1024


def name_source(
    name: str, source: bytes, files: tuple[InputFile, ...], names: frozenset[str]
) -> tuple[str, tuple[InputFile, ...]]:
    """What the source is called, and the package.json that is put beside it, where it needs that.

    Where the caller has chosen, by a name or a package.json of its own, that is left alone.
    ``names`` are all that the directory has.
    """
    stem, _, suffix = name.rpartition(".")
    taken = names | {file.path for file in files}
    told = _PACKAGE in taken
    modules = not told and _has_modules(files)
    more = (InputFile(_PACKAGE, b'{"type": "module"}\n'),) if modules else ()
    if suffix == "js" and not told:
        # With that package.json, what ends with .js is a module, whatever it says.
        wanted = "mjs" if is_module(source) else "cjs" if more else "js"
        if f"{stem}.{wanted}" not in taken:
            name = f"{stem}.{wanted}"
    return name, more


def _has_modules(files: tuple[InputFile, ...]) -> bool:
    """Whether one of ``files`` is a module, for which the nearest package.json would be ours."""
    described = tuple(file.path.removesuffix(_PACKAGE) for file in files if _name(file) == _PACKAGE)
    left = MAX_READ_BESIDE
    for file in files:
        foreign = file.path.startswith(described) or "node_modules" in file.path.split("/")
        if _name(file).endswith(".js") and not foreign:
            data = file.data[: min(MAX_READ, left)]
            left -= len(data)
            if is_module(data):
                return True
    return False


def _name(file: InputFile) -> str:
    return file.path.rpartition("/")[2]
