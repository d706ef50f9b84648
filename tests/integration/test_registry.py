"""Pulls from Debian's docker-registry, in the usual configurations."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING

import pytest
import trustme

from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError, SourceUnavailable
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.manifests import (
    DOCKER_INDEX,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse_config,
    parse_index,
    parse_manifest,
    read_document,
)
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.oci.registry import Access, Registry
from slipway_initramfs.oci.repository import Descriptor
from slipway_initramfs.oci.retry import RetryPolicy
from support.container_images import ContainerImage, Layer, write_layout
from support.layers import digest
from support.registries import (
    docker_registry,
    docker_registry_with_tokens,
    write_docker_config,
)
from support.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.registries import DockerRegistry

ALICE = {"alice": "open sesame"}
IMPATIENT = RetryPolicy(sleep=lambda _: None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has no credentials yet."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registries")


@pytest.fixture(scope="module")
def layout(directory: Path) -> Path:
    """An index of two architectures, with a layer that takes more than one packet."""
    big = Layer.of_bytes(os.urandom(2_000_000), "none")
    images = [
        ContainerImage((big, Layer.of_bytes(name.encode())), architecture=name)
        for name in ("amd64", "arm64")
    ]
    write_layout(directory / "layout", images)
    return directory / "layout"


@pytest.fixture(scope="module")
def anonymous(registry_programs: None, directory: Path) -> Iterator[DockerRegistry]:
    with docker_registry(directory / "anonymous") as registry:
        yield registry


@pytest.fixture(scope="module")
def image(anonymous: DockerRegistry, layout: Path) -> str:
    """The reference of the image in the anonymous registry; not to be damaged."""
    return anonymous.push(layout, "team/tool:1")


@pytest.fixture
def pull() -> Iterator[Callable[..., Registry]]:
    """Opens repositories that are closed in the end."""
    with ExitStack() as stack:

        def open_registry(reference: str, access: Access = Access()) -> Registry:  # noqa: B008
            registry = Registry(Reference.parse(reference), access, IMPATIENT)
            stack.callback(registry.close)
            return registry

        yield open_registry


def ignore(label: str, done: int, total: int) -> None:
    pass


def manifest_of(registry: Registry) -> Manifest:
    """Return the first image behind an index."""
    document = registry.root()
    parsed = read_document(document)
    if isinstance(parsed, Index):
        parsed = read_document(registry.document(parsed.entries[0].descriptor))
    assert isinstance(parsed, Manifest)
    return parsed


def test_pulls_the_bytes_that_were_pushed(
    pull: Callable[..., Registry], image: str, layout: Path, tmp_path: Path
) -> None:
    registry = pull(image)
    layers = manifest_of(registry).layers

    paths = BlobCache(tmp_path / "layers").fetch_all(layers, registry, ignore)

    blobs = layout / "blobs" / "sha256"
    assert len(paths) == 2
    for path in paths:
        assert path.read_bytes() == (blobs / path.name).read_bytes()


def test_reads_an_index_and_all_behind_it(pull: Callable[..., Registry], image: str) -> None:
    registry = pull(image)

    root = registry.root()
    index = parse_index(root.data)
    manifests = [registry.document(entry.descriptor) for entry in index.entries]
    configs = [registry.document(parse_manifest(document.data).config) for document in manifests]

    assert root.media_type == OCI_INDEX
    assert root.digest == digest(root.data)
    assert [document.media_type for document in manifests] == [OCI_MANIFEST] * 2
    architectures = [parse_config(config.data).platform.architecture for config in configs]
    assert architectures == ["amd64", "arm64"]


def test_a_reference_by_digest_is_read(pull: Callable[..., Registry], image: str) -> None:
    root = pull(image).root()

    pinned = pull(str(Reference.parse(image).pin(root.digest)))

    assert pinned.root() == root


def test_reads_dockers_own_formats(
    pull: Callable[..., Registry], anonymous: DockerRegistry, layout: Path
) -> None:
    registry = pull(anonymous.push(layout, "team/docker:1", docker=True))

    document = registry.root()

    assert document.media_type == DOCKER_INDEX
    assert len(manifest_of(registry).layers) == 2


def test_does_not_ask_a_proxy_for_this_machine(
    pull: Callable[..., Registry], image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    assert pull(image).root().data


@pytest.mark.parametrize("name", ["team/tool:2", "team/other:1", "team/tool@sha256:" + "0" * 64])
def test_a_missing_image_is_reported(
    pull: Callable[..., Registry], anonymous: DockerRegistry, image: str, name: str
) -> None:
    reference = f"docker://{anonymous.host}/{name}"

    with pytest.raises(BuildFailed, match="does not have the manifest of") as caught:
        pull(reference).root()

    assert reference in caught.value.message
    assert "unknown" in caught.value.message
    assert caught.value.hint


# -- damaged on the registry's disk ----------------------------------------------------------------


@pytest.fixture
def damaged_image(
    registry_programs: None, directory: Path, layout: Path, tmp_path: Path
) -> Iterator[tuple[DockerRegistry, str]]:
    """A registry of the test's own, and the reference of an image in it."""
    with docker_registry(tmp_path / "damaged") as registry:
        yield registry, registry.push(layout, "team/tool:1")


