"""Credentials for registries, from the files of docker and podman and from credential helpers.

The formats: ``config.json`` of the Docker CLI ("docker login", "Credential stores"), and
containers-auth.json(5), which adds keys for parts of a registry.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from slipway_initramfs.child_process import Hung, Supervision, run_program
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.oci.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slipway_initramfs.oci.reference import Reference

# Limit on a file with credentials, in bytes.
MAX_FILE = 1 << 20
# Time limit of a credential helper in seconds; it may have to ask a person.
HELPER_TIME = 60

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = ("index.docker.io", "registry-1.docker.io")
_HELPER_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_NOT_FOUND = "credentials not found"
_NO_USER = "<token>"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, or an identity token, from the file or helper ``origin``."""

    username: str
    password: str
    identity_token: str
    origin: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, origin={self.origin!r})"

    def basic(self) -> str:
        """Return the value of an ``Authorization`` header (RFC 7617)."""
        both = f"{self.username}:{self.password}".encode(errors="surrogateescape")
        return f"Basic {base64.b64encode(both).decode()}"


def find_credentials(
    reference: Reference, environment: Mapping[str, str] | None = None
) -> Credentials | None:
    """Return the credentials for the registry of ``reference`` from the first file that has them.

    Raises:
        BuildFailed: a file is unreadable or invalid, or a helper fails.
    """
    for path in _list_files(os.environ if environment is None else environment):
        if (fields := _read_file(path)) is not None and (
            found := _find_in_file(path, fields, reference)
        ):
            return found
    return None


def _list_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files in podman's order; an explicitly named file comes first."""
    home = Path(environment.get("HOME") or Path.home())
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    configured = environment.get("XDG_CONFIG_HOME")
    yield (Path(configured) if configured else home / ".config") / "containers" / "auth.json"
    docker = environment.get("DOCKER_CONFIG")
    yield (Path(docker) if docker else home / ".docker") / "config.json"


def _read_file(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BuildFailed(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        _refuse(path, f"it has more than {MAX_FILE >> 20} MiB")
    try:
        fields = json.loads(data or b"{}")
    except RecursionError:
        _refuse(path, "it is nested too deeply")
    except ValueError as error:
        _refuse(path, f"it is not JSON: {str(error)[:80]}")
    if not isinstance(fields, dict):
        _refuse(path, "it is not a JSON object")
    return fields


def _find_in_file(path: Path, fields: dict[str, Any], reference: Reference) -> Credentials | None:
    helpers = _read_mapping(path, fields, "credHelpers")
    names = [helpers[key] for key in _list_keys(reference) if key in helpers]
    helper = names[0] if names else fields.get("credsStore")
    if helper and (found := _ask_helper(path, helper, reference)):
        return found
    auths = _read_mapping(path, fields, "auths")
    by_host = {_parse_host(key): key for key in auths if "://" in key}
    for key in _list_keys(reference):
        key = key if key in auths else by_host.get(key, key)  # noqa: PLW2901
        if key in auths and (found := _read_entry(path, key, auths[key])):
            return found
    return None


def _list_keys(reference: Reference) -> list[str]:
    """Return the keys of a registry in such files: the longest part of its path first."""
    parts = reference.repository.split("/")
    paths = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    keys = [*(f"{reference.registry}/{path}" for path in paths), reference.registry]
    return [*keys, _HUB_KEY, *_HUB_HOSTS] if reference.registry == DOCKER_HUB else keys


def _parse_host(key: str) -> str:
    """Return the host of an address, which old versions of docker used as keys."""
    try:
        return urlsplit(key).netloc.lower()
    except ValueError:
        return ""


def _read_entry(path: Path, key: str, entry: object) -> Credentials | None:
    """Return the credentials in an entry of ``auths``, or None for an empty entry.

    An empty entry refers to a credential store.
    """
    where = f"the entry {key[:80]!r}"
    if not isinstance(entry, dict):
        _refuse(path, f"{where} is not an object")
    names = ("auth", "username", "password", "identitytoken")
    values = [entry.get(name) or "" for name in names]
    if not all(isinstance(value, str) for value in values):
        _refuse(path, f"{where} has a value that is not a string")
    encoded, username, password, token = values
    if encoded:
        try:
            both = base64.b64decode(encoded, validate=True).decode(errors="surrogateescape")
        except (binascii.Error, ValueError):
            _refuse(path, f"the auth of {where} is not base64")
        username, colon, password = both.partition(":")
        if not colon:
            _refuse(path, f"the auth of {where} is not name:password")
        password = password.rstrip("\0")
    return Credentials(username, password, token, str(path)) if username or token else None


def _ask_helper(path: Path, helper: object, reference: Reference) -> Credentials | None:
    """Ask a credential helper (github.com/docker/docker-credential-helpers, "Development")."""
    if not isinstance(helper, str) or not _HELPER_NAME.fullmatch(helper):
        _refuse(path, f"it names the invalid credential helper {str(helper)[:80]!r}")
    program = f"docker-credential-{helper}"
    server = _HUB_KEY if reference.registry == DOCKER_HUB else reference.registry
    try:
        limits = Supervision(HELPER_TIME, HELPER_TIME)
        done = run_program((program, "get"), os.environ, limits, stdin=server.encode())
    except Hung as error:
        raise BuildFailed(f"{program}, which {path} names, took over {HELPER_TIME} s") from error
    except OSError as error:
        raise BuildFailed(
            f"cannot run {program}, which {path} names: {error.strerror}",
            "Install it, or remove its name from that file.",
        ) from error
    said = (done.stdout.strip() or done.stderr.strip())[:200]
    if done.code:
        if _NOT_FOUND in said:
            return None
        raise BuildFailed(f"{program} fails for {server}: {said[:80]!r}")
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, LookupError, TypeError, RecursionError):
        username = secret = None
    # The output is not shown: it may hold the secret.
    if not isinstance(username, str) or not isinstance(secret, str):
        raise BuildFailed(f"the answer of {program} for {server} lacks a name or a secret")
    if username == _NO_USER:
        return Credentials("", "", secret, program)
    return Credentials(username, secret, "", program) if username or secret else None


def _read_mapping(path: Path, fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(path, f"{name} is not an object")
    return value


def _refuse(path: Path, why: str) -> NoReturn:
    raise BuildFailed(
        f"the credentials in {path} cannot be used: {why}", "Repair it, or log in again."
    )
