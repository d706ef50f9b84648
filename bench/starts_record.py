"""Record of whole commands by language and way of starting: all samples, their host and commit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
# Ways of starting, in the order of tables and figures; the last two are floors.
WAYS = ("cold", "snapshot", "fork", "pool", "server", "bubblewrap", "bare QEMU")
# Steps of a command, in their order, with the fields of a result's timing between both ends.
STEPS = (
    "start",
    *("queue", "prepare", "boot", "agent", "ready", "restore", "build", "run", "teardown"),
    "end",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One command as typed; all times in seconds.

    ``cpu`` is the processor time of the command, and of the server that runs its job. ``steps`` are
    those of STEPS that took time; a floor has none. ``load`` is the host's load average before.
    """

    language: str
    way: str
    wall: float
    cpu: float
    load: float
    start: str = ""
    steps: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class StartsRecord:
    """Samples of one run of the benchmark, with its date, commit and host."""

    date: str
    commit: str
    host: dict[str, str]
    rounds: int
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def open(cls, rounds: int) -> StartsRecord:
        """Return an empty record of this moment and host."""
        git = ("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*")
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(date, _read_line(*git), _describe_host(), rounds)

    @classmethod
    def read(cls, path: Path) -> StartsRecord:
        """Read a record that :meth:`write` has written."""
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
        samples = [Sample(**sample) for sample in fields.pop("samples")]
        return cls(**fields, samples=samples)

    def write(self, path: Path) -> None:
        """Write the record, one sample a line; a reader never sees a part of it."""
        head = {name: value for name, value in asdict(self).items() if name != "samples"}
        lines = [f" {json.dumps(asdict(sample))}" for sample in self.samples]
        text = json.dumps(head, indent=1).removesuffix("\n}")
        aside = path.with_suffix(".part")
        aside.write_text(f'{text},\n "samples": [\n' + ",\n".join(lines) + "\n ]\n}\n", "utf-8")
        aside.replace(path)

    def select(self, language: str, way: str) -> list[Sample]:
        """Return the samples of a language by a way; those of a bare QEMU have no language."""
        return [each for each in self.samples if (each.language, each.way) == (language, way)]

    @property
    def languages(self) -> list[str]:
        """Languages of the samples, in the order of measurement."""
        return list(dict.fromkeys(each.language for each in self.samples if each.language))

    def rows(self) -> Iterator[tuple[str, str, list[Sample]]]:
        """Give language, way and samples of each row that was measured."""
        for language in (*self.languages, ""):
            for way in WAYS:
                if samples := self.select(language, way):
                    yield language, way, samples


def compute_median(samples: list[Sample], read: Callable[[Sample], float]) -> float:
    """Return the median of a measure of samples."""
    return statistics.median(map(read, samples))


def find_middle(samples: list[Sample]) -> Sample:
    """Return the sample with the median wall-clock time; of an even number, the faster one."""
    return sorted(samples, key=lambda sample: sample.wall)[(len(samples) - 1) // 2]


def _describe_host() -> dict[str, str]:
    """Return what speed depends on: processor, kernel, QEMU, Python."""
    info = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    qemu = shutil.which(f"qemu-system-{platform.machine()}")
    return {
        "processor": names[0] if names else platform.machine(),
        "processors": str(os.cpu_count()),
        "kernel": platform.release(),
        "qemu": _read_line(qemu, "--version").partition(" (")[0] if qemu else "no QEMU",
        "python": platform.python_version(),
        "guest": _describe_guest_kernel(),
    }


def _describe_guest_kernel() -> str:
    """Return the release of the kernel that guests boot."""
    kernel = ImageStore().kernel()
    return f"Linux {kernel.version}" if kernel is not None else "no kernel"


def _read_line(*command: str) -> str:
    """Return the first line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]
