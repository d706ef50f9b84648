"""Debian packages through apt, without root and apart from the machine's own packages.

``apt-get`` runs with a private configuration and state directory (apt.py). It resolves and
downloads; nothing is installed, no maintainer script runs. Only Debian's own archive is asked: of
the machine's sources those that name a Debian mirror (apt_sources.py), and every index must be
signed by Debian's archive keys.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from slipway_initramfs.debian import dependencies
from slipway_initramfs.debian.apt import Apt
from slipway_initramfs.debian.package_file import read_script, unpack
from slipway_initramfs.disk import locks, space
from slipway_initramfs.disk.spool import make_disk_error
from slipway_initramfs.errors import BuildFailed, ImageCorrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from slipway_initramfs.disk.spool import Spool

ARCHITECTURES = ("amd64", "arm64")
# Seconds after which the package lists are fetched anew.
INDEX_AGE = 24 * 3600

# What apt-cache would tell beside what a package needs.
_NO_NEEDS = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
# Times its size that a package takes, where it does not say itself how much that is.
_UNPACKED = 6
_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+) SHA256:(?P<sha>[0-9a-f]{64})")
_FILE_NAME = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.+-]*)_(?P<version>[^_/]+)_(?P<arch>[a-z0-9]+)\.deb"
)


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package: where it lies, its ``size`` in bytes, its SHA-256."""

    name: str
    version: str
    architecture: str
    uri: str
    size: int
    sha256: str


class DebianArchive:
    """The archive for one architecture, with its state and its downloads below ``directory``.

    Processes that use the same directory take turns. Downloads are named by their digest and shared
    by all architectures.
    """

    def __init__(self, directory: Path, architecture: str, progress: Callable[[str], None]) -> None:
        if architecture not in ARCHITECTURES:
            raise BuildFailed(
                f"no images for the architecture {architecture!r}",
                f"Known are {' and '.join(ARCHITECTURES)}.",
            )
        self.architecture = architecture
        self._progress = progress
        self._directory = directory
        self._downloads = directory / "downloads"
        self._state = directory / architecture
        self._stamp = self._state / "updated"
        self._apt = Apt(self._state, architecture, progress)

    def resolve(self, names: Sequence[str], *, refresh: bool = False) -> tuple[Package, ...]:
        """Return ``names`` and all that they depend on, in an order that suits installation.

        The package lists are fetched if there are none, if they are older than INDEX_AGE (unless
        the network fails then) or if ``refresh`` is set. Raises BuildFailed.
        """
        with self._lock_state():
            return self._resolve(names, refresh=refresh)

    def _resolve(self, names: Sequence[str], *, refresh: bool) -> tuple[Package, ...]:
        age = time.time() - self._stamp.stat().st_mtime if self._stamp.exists() else None
        if refresh or age is None or not 0 <= age < INDEX_AGE:
            try:
                self._apt.update()
                self._stamp.touch()
            except BuildFailed as error:
                if refresh or age is None:
                    raise
                self._progress(f"package lists are a day old or more: {error.message}")
        options = ("-qq", "-y", "-o", "Acquire::ForceHash=SHA256", "--print-uris", "install")
        output = self._apt.ask("apt-get", *options, "--", *names, purpose="resolve the packages")
        return tuple(_parse_uri(line) for line in output.splitlines() if line.startswith("'"))

    def needs(self, names: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return what each of these packages, which were resolved, needs of the others."""
        options = [f"--no-{kind}" for kind in _NO_NEEDS]
        command = ("apt-cache", "depends", *options, "--", *names)
        with self._lock_state():
            said = self._apt.ask(*command, purpose="look for what the packages need")
        return dependencies.parse(said, frozenset(names))

    def fetch(self, packages: Iterable[Package]) -> list[Path]:
        """Download what is not there yet; return the files in the order of ``packages``.

        apt checks digests while it downloads, ``open`` once more. Raises BuildFailed.
        """
        wanted = list(packages)
        if not all(map(self._is_downloaded, wanted)):
            with self._lock_state():
                self._keep_downloads(wanted)
                missing = [package for package in wanted if not self._is_downloaded(package)]
                total = sum(package.size for package in missing)
                self._progress(f"downloading {len(missing)} packages, {total / 1e6:.0f} MB")
                try:
                    self._apt.download({p.sha256: (p.uri, p.size) for p in missing})
                finally:
                    self._keep_downloads(missing)
        return [self.path(package) for package in wanted]

    def _keep_downloads(self, packages: list[Package]) -> None:
        """Keep what has come as a whole, however its download ended; ``open`` checks its digest."""
        for package in packages:
            self._apt.take(package.sha256, package.size, self.path(package))

    def check_room(self, packages: Iterable[Package], temporary: Path, what: str) -> None:
        """Raise BuildFailed if the disk has no room for what making ``what`` of them takes.

        That is: downloads that are not there yet, all packages unpacked in ``temporary``, and the
        archive that is made of them.
        """
        wanted = list(packages)
        missing = sum(package.size for package in wanted if not self._is_downloaded(package))
        unpacked = self._estimate_unpacked(wanted)
        space.check_space(
            f"making {what}", (self._directory, missing), (temporary, unpacked + unpacked // 2)
        )

    def _estimate_unpacked(self, packages: list[Package]) -> int:
        """Return the bytes that packages unpack to, as they say themselves."""
        names = [f"{package.name}={package.version}" for package in packages]
        command = ("apt-cache", "show", "--no-all-versions", "--", *names)
        try:
            with self._lock_state():
                told = self._apt.ask(*command, purpose="ask for the packages' sizes")
        except BuildFailed:
            return _UNPACKED * sum(package.size for package in packages)
        sizes = re.findall(r"^Installed-Size: (\d{1,9})$", told, re.MULTILINE)
        return sum(map(int, sizes)) << 10

    def open(self, package: Package, spool_directory: Path | None = None) -> Spool:
        """Return the package's files as a tar archive; a damaged download is removed and raised.

        Raises ImageCorrupted.
        """
        path = self.path(package)
        try:
            return unpack(path, package.sha256, spool_directory)
        except ImageCorrupted:
            path.unlink(missing_ok=True)
            raise
        except FileNotFoundError as error:
            raise BuildFailed(f"the download of {package.name} has vanished") from error

    def script(self, package: Package) -> str:
        """Return what the package, which was fetched, would run once it is unpacked."""
        return read_script(self.path(package), "postinst")

    def path(self, package: Package) -> Path:
        """Return where the package's file is kept."""
        return self._downloads / f"{package.sha256}.deb"

    @contextmanager
    def _lock_state(self) -> Iterator[None]:
        """Wait for other processes that use apt in this directory; killed ones keep no lock."""
        try:
            self._downloads.mkdir(parents=True, exist_ok=True)
            with locks.open_lock(self._directory / "lock") as lock:
                locks.lock_exclusive(lock)
                self._apt.prepare()
                yield
        except OSError as error:
            raise make_disk_error(error, self._directory) from error

    def _is_downloaded(self, package: Package) -> bool:
        try:
            return self.path(package).stat().st_size == package.size
        except FileNotFoundError:
            return False


def _parse_uri(line: str) -> Package:
    match = _URI_LINE.match(line)
    name = _FILE_NAME.fullmatch(unquote(match["name"])) if match else None
    if match is None or name is None:
        raise BuildFailed(f"apt names a package without size and SHA-256: {line[:120]}")
    return Package(
        name["name"], name["version"], name["arch"], match["uri"], int(match["size"]), match["sha"]
    )