def test_refuses_a_blob_that_is_corrupted(
    pull: Callable[..., Registry], damaged_image: tuple[DockerRegistry, str], tmp_path: Path
) -> None:
    registry = pull(damaged_image[1])
    layer = manifest_of(registry).layers[0]
    with damaged_image[0].blob(layer.digest).open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"something else")

    with pytest.raises(ImageCorrupted, match=f"layer {layer.label} comes with the digest"):
        BlobCache(tmp_path / "layers").fetch(layer, registry, ignore)

    assert list((tmp_path / "layers").iterdir()) == []


@pytest.mark.parametrize("change", [-1, 1])
def test_refuses_a_blob_of_another_size(
    pull: Callable[..., Registry],
    damaged_image: tuple[DockerRegistry, str],
    tmp_path: Path,
    change: int,
) -> None:
    registry = pull(damaged_image[1])
    layer = manifest_of(registry).layers[0]
    os.truncate(damaged_image[0].blob(layer.digest), layer.size + change)

    with pytest.raises(ImageCorrupted, match=f"{layer.size + change} bytes in the registry"):
        BlobCache(tmp_path / "layers").fetch(layer, registry, ignore)


def test_says_which_blob_is_missing(
    pull: Callable[..., Registry], damaged_image: tuple[DockerRegistry, str], tmp_path: Path
) -> None:
    registry = pull(damaged_image[1])
    layer = manifest_of(registry).layers[0]
    damaged_image[0].blob(layer.digest).unlink()

    with pytest.raises(BuildFailed, match=f"does not have layer {layer.label}"):
        BlobCache(tmp_path / "layers").fetch(layer, registry, ignore)


def test_refuses_a_document_of_another_size(pull: Callable[..., Registry], image: str) -> None:
    registry = pull(image)
    config = manifest_of(registry).config

    with pytest.raises(ImageCorrupted, match=f"{config.size} bytes instead of {config.size + 1}"):
        registry.document(Descriptor(config.media_type, config.digest, config.size + 1))


def test_refuses_a_manifest_that_is_corrupted(
    pull: Callable[..., Registry], damaged_image: tuple[DockerRegistry, str]
) -> None:
    registry = pull(damaged_image[1])
    blob = damaged_image[0].blob(registry.root().digest)
    blob.write_bytes(blob.read_bytes() + b" ")

    with pytest.raises(ImageError):
        registry.root()


# -- logins ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def basic(
    registry_programs: None, directory: Path, layout: Path
) -> Iterator[tuple[DockerRegistry, str]]:
    with docker_registry(directory / "basic", users=ALICE) as registry:
        yield registry, registry.push(layout, "team/tool:1")


@pytest.fixture(scope="module")
def tokens(
    registry_programs: None, directory: Path, layout: Path
) -> Iterator[tuple[DockerRegistry, str, str]]:
    """A registry, a public image, and a private image."""
    with docker_registry_with_tokens(directory / "tokens", ALICE) as registry:
        public = registry.push(layout, "public/tool:1")
        yield registry, public, registry.push(layout, "private/tool:1")


