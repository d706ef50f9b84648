from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.oci import credentials
from slipway_initramfs.oci.credentials import Credentials, find_credentials
from slipway_initramfs.oci.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

HOST = "registry.example:5000"
IMAGE = Reference.parse(f"{HOST}/team/tool")
HUB = Reference.parse("rust")


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def login(text: str) -> dict[str, Any]:
    return {"auth": encode(text)}


class Home:
    """A user's files, and no others."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"HOME": str(directory)}

    def write(self, name: str, content: object) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def docker(self, **content: Any) -> Path:
        return self.write(".docker/config.json", content)

    def find(self, reference: Reference = IMAGE) -> tuple[str, str, str] | None:
        found = find_credentials(reference, self.environment)
        return (found.username, found.password, found.identity_token) if found else None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper named ``test``, a program that is still to be written."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return programs / "docker-credential-test"


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_files_there_are_no_credentials(home: Home) -> None:
    assert home.find() is None


def test_credentials_of_docker_login_are_used(home: Home) -> None:
    home.docker(auths={HOST: login("alice:pass:word"), "other.example": login("eve:x")})

    assert home.find() == ("alice", "pass:word", "")


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "docker.io/library"]
)
def test_knows_docker_hub_by_all_its_names(home: Home, key: str) -> None:
    home.docker(auths={key: login("alice:x")})

    assert home.find(HUB) == ("alice", "x", "")


def test_knows_a_host_by_the_addresses_of_old(home: Home) -> None:
    home.docker(auths={f"https://{HOST}/v1/": login("alice:x")})

    assert home.find() == ("alice", "x", "")


@pytest.mark.parametrize("key", ["registry.example", "example:5000", f"{HOST}/te", f"{HOST}0"])
def test_takes_no_credentials_of_another_place(home: Home, key: str) -> None:
    home.docker(auths={key: login("alice:x")})

    assert home.find() is None


def test_prefers_the_closest_part_of_a_registry(home: Home) -> None:
    home.docker(
        auths={HOST: login("all:x"), f"{HOST}/team": login("team:x"), f"{HOST}/t": login("t:x")}
    )

    assert home.find() == ("team", "x", "")


def test_takes_name_and_password_that_are_not_encoded(home: Home) -> None:
    home.docker(auths={HOST: {"username": "alice", "password": "x"}})

    assert home.find() == ("alice", "x", "")


def test_takes_an_identity_token(home: Home) -> None:
    home.docker(auths={HOST: {**login("alice:"), "identitytoken": "secret"}})

    assert home.find() == ("alice", "", "secret")


def test_looks_into_the_named_file_then_podmans_then_dockers(home: Home) -> None:
    named = home.write("named.json", {"auths": {HOST: login("named:x")}})
    runtime = home.write("run/containers/auth.json", {"auths": {HOST: login("runtime:x")}})
    podman = home.write(".config/containers/auth.json", {"auths": {HOST: login("podman:x")}})
    docker = home.write("docker/config.json", {"auths": {HOST: login("docker:x")}})
    home.environment |= {
        "REGISTRY_AUTH_FILE": str(named),
        "XDG_RUNTIME_DIR": str(home.directory / "run"),
        "DOCKER_CONFIG": str(docker.parent),
    }
    found = []

    for path in (named, runtime, podman, docker):
        found.append(home.find())
        path.unlink()

    assert [who and who[0] for who in found] == ["named", "runtime", "podman", "docker"]
    assert home.find() is None


def test_the_next_file_is_read_if_a_file_lacks_the_registry(home: Home) -> None:
    home.write(".config/containers/auth.json", {"auths": {"other.example": login("eve:x")}})
    home.docker(auths={HOST: login("alice:x")})

    assert home.find() == ("alice", "x", "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not a JSON object"),
        ({"auths": []}, "auths is not an object"),
        ({"credHelpers": 1}, "credHelpers is not an object"),
        ({"auths": {HOST: 1}}, "is not an object"),
        ({"auths": {HOST: {"auth": 1}}}, "not a string"),
        ({"auths": {HOST: {"auth": "*"}}}, "not base64"),
        ({"auths": {HOST: login("alice")}}, "not name:password"),
        ({"credsStore": "../../evil"}, "invalid credential helper"),
        ({"credsStore": 7}, "invalid credential helper"),
        (" " * (credentials.MAX_FILE + 1), "more than 1 MiB"),
    ],
)
def test_names_the_file_that_is_wrong(home: Home, content: object, complaint: str) -> None:
    path = home.write(".docker/config.json", content)

    with pytest.raises(BuildFailed, match=complaint) as caught:
        home.find()

    assert str(path) in caught.value.message


def test_names_the_file_that_cannot_be_read(home: Home) -> None:
    path = home.directory / ".docker" / "config.json"
    path.mkdir(parents=True)

    with pytest.raises(BuildFailed, match=f"cannot read {path}"):
        home.find()


def test_does_not_show_a_password(home: Home) -> None:
    home.docker(auths={HOST: login("alice:hush")})

    found = find_credentials(IMAGE, home.environment)

    assert "hush" not in repr(found)


def test_asks_the_helper_of_the_registry(home: Home, helper: Path) -> None:
    write_program(helper, 'echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"$(cat)\\"}"')
    home.docker(credHelpers={HOST: "test"}, credsStore="missing")

    assert home.find() == ("get", HOST, "")


def test_asks_the_store_for_docker_hub_by_its_old_address(home: Home, helper: Path) -> None:
    write_program(helper, 'echo "{\\"Username\\": \\"alice\\", \\"Secret\\": \\"$(cat)\\"}"')
    home.docker(credsStore="test")

    assert home.find(HUB) == ("alice", "https://index.docker.io/v1/", "")


def test_takes_an_identity_token_from_a_helper(home: Home, helper: Path) -> None:
    write_program(helper, 'echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"secret\\"}"')
    home.docker(credsStore="test")

    assert home.find() == ("", "", "secret")


def test_the_files_entry_is_used_if_the_helper_lacks_the_registry(home: Home, helper: Path) -> None:
    write_program(helper, "echo credentials not found in native keychain; exit 1")
    home.docker(credsStore="test", auths={HOST: login("alice:x")})

    assert home.find() == ("alice", "x", "")


def test_an_empty_entry_of_a_credential_store_is_ignored(home: Home, helper: Path) -> None:
    write_program(helper, "echo credentials not found in native keychain; exit 1")
    home.docker(credsStore="test", auths={HOST: {}})

    assert home.find() is None


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo the keychain is locked; exit 1", "fails for .*the keychain is locked"),
        ("echo hush", "lacks a name or a secret"),
        ('echo "{\\"Username\\": \\"hush\\"}"', "lacks a name or a secret"),
        ('echo "[]"', "lacks a name or a secret"),
    ],
)
def test_failures_of_a_helper_are_reported(
    home: Home, helper: Path, script: str, complaint: str
) -> None:
    write_program(helper, script)
    home.docker(credsStore="test")

    with pytest.raises(BuildFailed, match=complaint) as caught:
        home.find()

    assert "docker-credential-test" in caught.value.message
    assert "hush" not in caught.value.message


def test_says_which_helper_is_missing(home: Home) -> None:
    path = home.docker(credsStore="missing")

    with pytest.raises(BuildFailed, match=f"cannot run docker-credential-missing, which {path}"):
        home.find()


def test_does_not_wait_for_a_helper_for_ever(
    home: Home, helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(helper, "exec sleep 1000")
    monkeypatch.setattr(credentials, "HELPER_TIME", 0.2)
    home.docker(credsStore="test")

    with pytest.raises(BuildFailed, match=r"took over 0\.2 s"):
        home.find()


def test_encodes_name_and_password() -> None:
    found = Credentials("Aladdin", "open sesame", "", "RFC 7617")

    assert found.basic() == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
