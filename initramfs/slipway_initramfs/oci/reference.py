"""References: names of images in a registry, a layout or an archive.

The grammar of names, tags and digests is that of the distribution project's reference package
(github.com/distribution/reference), with Docker's defaults for omitted parts.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

from slipway_initramfs.errors import InvalidReference

Transport = Literal["docker", "oci", "docker-archive"]

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"
# Limit on a reference, in characters; equal to that of a path.
MAX_TEXT = 4096
# Limit on the names of registry and repository together, in characters.
MAX_NAME = 255

_HUB_NAMES = {DOCKER_HUB, "index.docker.io", "registry-1.docker.io"}
_HUB_HOST = "registry-1.docker.io"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_COMPONENT = re.compile("[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_FORMS = "Write docker://HOST/NAME:TAG, oci:PATH[:TAG] or docker-archive:PATH[:NAME:TAG]."


@dataclass(frozen=True, slots=True)
class Reference:
    """Name of an image.

    In a registry (``docker``) an image has ``registry`` (host, optional port), ``repository`` and
    ``tag`` or ``digest`` or both; the digest takes precedence. On this machine an image has
    ``path``; ``tag`` is the image's name in it, or empty.
    """

    transport: Transport
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as people write it; without a prefix it names an image in a registry.

        Relative paths become absolute.

        Raises:
            InvalidReference: the text breaks the grammar.
        """
        if not text or len(text) > MAX_TEXT or not text.isprintable():
            _refuse(text, "is empty, too long or not printable", _FORMS)
        for transport, prefix in _PREFIXES.items():
            if text.startswith(prefix):
                return _PARSERS[transport](text, text.removeprefix(prefix))
        if "://" in text:
            _refuse(text, "begins with an unknown transport", _FORMS)
        return _parse_docker(text, text)

    def __str__(self) -> str:
        if self.transport != "docker":
            return f"{self.transport}:{self.path}{':' if self.tag else ''}{self.tag}"
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"docker://{self.registry}/{self.repository}{tag}{digest}"

    @property
    def host(self) -> str:
        """Host and port of the API; Docker Hub's differs from its name."""
        return _HUB_HOST if self.registry == DOCKER_HUB else self.registry

    def pin(self, digest: str) -> Reference:
        """Return a permanent reference to the registry's present image of this name.

        Images on this machine have no names by digest; their references stay as they are.
        """
        return replace(self, digest=digest) if self.transport == "docker" else self


def is_loopback(host: str) -> bool:
    """Check whether the name of a host, with or without a port, means this machine."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _parse_docker(text: str, rest: str) -> Reference:
    name, at, digest = rest.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        _refuse(text, "has a digest that is not sha256: and 64 lower-case hexadecimal digits")
    first, slash, path = name.partition("/")
    if slash and (first == "localhost" or {".", ":", "["}.intersection(first)):
        registry = _check_host(text, first)
    else:
        registry, path = DOCKER_HUB, name
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        _refuse(text, f"has the invalid tag {tag[:80]!r}", "Tags are letters, digits, _, . and -.")
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not all(_COMPONENT.fullmatch(component) for component in path.split("/")):
        _refuse(
            text,
            f"has the invalid repository {path[:80]!r}",
            "Names are lower-case letters and digits, with single ., _, __ or - between them.",
        )
    if len(registry) + 1 + len(path) > MAX_NAME:
        _refuse(text, f"has a name of more than {MAX_NAME} characters")
    return Reference(
        "docker", registry, path, tag or ("" if digest else DEFAULT_TAG), digest=digest
    )


def _check_host(text: str, host: str) -> str:
    found = _HOST.fullmatch(host)
    if found is None or (found["port"] and not 0 < int(found["port"]) < 1 << 16):
        _refuse(text, f"has the invalid registry {host[:80]!r}", "Write HOST or HOST:PORT.")
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1 : host.index("]")])
        except ValueError:
            _refuse(text, f"has the invalid address {host[:80]!r}")
    host = host.lower()
    return DOCKER_HUB if host in _HUB_NAMES else host


def _parse_layout(text: str, rest: str) -> Reference:
    path, tag = _split_local(text, rest)
    return Reference("oci", path=path, tag=tag)


def _parse_archive(text: str, rest: str) -> Reference:
    path, tag = _split_local(text, rest)
    return Reference("docker-archive", path=path, tag=tag)


def _split_local(text: str, rest: str) -> tuple[Path, str]:
    """Split at the first colon, as skopeo does: names of images have colons, paths rarely."""
    path, colon, tag = rest.partition(":")
    if not path:
        _refuse(text, "lacks a path", _FORMS)
    if colon and (not tag or len(tag) > MAX_NAME or " " in tag):
        _refuse(text, f"has the invalid name {tag[:80]!r} after its path")
    absolute = Path(path).absolute()
    if ":" in str(absolute) or not str(absolute).isprintable():
        _refuse(text, f"leads to {str(absolute)[-80:]!r}, a path that a reference cannot hold")
    return absolute, tag


def _refuse(text: str, why: str, hint: str = "") -> NoReturn:
    raise InvalidReference(f"the image reference {text[:80]!r} {why}", hint)


_PREFIXES: dict[Transport, str] = {
    "docker": "docker://",
    "oci": "oci:",
    "docker-archive": "docker-archive:",
}
_PARSERS = {"docker": _parse_docker, "oci": _parse_layout, "docker-archive": _parse_archive}
