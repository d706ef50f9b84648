"""Loader of the frozen agent: imports modules from one file, then runs the agent.

The search for thirty modules along a path costs more than their reading. Some modules of the
standard library have slim stand-ins in the file. The real modules replace them at the first import
of a module outside the file (pyserial, psutil, traceback), which needs the complete ones.
"""

import marshal
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

# In sys.meta_path: behind the finders of built-in and frozen modules.
POSITION = 2


class Bundle:
    """Finder and loader of the modules in the file.

    ``content`` is the file's marshalled tuple: a dict of names to (is a package, marshalled code),
    a dict of extension modules to their files in ``libraries``, and the names of the stand-ins.
    """

    def __init__(self, content: "Any", libraries: str) -> None:
        self._libraries = libraries
        self._modules: dict[str, tuple[bool, bytes]] = content[0]
        self._extensions: dict[str, str] = content[1]
        self._slim: tuple[str, ...] = content[2]

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> "ModuleSpec | None":
        """Return the spec of ``name`` if the file has the module, else None."""
        entry = self._modules.get(name)
        if entry is not None:
            return ModuleSpec(name, self, is_package=entry[0])  # type: ignore[arg-type]
        file = self._extensions.get(name)
        if file is not None:
            path = f"{self._libraries}/{file}"
            return ModuleSpec(name, ExtensionFileLoader(name, path), origin=path)
        for slim in self._slim:
            sys.modules.pop(slim, None)
            self._modules.pop(slim, None)
        self._slim = ()
        return None

    def create_module(self, _spec: "ModuleSpec") -> None:
        """Leave the creation to the import system."""

    def exec_module(self, module: "ModuleType") -> None:
        """Run the code of a module."""
        code: CodeType = marshal.loads(self._modules[module.__name__][1])  # noqa: S302
        exec(code, module.__dict__)  # noqa: S102


def install() -> None:
    """Make the modules of the file ``agent.modules`` importable."""
    root = sys.executable.removesuffix("/bin/python3")
    with open(f"{root}/agent.modules", "rb", buffering=0) as file:
        content = marshal.loads(file.read())  # noqa: S302
    sys.meta_path.insert(POSITION, Bundle(content, f"{root}/lib"))


def main() -> None:
    """Run the agent."""
    install()
    from slipway_agent.boot import main as run

    run()


if __name__ == "__main__":
    main()
