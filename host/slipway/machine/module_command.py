"""Command of a process that runs one of our modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# -I and -S: modules of the user and of the site are not imported, hence the path is an argument.
_SET_PATH = "import sys; sys.path[:0] = sys.argv[1:2];"
_PACKAGES = str(Path(__file__).parents[2])


def build_module_command(module: str, descriptors: Sequence[int]) -> list[str]:
    """Return the command of a process that runs ``main`` of one of our modules.

    Its arguments are this process's id and the numbers of ``descriptors``, which it inherits.
    """
    program = f"{_SET_PATH} from {module} import main; main()"
    numbers = map(str, (os.getpid(), *descriptors))
    return [sys.executable, "-IS", "-c", program, _PACKAGES, *numbers]