def test_logs_in_by_basic_authentication(
    pull: Callable[..., Registry], basic: tuple[DockerRegistry, str], home: Path
) -> None:
    write_docker_config(home / ".docker", basic[0].host, ("alice", ALICE["alice"]))

    assert len(manifest_of(pull(basic[1])).layers) == 2


def test_says_that_a_login_is_needed(
    pull: Callable[..., Registry], basic: tuple[DockerRegistry, str]
) -> None:
    with pytest.raises(BuildFailed, match=r"401 Unauthorized: UNAUTHORIZED: auth") as caught:
        pull(basic[1]).root()

    assert f"docker login {basic[0].host}" in caught.value.hint


def test_names_the_file_of_a_wrong_password(
    pull: Callable[..., Registry], basic: tuple[DockerRegistry, str], home: Path
) -> None:
    path = write_docker_config(home / ".docker", basic[0].host, ("alice", "open wheat"))

    with pytest.raises(BuildFailed, match="401 Unauthorized") as caught:
        pull(basic[1]).root()

    assert str(path) in caught.value.message
    assert "wheat" not in str(caught.value)


def test_pulls_with_an_anonymous_token(
    pull: Callable[..., Registry], tokens: tuple[DockerRegistry, str, str], tmp_path: Path
) -> None:
    registry = pull(tokens[1])
    layers = manifest_of(registry).layers

    paths = BlobCache(tmp_path / "layers").fetch_all(layers, registry, ignore)

    assert [path.stat().st_size for path in paths] == [layer.size for layer in layers]


def test_pulls_with_a_token_for_name_and_password(
    pull: Callable[..., Registry], tokens: tuple[DockerRegistry, str, str], home: Path
) -> None:
    write_docker_config(home / ".docker", tokens[0].host, ("alice", ALICE["alice"]))

    assert len(manifest_of(pull(tokens[2])).layers) == 2


def test_pulls_with_a_token_for_an_identity(
    pull: Callable[..., Registry], tokens: tuple[DockerRegistry, str, str], home: Path
) -> None:
    path = write_docker_config(home / ".docker", tokens[0].host, ("<token>", ""))
    auths = {tokens[0].host: {"identitytoken": "identity-alice"}}
    path.write_text(json.dumps({"auths": auths}))

    assert len(manifest_of(pull(tokens[2])).layers) == 2


def test_says_that_an_anonymous_token_does_not_do(
    pull: Callable[..., Registry], tokens: tuple[DockerRegistry, str, str]
) -> None:
    with pytest.raises(BuildFailed, match="401 Unauthorized") as caught:
        pull(tokens[2]).root()

    assert "docker login" in caught.value.hint


def test_says_that_the_token_server_refuses_a_password(
    pull: Callable[..., Registry], tokens: tuple[DockerRegistry, str, str], home: Path
) -> None:
    path = write_docker_config(home / ".docker", tokens[0].host, ("alice", "open wheat"))

    with pytest.raises(BuildFailed, match=r"its token server .* answers 401 .*who\?") as caught:
        pull(tokens[2]).root()

    assert str(path) in caught.value.message


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(
    registry_programs: None, directory: Path, layout: Path
) -> Iterator[tuple[DockerRegistry, str]]:
    with docker_registry(directory / "tls", ca=trustme.CA()) as registry:
        yield registry, registry.push(layout, "team/tool:1")


def test_trusts_the_authority_that_is_named(
    pull: Callable[..., Registry], tls: tuple[DockerRegistry, str]
) -> None:
    registry = pull(tls[1], Access(ca=tls[0].ca))

    assert len(manifest_of(registry).layers) == 2


def test_trusts_the_authority_of_the_environment(
    pull: Callable[..., Registry], tls: tuple[DockerRegistry, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[0].ca))

    assert len(manifest_of(pull(tls[1])).layers) == 2


@pytest.mark.parametrize("insecure", [False, True])
def test_does_not_trust_any_other(
    pull: Callable[..., Registry], tls: tuple[DockerRegistry, str], insecure: bool
) -> None:
    with pytest.raises(BuildFailed, match=r"certificate of .* is not trusted") as caught:
        pull(tls[1], Access(insecure=insecure)).root()

    assert "--ca" in caught.value.hint
    assert not isinstance(caught.value, SourceUnavailable)


