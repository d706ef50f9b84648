"""Model of the first processor, as Linux reports it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_PATH = "/proc/cpuinfo"


def read_cpu_info(names: Collection[str]) -> list[str]:
    """Return lines of /proc/cpuinfo with these names; empty if the kernel does not report them."""
    try:
        with open(_PATH, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            text = file.read()
    except OSError:
        return []
    first = text.split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return [f"{name.strip()}={value.strip()}" for name, _, value in pairs if name.strip() in names]
