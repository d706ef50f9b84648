"""Names of JavaScript sources, by which node recognises modules and scripts.

Node 22 detects modules by their text; node 18 depends on names and on the nearest package.json.
"""

from __future__ import annotations

from typing import Final

from slipway._model.input_file import InputFile
from slipway._sources.node_text import MAX_READ, is_module

_PACKAGE: Final = "package.json"
# Bytes of all files beside the source: see slipway._sources.node_text.
MAX_READ_BESIDE: Final = 512 * 1024


def name_source(
    name: str, source: bytes, files: tuple[InputFile, ...], names: frozenset[str]
) -> tuple[str, tuple[InputFile, ...]]:
    """Return the name of the source, and a package.json to put beside it if one is needed.

    A choice of the caller, by a name or by a package.json, is not changed. ``names`` are all names
    of the directory.
    """
    stem, _, suffix = name.rpartition(".")
    taken = names | {file.path for file in files}
    is_described = _PACKAGE in taken
    modules = not is_described and _has_modules(files)
    more = (InputFile(_PACKAGE, b'{"type": "module"}\n'),) if modules else ()
    if suffix == "js" and not is_described:
        # With that package.json, each file with .js is a module, whatever its text.
        wanted = "mjs" if is_module(source) else "cjs" if more else "js"
        if f"{stem}.{wanted}" not in taken:
            name = f"{stem}.{wanted}"
    return name, more


def _has_modules(files: tuple[InputFile, ...]) -> bool:
    """Tell if one of ``files`` is a module whose nearest package.json would be ours."""
    described = tuple(
        file.path.removesuffix(_PACKAGE) for file in files if _get_file_name(file) == _PACKAGE
    )
    left = MAX_READ_BESIDE
    for file in files:
        foreign = file.path.startswith(described) or "node_modules" in file.path.split("/")
        if _get_file_name(file).endswith(".js") and not foreign:
            data = file.data[: min(MAX_READ, left)]
            left -= len(data)
            if is_module(data):
                return True
    return False


def _get_file_name(file: InputFile) -> str:
    return file.path.rpartition("/")[2]