# -- connections that break ------------------------------------------------------------------------


@dataclass(slots=True)
class Line:
    """A way to a server that breaks each connection after ``budget`` bytes of answers."""

    host: str
    budget: int
    given: int = 0
    connections: list[socket.socket] = field(default_factory=list)


@contextmanager
def breaking_line(target: str, budget: int) -> Iterator[Line]:
    address, _, port = target.partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    line = Line(f"127.0.0.1:{listener.getsockname()[1]}", budget)

    def relay(source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        try:
            while data := source.recv(65536 if budget is None else min(65536, budget)):
                if budget is not None:
                    line.given += len(data)
                    budget -= len(data)
                sink.sendall(data)
                if budget == 0:
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection((address, int(port)))
            line.connections += [near, far]
            Thread(target=relay, args=(near, far, None), daemon=True).start()
            Thread(target=relay, args=(far, near, line.budget), daemon=True).start()

    Thread(target=accept, daemon=True).start()
    try:
        yield line
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in line.connections:
            connection.close()


def test_goes_on_where_a_connection_broke(
    pull: Callable[..., Registry], anonymous: DockerRegistry, image: str, tmp_path: Path
) -> None:
    with breaking_line(anonymous.host, 300_000) as line:
        registry = pull(image.replace(anonymous.host, line.host))
        layer = manifest_of(registry).layers[0]

        path = BlobCache(tmp_path / "layers").fetch(layer, registry, ignore)

    assert digest(path.read_bytes()) == layer.digest
    assert len(line.connections) > 2 * 6
    assert line.given < layer.size + 200_000


def test_a_dead_connection_is_given_up(
    pull: Callable[..., Registry], anonymous: DockerRegistry, image: str
) -> None:
    with breaking_line(anonymous.host, 100) as line:
        registry = pull(image.replace(anonymous.host, line.host))

        with pytest.raises(SourceUnavailable, match=r"the exchange with .* broke"):
            registry.root()


PULL = """
import sys
from pathlib import Path
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.oci.registry import Access, Registry
from slipway_initramfs.oci.repository import Descriptor

def tell(label, done, total):
    print(done, flush=True)
    if pause and done < total:
        sys.stdin.read()

directory, reference, digest, size, pause = sys.argv[1:]
registry = Registry(Reference.parse(reference), Access())
BlobCache(Path(directory)).fetch(Descriptor("", digest, int(size)), registry, tell)
"""


def start_pull(
    cache: Path, image: str, layer: Descriptor, pause: str = ""
) -> subprocess.Popen[bytes]:
    arguments = (str(cache), image, layer.digest, str(layer.size), pause)
    return subprocess.Popen(
        (sys.executable, "-c", PULL, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_killed_pull_is_taken_up_again(
    pull: Callable[..., Registry], anonymous: DockerRegistry, image: str, tmp_path: Path
) -> None:
    cache = tmp_path / "layers"
    layer = manifest_of(pull(image)).layers[0]
    with start_pull(cache, image, layer, pause="pause") as process:
        assert process.stdout is not None
        came = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    (partial,) = cache.iterdir()
    kept = partial.stat().st_size

    with breaking_line(anonymous.host, 10_000_000) as line:
        path = BlobCache(cache).fetch(layer, pull(image.replace(anonymous.host, line.host)), ignore)

    assert kept >= came > 0
    assert list(cache.iterdir()) == [path]
    assert digest(path.read_bytes()) == layer.digest
    assert line.given < layer.size - kept + 10_000


def test_two_processes_share_one_transfer(
    pull: Callable[..., Registry], anonymous: DockerRegistry, image: str, tmp_path: Path
) -> None:
    cache = tmp_path / "layers"
    layer = manifest_of(pull(image)).layers[0]
    with breaking_line(anonymous.host, 10_000_000) as line:
        through = image.replace(anonymous.host, line.host)
        with start_pull(cache, through, layer) as one, start_pull(cache, through, layer) as other:
            codes = [process.wait(LIMIT) for process in (one, other)]

    assert codes == [0, 0]
    assert [path.stat().st_size for path in cache.iterdir()] == [layer.size]
    assert line.given < layer.size + 100_000
