"""apt with a private configuration and state, and with limits on time.

Of the machine's apt configuration only the access to mirrors is taken over. A program that hangs is
ended, in particular on a full disk, where apt may wait for ever.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import unquote

from slipway_initramfs.child_process import CompletedProgram, Hung, Supervision, run_program
from slipway_initramfs.debian.mirrors import FALLBACK, RELEASE, read_sources
from slipway_initramfs.disk import space
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import BuildFailed, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
# Disk space for fetching the package lists, in bytes: 90 MB measured, plus the packed lists.
LISTS = 128 << 20
HELPERS = (Path("/usr/lib/apt/apt-helper"),)

_LOCAL = 600.0
_REMOTE = 3600.0
# Seconds without progress after which little disk space counts as the reason for a stall.
_PATIENCE = 10.0
# Slowest useful rate of a mirror, in bytes per second.
_SLOWEST = 16_000
# How the machine reaches its mirrors; all its other apt settings (hooks, pins) stay out.
_NETWORK = re.compile(
    r"Acquire::(?:https?(?:::|\s)|Check-Valid-Until|Check-Date|ForceIPv[46]|Proxy-Auto-Detect)"
)
_NO_NETWORK = re.compile(
    r"could not resolve|temporary failure|unable to connect|could not connect|timed out|unreachable"
    r"|cannot initiate the connection",
    re.IGNORECASE,
)


class Apt:
    """apt for one architecture, with its state below ``state``; for a single process at a time."""

    def __init__(self, state: Path, architecture: str, progress: Callable[[str], None]) -> None:
        self._tree = TrustedTree(state.parent)
        self._state = state
        self._architecture = architecture
        self._progress = progress
        self._partial = state / "partial"
        self._ready = False
        self._come, self._come_at = 0, 0.0

    def prepare(self) -> None:
        """Write the configuration, once.

        Raises:
            BuildFailed: apt or Debian's keys are missing.
        """
        if self._ready:
            return
        if shutil.which("apt-get") is None or shutil.which("apt-config") is None:
            raise BuildFailed(
                "cannot build images from Debian packages: no apt-get on this machine",
                "Build the images on a Debian or Ubuntu machine (package apt) and copy the store.",
            )
        keyring = next((path for path in KEYRINGS if path.exists()), None)
        if keyring is None:
            raise BuildFailed(
                "cannot verify Debian packages: Debian's archive keys are missing",
                "Install them: apt-get update && apt-get install debian-archive-keyring",
            )
        for name in ("lists/partial", "archives/partial", "partial"):
            self._tree.make_directory(self._state / name)
        # Left by an apt that was killed.
        shutil.rmtree(self._state / "tmp", ignore_errors=True)
        self._tree.make_directory(self._state / "tmp")
        self._write("status", "")
        sources = read_sources(Path("/etc/apt")) or FALLBACK
        self._write(
            "sources.list",
            "".join(f"deb [signed-by={keyring}] {uri} {suite} main\n" for uri, suite in sources),
        )
        self._write("apt.conf", self._build_configuration())
        self._ready = True

    def _write(self, name: str, text: str) -> None:
        path = self._state / name
        descriptor = self._tree.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    def ask(self, *command: str, purpose: str) -> str:
        """Run an apt program that needs no network and return its output.

        ``purpose`` completes the message "cannot ...".

        Raises:
            BuildFailed: the program fails.
            SourceUnavailable: the program hangs.
        """
        return self._run_apt(command, purpose, Supervision(_LOCAL))

    def update(self) -> None:
        """Fetch the package lists.

        Raises:
            BuildFailed: the lists cannot be fetched.
            DiskFull: the disk has too little space.
            SourceUnavailable: the mirror cannot be reached.
        """
        self._progress(f"fetching Debian's package lists for {self._architecture}")
        space.check_space("fetching Debian's package lists", (self._state, LISTS))
        command = ("apt-get", "-qq", "update")
        with ExitStack() as on_error:
            # A partial list is useless for the next attempt, and may have filled the disk.
            on_error.callback(_clear_directory, self._state / "lists" / "partial")
            self._run_apt(command, "fetch Debian's package lists", Supervision(_REMOTE))
            on_error.pop_all()

    def download(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Download files, given by SHA-256, each with its URI and size in bytes.

        Call ``take`` afterwards, also after an error: complete files are kept, and partial files
        are resumed by the next call.

        Raises:
            BuildFailed: a file cannot be fetched.
            SourceUnavailable: the mirror cannot be reached.
        """
        helper = next((path for path in HELPERS if path.exists()), None)
        if helper is None:
            raise BuildFailed("this machine's apt has no apt-helper", "Install the package apt.")
        _clear_directory(self._partial, keep=files)
        arguments: list[str] = []
        for sha256, (uri, _) in files.items():
            arguments += [uri, str(self._partial / sha256), f"SHA256:{sha256}"]
        seconds = _REMOTE + sum(size for _, size in files.values()) / _SLOWEST
        supervision = Supervision(seconds, listen=_Counter(len(files), self._progress))
        try:
            self._run_apt(
                (str(helper), "download-file", *arguments), "download packages", supervision
            )
        except SourceUnavailable:
            raise
        except BuildFailed:
            # Remove invalid and partial files, which would disturb the next attempt.
            sizes = {sha256: size for sha256, (_, size) in files.items()}
            _clear_directory(
                self._partial,
                keep={sha for sha, size in sizes.items() if self._is_complete(sha, size)},
            )
            raise

    def take(self, sha256: str, size: int, target: Path) -> None:
        """Move a download to ``target`` if it is complete."""
        if self._is_complete(sha256, size):
            (self._partial / sha256).replace(target)

    def _is_complete(self, sha256: str, size: int) -> bool:
        try:
            return (self._partial / sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def _build_configuration(self) -> str:
        environment = dict(os.environ, LC_ALL="C")
        command = ("apt-config", "dump")
        dumped = self._run_program(command, environment, "read apt's settings", Supervision(_LOCAL))
        network = [line for line in dumped.stdout.splitlines() if _NETWORK.match(line)]
        state = self._state.resolve()
        settings = {
            "Dir": "/",
            "Dir::Etc::Main": "/dev/null",
            "Dir::Etc::Parts": "/dev/null",
            "Dir::Etc::SourceList": state / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": state,
            "Dir::State::Lists": state / "lists",
            "Dir::State::Status": state / "status",
            "Dir::Cache": state,
            "Dir::Cache::Archives": state / "archives",
            # A single cache is enough: the second takes 36 MB and saves 50 ms.
            "Dir::Cache::pkgcache": "",
            "Dir::Log": state,
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Install-Recommends": "false",
            # The user's own cache is closed to the user _apt, to whom root's apt would change.
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
        }
        lines = [f'{key} "{value}";' for key, value in settings.items()]
        return "\n".join([*lines, *network, ""])

    def _run_apt(self, command: Sequence[str], purpose: str, supervision: Supervision) -> str:
        """Run an apt program with the private configuration and return its output."""
        environment = {
            **os.environ,
            "APT_CONFIG": str((self._state / "apt.conf").resolve()),
            # An apt that is killed with us removes nothing of its own.
            "TMPDIR": str((self._state / "tmp").resolve()),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        self._come, self._come_at = -1, monotonic()
        watched = replace(supervision, watch=self._watch_downloads)
        done = self._run_program(command, environment, purpose, watched)
        if done.code:
            output = f"{done.stderr}\n{done.stdout}"
            if "No space left on device" in output:
                raise space.make_full_error(self._state)
            raise make_error(purpose, output, self._architecture)
        return done.stdout

    def _run_program(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        purpose: str,
        supervision: Supervision,
    ) -> CompletedProgram:
        try:
            return run_program(command, environment, supervision)
        except Hung as error:
            raise SourceUnavailable(
                f"cannot {purpose}: {command[0]} {error}, and was ended",
                "Check the network, the Debian mirror and apt's proxy settings, and try again.",
            ) from None

    def _watch_downloads(self) -> int:
        """Return the number of bytes received.

        Raises:
            DiskFull: the disk is full, which would make apt hang.
        """
        space.check_space_left(self._state)
        come = 0
        for directory in (self._partial, self._state / "lists" / "partial"):
            # Both directories and files come and go while apt is at work.
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        come += entry.stat().st_size
        if come != self._come:
            self._come, self._come_at = come, monotonic()
        elif monotonic() - self._come_at > _PATIENCE and space.is_low(self._state):
            # apt has removed a file that did not fit, and waits for it.
            raise space.make_full_error(self._state, "too little space is left for apt")
        return come


class _Counter:
    """Progress of a download, package by package, from the lines of apt-helper."""

    def __init__(self, packages: int, progress: Callable[[str], None]) -> None:
        self._packages = packages
        self._progress = progress
        self._number = 0

    def __call__(self, line: str) -> None:
        if line.startswith("Get:"):
            name = unquote(line.split()[1].rpartition("/")[2])
            # apt repeats interrupted downloads.
            self._number = min(self._number + 1, self._packages)
            self._progress(f"downloading {self._number}/{self._packages} {name}")


def _clear_directory(directory: Path, keep: Collection[str] = ()) -> None:
    for path in directory.glob("*"):
        if path.name not in keep and path.is_file():
            path.unlink(missing_ok=True)


def make_error(purpose: str, output: str, architecture: str) -> BuildFailed:
    """Return the error for a failed apt program, from its output.

    ``purpose`` completes the message "cannot ...".
    """
    errors = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    text = "; ".join(errors[:3]) or output.strip()[-300:] or "apt-get says nothing"
    if unknown := re.search(r"Unable to locate package (\S+)", output):
        return BuildFailed(
            f"Debian {RELEASE} has no package {unknown[1]!r} for {architecture}",
            "Check the packages in the language file.",
        )
    if _NO_NETWORK.search(output):
        return SourceUnavailable(
            f"cannot {purpose}: no connection to the Debian mirror ({text[:160]})",
            "Check the network and apt's proxy settings.",
        )
    return BuildFailed(f"cannot {purpose}: {text[:400]}")
