"""Facts about another process, as /proc has them (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slipway._util.errors import HostError
from slipway.machine.fork.mishap import Mishap, build_failure


@dataclass(frozen=True, slots=True)
class MemoryArea:
    """Mapped area of memory: its bounds, and the flags of ``VmFlags`` in /proc/PID/smaps."""

    start: int
    end: int
    flags: frozenset[str]

    @property
    def is_kept_from_children(self) -> bool:
        """True if a fork leaves it out by the process's wish (MADV_DONTFORK)."""
        return "dc" in self.flags and "io" not in self.flags

    @property
    def is_shared(self) -> bool:
        """True if a child of the process would write to the same memory."""
        return {"sh", "mw"} <= self.flags


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Descriptor: its number, the target of its link, its flags (O_*) and other fields."""

    number: int
    target: str
    flags: int
    fields: tuple[tuple[str, str], ...]

    def find(self, name: str) -> str | None:
        """Return the first field ``name``, or None."""
        return next((value for key, value in self.fields if key == name), None)


def list_threads(process: int) -> list[int]:
    """Return the ids of all threads; the first is that of the process.

    Raises:
        Mishap: the process has ended.
    """
    try:
        threads = {int(path.name) for path in Path(f"/proc/{process}/task").iterdir()}
    except OSError as error:
        raise _build_error(process, error) from None
    return [process, *sorted(threads - {process})]


def read_areas(process: int) -> list[MemoryArea]:
    """Return all mapped areas.

    Raises:
        HostError: the process may not be inspected.
        Mishap: the process has ended.
    """
    found, bounds = [], (0, 0)
    for line in _read(process, "smaps").splitlines():
        first, _, rest = line.partition(" ")
        if first == "VmFlags:":
            found.append(MemoryArea(*bounds, frozenset(rest.split())))
        elif not first.endswith(":"):
            start, _, end = first.partition("-")
            bounds = int(start, 16), int(end, 16)
    return found


def read_open_files(process: int) -> list[OpenFile]:
    """Return all descriptors.

    Raises:
        HostError: the process may not be inspected.
        Mishap: the process has ended.
    """
    try:
        paths = list(Path(f"/proc/{process}/fd").iterdir())
        targets = {int(path.name): str(path.readlink()) for path in paths}
    except OSError as error:
        raise _build_error(process, error) from None
    return [
        _parse_open_file(number, target, _read(process, f"fdinfo/{number}"))
        for number, target in sorted(targets.items())
    ]


def _parse_open_file(number: int, target: str, text: str) -> OpenFile:
    """Return a descriptor; a line of an epoll file has several fields."""
    fields = []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.append((name, value.strip()))
    flags = dict(reversed(fields)).get("flags", "0")
    return OpenFile(number, target, int(flags, 8), tuple(fields))


def has_timers(process: int) -> bool:
    """Tell if the process has timers (timer_create(2)), which a child does not inherit."""
    try:
        return bool(_read(process, "timers").strip())
    except (HostError, Mishap):  # a kernel without CONFIG_CHECKPOINT_RESTORE does not tell
        return False


def find_tracer(process: int, thread: int) -> int:
    """Return the id of the process that traces a thread; 0 without one.

    Raises:
        Mishap: the thread has ended.
    """
    return int(_read_status(process, thread).get("TracerPid", "0"))


def has_pending_signals(process: int, thread: int) -> bool:
    """Tell if a signal waits for the thread or its process."""
    fields = _read_status(process, thread)
    return any(int(fields.get(name, "0"), 16) for name in ("SigPnd", "ShdPnd"))


def _read_status(process: int, thread: int) -> dict[str, str]:
    lines = _read(process, f"task/{thread}/status").splitlines()
    return dict(line.split(":", 1) for line in lines)


def _read(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text("utf-8", "replace")
    except OSError as error:
        raise _build_error(process, error) from None


def _build_error(process: int, error: OSError) -> Exception:
    return build_failure(f"the process {process} cannot be inspected", error.errno)
