"""Debian's archive through apt, without root and apart from the packages of this machine.

``apt-get`` runs with a private configuration and state directory (apt.py). It resolves and
downloads; no package is installed, no maintainer script runs. Only Debian's own archive is used:
the Debian mirrors among the machine's sources (mirrors.py), with indexes signed by Debian's archive
keys.
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
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import BuildFailed, ImageCorrupted
from slipway_initramfs.progress import format_count
from slipway_initramfs.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from slipway_initramfs.disk.spool import Spool

ARCHITECTURES = ("amd64", "arm64")
# Seconds after which the package lists are fetched anew.
INDEX_AGE = 24 * 3600

# Relations that ``apt-cache depends`` is to leave out.
_NO_NEEDS = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
# Unpacked size of a package as a multiple of its size, if the metadata lacks it.
_UNPACKED = 6
_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+) SHA256:(?P<sha>[0-9a-f]{64})")
_FILE_NAME = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.+-]*)_(?P<version>[^_/]+)_(?P<arch>[a-z0-9]+)\.deb"
)


@dataclass(frozen=True, slots=True)
class Package:
    """Version of a package: its URI, its ``size`` in bytes, its SHA-256."""

    name: str
    version: str
    architecture: str
    uri: str
    size: int
    sha256: str


class DebianArchive:
    """Debian's archive for one architecture, with state and downloads below ``directory``.

    Processes that share a directory take turns. Downloads are named by their digest and shared by
    all architectures.
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
        self._tree = TrustedTree(directory)
        self._downloads = directory / "downloads"
        self._state = directory / architecture
        self._stamp = self._state / "updated"
        self._apt = Apt(self._state, architecture, progress)

    def resolve(self, names: Sequence[str], *, refresh: bool = False) -> tuple[Package, ...]:
        """Return ``names`` and all their dependencies, in an order that suits installation.

        The package lists are fetched if they are missing, if they are older than INDEX_AGE (old
        lists are used if the network fails) or if ``refresh`` is set.

        Raises:
            BuildFailed: a package is unknown, or the lists cannot be fetched.
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
        return tuple(parse_uri_line(line) for line in output.splitlines() if line.startswith("'"))

    def needs(self, names: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return for each of these resolved packages the others that it depends on."""
        options = [f"--no-{kind}" for kind in _NO_NEEDS]
        command = ("apt-cache", "depends", *options, "--", *names)
        with self._lock_state():
            said = self._apt.ask(*command, purpose="find the packages' dependencies")
        return dependencies.parse(said, frozenset(names))

    def fetch(self, packages: Iterable[Package]) -> list[Path]:
        """Download missing packages; return the files in the order of ``packages``.

        apt checks the digests during the download, ``open`` checks them again.

        Raises:
            BuildFailed: a package cannot be fetched.
        """
        wanted = list(packages)
        if not all(map(self._is_downloaded, wanted)):
            with self._lock_state():
                self._keep_downloads(wanted)
                missing = [package for package in wanted if not self._is_downloaded(package)]
                total = sum(package.size for package in missing)
                count = format_count(len(missing), "package")
                self._progress(f"downloading {count}, {format_mib(total, 0)}")
                try:
                    self._apt.download({p.sha256: (p.uri, p.size) for p in missing})
                finally:
                    self._keep_downloads(missing)
        return [self.path(package) for package in wanted]

    def _keep_downloads(self, packages: list[Package]) -> None:
        """Keep complete downloads, also after an error; ``open`` checks their digests."""
        for package in packages:
            self._apt.take(package.sha256, package.size, self.path(package))

    def check_room(self, packages: Iterable[Package], temporary: Path, what: str) -> None:
        """Check that the disk has the space to make ``what`` of these packages.

        Counted are missing downloads, all packages unpacked in ``temporary``, and the archive that
        is made of them.

        Raises:
            DiskFull: the disk has too little space.
        """
        wanted = list(packages)
        missing = sum(package.size for package in wanted if not self._is_downloaded(package))
        unpacked = self._estimate_unpacked(wanted)
        space.check_space(
            f"making {what}", (self._directory, missing), (temporary, unpacked + unpacked // 2)
        )

    def _estimate_unpacked(self, packages: list[Package]) -> int:
        """Return the unpacked size of packages in bytes, as their metadata says."""
        names = [f"{package.name}={package.version}" for package in packages]
        command = ("apt-cache", "show", "--no-all-versions", "--", *names)
        try:
            with self._lock_state():
                shown = self._apt.ask(*command, purpose="ask for the packages' sizes")
        except BuildFailed:
            return _UNPACKED * sum(package.size for package in packages)
        sizes = re.findall(r"^Installed-Size: (\d{1,9})$", shown, re.MULTILINE)
        return sum(map(int, sizes)) << 10

    def open(self, package: Package, spool_directory: Path | None = None) -> Spool:
        """Return the package's files as a tar archive; remove a damaged download.

        Raises:
            ImageCorrupted: the download is damaged.
            BuildFailed: the download is missing.
        """
        path = self.path(package)
        try:
            return unpack(path, package.sha256, spool_directory)
        except ImageCorrupted:
            self._tree.remove_file(path)
            raise
        except FileNotFoundError as error:
            raise BuildFailed(f"the download of {package.name} has disappeared") from error

    def script(self, package: Package) -> str:
        """Return the postinst script of a fetched package, or an empty string."""
        return read_script(self.path(package), "postinst")

    def path(self, package: Package) -> Path:
        """Return the path of the package's file."""
        return self._downloads / f"{package.sha256}.deb"

    @contextmanager
    def _lock_state(self) -> Iterator[None]:
        """Lock the state against other processes. A killed process releases its lock."""
        try:
            self._tree.make_directory(self._downloads)
            with locks.open_lock(self._tree, self._directory / "lock") as lock:
                locks.lock_exclusive(lock, "using apt", self._progress)
                self._apt.prepare()
                yield
        except OSError as error:
            raise make_disk_error(error, self._directory) from error

    def _is_downloaded(self, package: Package) -> bool:
        try:
            return self.path(package).stat().st_size == package.size
        except FileNotFoundError:
            return False


def parse_uri_line(line: str) -> Package:
    """Return the package of a line of ``apt-get --print-uris``.

    Raises:
        BuildFailed: the line lacks size or SHA-256.
    """
    match = _URI_LINE.match(line)
    name = _FILE_NAME.fullmatch(unquote(match["name"])) if match else None
    if match is None or name is None:
        raise BuildFailed(f"apt reports a package without size or SHA-256: {line[:120]}")
    return Package(
        name["name"], name["version"], name["arch"], match["uri"], int(match["size"]), match["sha"]
    )
