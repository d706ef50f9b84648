"""Debian packages through apt, without root and apart from the machine's own packages.

``apt-get`` runs with a private configuration and state directory. It resolves and downloads;
nothing is installed, no maintainer script runs. Only Debian's own archive is asked: of the
machine's sources those that name a Debian mirror (third-party repositories may carry packages of
the same names), and every index must be signed by Debian's archive keys.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from slipway_initramfs import dependencies, locks, room
from slipway_initramfs.apt_sources import FALLBACK, RELEASE, read_sources
from slipway_initramfs.archives import read_script, unpack
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, SourceUnavailable
from slipway_initramfs.process import Attention, Finished, Hung, run
from slipway_initramfs.spool import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from slipway_initramfs.spool import Spool

ARCHITECTURES = ("amd64", "arm64")
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
INDEX_AGE = 24 * 3600
"""Seconds after which the package lists are fetched anew."""
LISTS = 128 << 20
"""Bytes that fetching the package lists takes: 90 MB measured, and what is fetched is packed."""
HELPERS = (Path("/usr/lib/apt/apt-helper"),)

# What apt-cache would tell beside what a package needs.
_NO_NEEDS = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
_UNPACKED = 6
"""Times its size that a package takes, where it does not say itself how much that is."""
_LOCAL = 600.0
_REMOTE = 3600.0
_SLOWEST = 16_000
"""Bytes a second below which a mirror is as good as none."""
# How the machine reaches its mirrors; all its other apt settings (hooks, pins) stay out.
_NETWORK = re.compile(
    r"Acquire::(?:https?(?:::|\s)|Check-Valid-Until|Check-Date|ForceIPv[46]|Proxy-Auto-Detect)"
)
_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+) SHA256:(?P<sha>[0-9a-f]{64})")
_FILE_NAME = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.+-]*)_(?P<version>[^_/]+)_(?P<arch>[a-z0-9]+)\.deb"
)
_NO_NETWORK = re.compile(
    r"could not resolve|temporary failure|unable to connect|could not connect|timed out|unreachable"
    r"|cannot initiate the connection",
    re.IGNORECASE,
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


class DebianSource:
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
        self._ready = False

    def resolve(self, names: Sequence[str], *, refresh: bool = False) -> tuple[Package, ...]:
        """Return ``names`` and all that they depend on, in an order that suits installation.

        The package lists are fetched if there are none, if they are older than INDEX_AGE (unless
        the network fails then) or if ``refresh`` is set. Raises BuildFailed.
        """
        with self._turn():
            return self._resolve(names, refresh=refresh)

    def _resolve(self, names: Sequence[str], *, refresh: bool) -> tuple[Package, ...]:
        self._prepare()
        age = time.time() - self._stamp.stat().st_mtime if self._stamp.exists() else None
        if refresh or age is None or not 0 <= age < INDEX_AGE:
            try:
                self._update()
            except BuildFailed as error:
                if refresh or age is None:
                    raise
                self._progress(f"package lists are a day old or more: {error.message}")
        options = ("-qq", "-y", "-o", "Acquire::ForceHash=SHA256", "--print-uris", "install")
        command = ("apt-get", *options, "--", *names)
        output = self._apt(command, "resolve the packages", Attention(_LOCAL))
        return tuple(_parse_uri(line) for line in output.splitlines() if line.startswith("'"))

    def needs(self, names: Sequence[str]) -> Mapping[str, frozenset[str]]:
        """Return what each of these packages, which were resolved, needs of the others."""
        options = [f"--no-{kind}" for kind in _NO_NEEDS]
        with self._turn():
            self._prepare()
            command = ("apt-cache", "depends", *options, "--", *names)
            said = self._apt(command, "look for what the packages need", Attention(_LOCAL))
        return dependencies.parse(said, frozenset(names))

    def fetch(self, packages: Iterable[Package]) -> list[Path]:
        """Download what is not there yet; return the files in the order of ``packages``.

        apt checks digests while it downloads, ``open`` once more. Raises BuildFailed.
        """
        wanted = list(packages)
        if not all(map(self._have, wanted)):
            with self._turn():
                self._prepare()
                missing = [package for package in wanted if not self._have(package)]
                total = sum(package.size for package in missing)
                self._progress(f"downloading {len(missing)} packages, {total / 1e6:.0f} MB")
                self._download(missing)
        return [self.path(package) for package in wanted]

    def check_room(self, packages: Iterable[Package], temporary: Path, what: str) -> None:
        """Raise BuildFailed if the disk has no room for what making ``what`` of them takes.

        That is: downloads that are not there yet, all packages unpacked in ``temporary``, and the
        archive that is made of them.
        """
        wanted = list(packages)
        missing = sum(package.size for package in wanted if not self._have(package))
        unpacked = self._unpacked(wanted)
        room.check(
            f"making {what}", (self._directory, missing), (temporary, unpacked + unpacked // 2)
        )

    def _unpacked(self, packages: list[Package]) -> int:
        """Return the bytes that packages unpack to, as they say themselves."""
        names = [f"{package.name}={package.version}" for package in packages]
        command = ("apt-cache", "show", "--no-all-versions", "--", *names)
        try:
            with self._turn():
                self._prepare()
                told = self._apt(command, "ask for the packages' sizes", Attention(_LOCAL))
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
    def _turn(self) -> Iterator[None]:
        """Wait for other processes that use apt in this directory; killed ones keep no lock."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._directory) from error
        with locks.opened(self._directory / "lock") as lock:
            locks.exclusive(lock)
            yield

    def _have(self, package: Package) -> bool:
        try:
            return self.path(package).stat().st_size == package.size
        except FileNotFoundError:
            return False

    # -- apt -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self._ready:
            return
        if shutil.which("apt-get") is None or shutil.which("apt-config") is None:
            raise BuildFailed(
                "images are made from Debian packages, and this machine has no apt-get",
                "Build the images on a Debian or Ubuntu machine (package apt) and copy the store.",
            )
        keyring = next((path for path in KEYRINGS if path.exists()), None)
        if keyring is None:
            raise BuildFailed(
                "Debian's archive keys are missing, without which no package can be trusted",
                "Install them: apt-get install debian-archive-keyring",
            )
        for name in ("lists/partial", "archives/partial", "partial"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        self._downloads.mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        sources = read_sources(Path("/etc/apt")) or FALLBACK
        (self._state / "sources.list").write_text(
            "".join(f"deb [signed-by={keyring}] {uri} {suite} main\n" for uri, suite in sources)
        )
        (self._state / "apt.conf").write_text(self._configuration())
        self._ready = True

    def _configuration(self) -> str:
        environment = dict(os.environ, LC_ALL="C")
        command = ("apt-config", "dump")
        dumped = self._run(command, environment, "read apt's settings", Attention(_LOCAL))
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
            # One of the two caches is enough: the other takes 36 MB to save 50 ms.
            "Dir::Cache::pkgcache": "",
            "Dir::Log": state,
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
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

    def _update(self) -> None:
        self._progress(f"fetching Debian's package lists for {self.architecture}")
        room.check("fetching Debian's package lists", (self._state, LISTS))
        command = ("apt-get", "-qq", "update")
        try:
            self._apt(command, "fetch Debian's package lists", Attention(_REMOTE))
        except BaseException:
            # Half a list is of no use to the next try, and may be what has filled the disk.
            _clear(self._state / "lists" / "partial")
            raise
        self._stamp.touch()

    def _download(self, packages: list[Package]) -> None:
        helper = next((path for path in HELPERS if path.exists()), None)
        if helper is None:
            raise BuildFailed("this machine's apt has no apt-helper", "Install the package apt.")
        partial = self._state / "partial"
        # What an earlier try has left of these is gone on with.
        _clear(partial, keep={package.sha256 for package in packages})
        arguments: list[str] = []
        for package in packages:
            target = partial / package.sha256
            arguments += [package.uri, str(target), f"SHA256:{package.sha256}"]
        seconds = _REMOTE + sum(package.size for package in packages) / _SLOWEST
        try:
            self._apt(
                (str(helper), "download-file", *arguments),
                "download packages",
                Attention(seconds, listen=_Counter(len(packages), self._progress)),
            )
        except BuildFailed as error:
            self._keep_whole(packages)
            if not isinstance(error, SourceUnavailable):
                # What was wrong, or did not fit, is not to be in the way of the next try.
                _clear(partial)
            raise
        finally:
            self._keep_whole(packages)

    def _keep_whole(self, packages: list[Package]) -> None:
        """Keep what has come as a whole, however the others ended; ``open`` checks its digest."""
        for package in packages:
            with suppress(FileNotFoundError):
                found = self._state / "partial" / package.sha256
                if found.stat().st_size == package.size:
                    found.replace(self.path(package))

    def _apt(self, command: Sequence[str], purpose: str, attention: Attention) -> str:
        """Run an apt program with the private configuration and return what it says."""
        environment = {
            **os.environ,
            "APT_CONFIG": str((self._state / "apt.conf").resolve()),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        watched = replace(attention, watch=self._watch)
        done = self._run(command, environment, purpose, watched)
        if done.code:
            output = f"{done.stderr}\n{done.stdout}"
            if "No space left on device" in output:
                raise room.full(self._state)
            raise _failure(purpose, output, self.architecture)
        return done.stdout

    def _run(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        purpose: str,
        attention: Attention,
    ) -> Finished:
        try:
            return run(command, environment, attention)
        except Hung as error:
            raise SourceUnavailable(
                f"cannot {purpose}: {command[0]} {error}, and was ended",
                "Check the network, the Debian mirror and apt's proxy settings, and try again.",
            ) from None

    def _watch(self) -> int:
        """Return how much has come; raises BuildFailed when the disk is full, where apt hangs."""
        room.check_left(self._state)
        come = 0
        for directory in (self._state / "partial", self._state / "lists" / "partial"):
            # Both directories and files come and go while apt is at work.
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        come += entry.stat().st_size
        return come


class _Counter:
    """Reports each of so many packages as it comes."""

    def __init__(self, packages: int, progress: Callable[[str], None]) -> None:
        self._packages = packages
        self._progress = progress
        self._number = 0

    def __call__(self, line: str) -> None:
        if line.startswith("Get:"):
            name = unquote(line.split()[1].rpartition("/")[2])
            # apt tries again what broke off.
            self._number = min(self._number + 1, self._packages)
            self._progress(f"downloading {self._number}/{self._packages} {name}")


def _clear(directory: Path, keep: Collection[str] = ()) -> None:
    for path in directory.glob("*"):
        if path.name not in keep and path.is_file():
            path.unlink(missing_ok=True)


def _parse_uri(line: str) -> Package:
    match = _URI_LINE.match(line)
    name = _FILE_NAME.fullmatch(unquote(match["name"])) if match else None
    if match is None or name is None:
        raise BuildFailed(f"apt names a package without size and SHA-256: {line[:120]}")
    return Package(
        name["name"], name["version"], name["arch"], match["uri"], int(match["size"]), match["sha"]
    )


def _failure(purpose: str, output: str, architecture: str) -> BuildFailed:
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
