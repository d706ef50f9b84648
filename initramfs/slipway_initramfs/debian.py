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
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from slipway_initramfs import locks
from slipway_initramfs.archives import unpack
from slipway_initramfs.errors import BuildFailed, ImageCorrupted
from slipway_initramfs.process import die_with_parent
from slipway_initramfs.spool import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from slipway_initramfs.spool import Spool

RELEASE = "bookworm"
"""The Debian release that images are made of, whatever the machine itself runs."""
ARCHITECTURES = ("amd64", "arm64")
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
INDEX_AGE = 24 * 3600
"""Seconds after which the package lists are fetched anew."""
HELPERS = (Path("/usr/lib/apt/apt-helper"),)

_SUITES = (RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security")
_FALLBACK = (
    ("http://deb.debian.org/debian", RELEASE),
    ("http://deb.debian.org/debian", f"{RELEASE}-updates"),
    ("http://deb.debian.org/debian-security", f"{RELEASE}-security"),
)
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
        output = self._apt(("apt-get", *options, "--", *names), "resolve the packages")
        return tuple(_parse_uri(line) for line in output.splitlines() if line.startswith("'"))

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
        for leftover in (self._state / "partial").iterdir():
            leftover.unlink()
        (self._state / "status").touch()
        sources = _read_sources(Path("/etc/apt")) or _FALLBACK
        (self._state / "sources.list").write_text(
            "".join(f"deb [signed-by={keyring}] {uri} {suite} main\n" for uri, suite in sources)
        )
        (self._state / "apt.conf").write_text(self._configuration())
        self._ready = True

    def _configuration(self) -> str:
        dumped = self._run(("apt-config", "dump"), dict(os.environ, LC_ALL="C"))
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
        self._apt(("apt-get", "-qq", "update"), "fetch Debian's package lists")
        self._stamp.touch()

    def _download(self, packages: list[Package]) -> None:
        helper = next((path for path in HELPERS if path.exists()), None)
        if helper is None:
            raise BuildFailed("this machine's apt has no apt-helper", "Install the package apt.")
        partial = self._state / "partial"
        arguments: list[str] = []
        for package in packages:
            target = partial / package.sha256
            arguments += [package.uri, str(target), f"SHA256:{package.sha256}"]
        self._apt(
            (str(helper), "download-file", *arguments), "download packages", follow=len(packages)
        )
        for package in packages:
            (partial / package.sha256).replace(self.path(package))

    def _apt(self, command: Sequence[str], purpose: str, *, follow: int = 0) -> str:
        """Run an apt program with the private configuration and return what it says.

        ``follow`` is how many packages it downloads, each of which is reported.
        """
        environment = {
            **os.environ,
            "APT_CONFIG": str((self._state / "apt.conf").resolve()),
            "LC_ALL": "C",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        done = self._run(command, environment, follow=follow)
        if done.returncode:
            raise _failure(purpose, done.stderr or done.stdout, self.architecture)
        return done.stdout

    def _run(
        self, command: Sequence[str], environment: dict[str, str], *, follow: int = 0
    ) -> subprocess.CompletedProcess[str]:
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if follow else subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  (ctypes is loaded before the fork)
        ) as process:
            if not follow:
                stdout, stderr = process.communicate()
            else:
                stdout, stderr = self._follow(process, follow), ""
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _follow(self, process: subprocess.Popen[str], packages: int) -> str:
        """Report each of the ``packages`` as it comes; return the lines that are worth keeping."""
        kept: list[str] = []
        number = 0
        for line in process.stdout or ():
            if line.startswith("Get:"):
                name = unquote(line.split()[1].rpartition("/")[2])
                number = min(number + 1, packages)  # apt tries again what broke off
                self._progress(f"downloading {number}/{packages} {name}")
            elif len(kept) < 100:
                kept.append(line)
        return "".join(kept)


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
    if "No space left on device" in output:
        return BuildFailed(
            f"cannot {purpose}: no space left on the store's disk",
            "Free some space, or choose another place with --store.",
        )
    if _NO_NETWORK.search(output):
        return BuildFailed(
            f"cannot {purpose}: no connection to the Debian mirror ({text[:160]})",
            "Check the network and apt's proxy settings.",
        )
    return BuildFailed(f"cannot {purpose}: {text[:400]}")


def _read_sources(directory: Path) -> tuple[tuple[str, str], ...]:
    """Return (URI, suite) of the Debian mirrors that the machine uses for RELEASE."""
    found: list[tuple[str, str]] = []
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            found += _parse_deb822(text)
        elif path.suffix == ".list":
            found += _parse_one_line(text)
    chosen = tuple(dict.fromkeys(pair for pair in found if _is_debian(*pair)))
    return chosen if any(suite == RELEASE for _, suite in chosen) else ()


def _parse_deb822(text: str) -> list[tuple[str, str]]:
    found = []
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {
            key.lower(): value
            for key, _, value in (line.partition(":") for line in stanza.splitlines())
        }
        words = {key: value.split() for key, value in fields.items()}
        if (
            "deb" in words.get("types", [])
            and "main" in words.get("components", [])
            and words.get("enabled", ["yes"]) != ["no"]
            and "debian" in fields.get("signed-by", "debian")
        ):
            found += [(uri, suite) for uri in words.get("uris", []) for suite in words["suites"]]
    return found


def _parse_one_line(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if match is None or "main" not in match[4].partition("#")[0].split():
            continue
        if "signed-by=" not in (match["options"] or "") or "debian" in match["options"]:
            found.append((match[2], match[3]))
    return found


def _is_debian(uri: str, suite: str) -> bool:
    """Whether this looks like a mirror of Debian itself.

    The signature decides in the end; but a third party's repository would make the update fail.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    last = parts.path.rstrip("/").rpartition("/")[2]
    official = (parts.hostname or "").endswith(".debian.org")
    return (
        suite.rstrip("/") in _SUITES
        and parts.scheme in ("http", "https")
        and (official or last.startswith("debian"))
        and not re.search(r"[\s\"'\[\]]", uri)
    )
