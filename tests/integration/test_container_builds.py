"""Images made from container images by ``slipway image build``, from a real registry."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.build import build_image
from slipway_initramfs.compression.compressors import unpack_lz4
from slipway_initramfs.languages import catalogue
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.source import SourceOptions, choose_source
from slipway_initramfs.store.garbage_collection import prune, remove_image
from slipway_initramfs.store.image_store import ImageStore
from support.container_images import ContainerImage, Layer, write_layout
from support.host_programs import need_program
from support.newc import unpack
from support.registries import docker_registry
from support.waiting import block_until, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway_initramfs.store.records import Image
    from support.commands import Commands, Ended
    from support.layer_writer import LayerWriter
    from support.registries import DockerRegistry

pytestmark = [pytest.mark.debian("busybox", "docker-registry", "skopeo"), pytest.mark.timeout(300)]

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "20"))
MAX_ROOT = 1 << 28
NOISE = random.Random(4).randbytes(6 << 20)
"""What no compressor makes smaller: a download that takes a moment."""
ASH = """
name = "ash"
suffixes = [".ash"]
source = "main.ash"
run = { command = ["sh", "main.ash"] }

[image]
workload = 32
tools = false

[image.registry]
reference = "toys/ash:{version}"
version = "1"
"""
WARM = """
[image.registry.warm]
command = ["sh", "-c", "mkdir -p opt; id -u > opt/warm; tar c opt > warm.tar"]
unless = "opt/warm"
"""


def of_files(compression: str = "gzip", /, **files: bytes | str) -> Layer:
    """A layer with these files, ``__`` in a name for ``/``."""

    def fill(layer: LayerWriter) -> None:
        for name, content in files.items():
            layer.file(name.replace("__", "/"), content)

    return Layer.of_members(fill, compression)


def shell() -> Layer:
    """A root with busybox, like Alpine's base layer."""
    busybox = need_program("busybox")

    def fill(layer: LayerWriter) -> None:
        layer.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
        for applet in ("sh", "cat", "echo", "env", "id", "ls", "mkdir", "tar"):
            layer.symlink(f"bin/{applet}", "busybox")
        # What JavaScript's commands begin with; it is not run.
        layer.symlink("bin/node", "busybox")
        layer.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nsomebody:x:1000:1000::/:/bin/sh\n")
        layer.file("etc/old", "old")

    return Layer.of_members(fill)


def changes(compression: str) -> Layer:
    """A layer that removes a file of a lower layer and adds another."""

    def fill(layer: LayerWriter) -> None:
        layer.whiteout("etc/old")
        layer.file("etc/new", "new")

    return Layer.of_members(fill, compression)


def ash(*more: Layer, compression: str = "gzip") -> ContainerImage:
    return ContainerImage(
        (shell(), changes(compression), *more),
        environment=("PATH=/usr/local/bin:/bin", "COLOUR=blue", "HOME=/nowhere"),
        working_directory="/srv",
        user="somebody",
    )


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with the image ``toys/ash`` in the versions 1 and 2, and for another machine."""
    directory = tmp_path_factory.mktemp("layout")
    arm = ContainerImage(
        (of_files(etc__machine="arm"), shell()), architecture="arm64", variant="v8"
    )
    write_layout(directory, [ash(of_files("none", opt__noise=NOISE), compression="zstd"), arm], "1")
    write_layout(directory, [ash(of_files(etc__version="2"))], "2")
    return directory


# Of this module and no longer: other tests look for processes that were left.
@pytest.fixture(scope="module")
def registry(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        for tag in ("1", "2"):
            running.push(f"oci:{layout}:{tag}", f"toys/ash:{tag}")
        yield running


@pytest.fixture
def language_file(tmp_path: Path) -> Path:
    path = tmp_path / "ash.toml"
    path.write_text(ASH)
    return path


@pytest.fixture
def build(commands: Commands, store: ImageStore) -> Callable[..., Ended]:
    """Runs ``slipway image build`` on the test's store, which has a kernel and an agent."""

    def run(*arguments: str | Path) -> Ended:
        where = ("--no-snapshot", "--store", store.root)
        ended = commands("slipway", "image", "build", *where, *arguments)
        assert "Traceback" not in ended.stderr
        return ended

    return run


def image_of(store: ImageStore, name: str, architecture: str = "amd64") -> Image:
    image = store.image(name, architecture)
    assert image is not None
    image.verify()
    return image


def read_archive(image: Image) -> dict[str, tuple[int, bytes]]:
    return unpack(unpack_lz4(image.root_archive.read_bytes(), MAX_ROOT))


# --- What is made ----------------------------------------------------------------------------


def test_an_added_language_is_built_from_a_registry_and_runs(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    registry: DockerRegistry,
    language_file: Path,
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.ash"
    program.write_text(
        "echo $COLOUR $SLIPWAY_IMAGE_WORKDIR $SLIPWAY_IMAGE_USER; ls /etc; pwd; id -un"
    )

    built = build(
        "--from", f"docker://{registry.host}/toys/ash:2", "--language-file", language_file
    )
    ran = commands("vmm-run", "--store", store.root, program)

    assert built.code == 0
    assert f"ash: from docker://{registry.host}/toys/ash:2 (as named)" in built.stderr
    words = ran.stdout.decode().split()
    assert words[:3] == ["blue", "/srv", "somebody"]
    assert {"new", "version", "hosts", "resolv.conf"} <= set(words)
    assert "old" not in words
    assert words[-2:] == ["/work", "runner"]
    assert commands.leftovers() == []


def test_the_same_reference_gives_the_same_bytes(
    commands: Commands,
    pristine_store: Path,
    registry: DockerRegistry,
    language_file: Path,
    tmp_path: Path,
) -> None:
    images = []
    for name in ("first", "second"):
        store = ImageStore(shutil.copytree(pristine_store, tmp_path / name))
        source = f"docker://{registry.host}/toys/ash:1"
        arguments = ("--no-snapshot", "--from", source, "--language-file")
        commands("slipway", "image", "build", "--store", store.root, *arguments, language_file)
        images.append(image_of(store, "ash"))

    first, second = images
    assert first.digest == second.digest
    assert first.root_archive.read_bytes() == second.root_archive.read_bytes()


@pytest.mark.parametrize("form", ["layout", "layout-tar", "archive"])
def test_local_forms_of_an_image_give_the_same_root_as_the_registry(
    build: Callable[..., Ended],
    store: ImageStore,
    registry: DockerRegistry,
    layout: Path,
    language_file: Path,
    tmp_path: Path,
    form: str,
) -> None:
    build("--from", f"docker://{registry.host}/toys/ash:2", "--language-file", language_file)
    expected = image_of(store, "ash")
    reference = f"oci:{layout}:2"
    if form == "layout-tar":
        subprocess.run(["tar", "cf", tmp_path / "layout.tar", "-C", layout, "."], check=True)
        reference = f"oci:{tmp_path}/layout.tar:2"
    elif form == "archive":
        target = f"docker-archive:{tmp_path}/saved.tar:toys/ash:2"
        command = ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:2", target]
        subprocess.run(command, check=True)
        reference = f"docker-archive:{tmp_path}/saved.tar"

    ended = build("--from", reference, "--language-file", language_file, "--name", "other")

    assert ended.code == 0, ended.stderr
    assert image_of(store, "other").root.digest == expected.root.digest


def test_an_index_is_asked_for_the_machine_that_is_wanted(
    new_store: Callable[[], ImageStore], registry: DockerRegistry, language_file: Path
) -> None:
    store = new_store()
    reference = Reference.parse(f"docker://{registry.host}/toys/ash:1")

    build_image(
        catalogue.load_language(language_file),
        store,
        SourceOptions(reference=reference, architecture="arm64"),
    )

    assert read_archive(image_of(store, "ash", "arm64"))["etc/machine"][1] == b"arm"


def test_where_an_image_comes_from_can_be_inspected(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    registry: DockerRegistry,
    language_file: Path,
) -> None:
    build("--from", f"docker://{registry.host}/toys/ash:1", "--language-file", language_file)

    inspected = commands("slipway", "image", "inspect", "--store", store.root, "ash")

    record = json.loads(inspected.stdout)
    source = record["source"]
    assert source["requested"] == f"docker://{registry.host}/toys/ash:1"
    assert source["digest"].startswith("sha256:")
    assert source["index"] != source["digest"]
    assert source["created"] == "2023-11-14T22:13:20Z"
    assert record["built"][:4].isdigit()
    assert [layer["size"] > 0 for layer in record["layers"]] == [True] * 3
    assert record["trimmed"] >= 0
    assert record["minimum_memory"] > record["root"]


def test_layers_that_images_share_are_fetched_once(
    build: Callable[..., Ended], store: ImageStore, registry: DockerRegistry, language_file: Path
) -> None:
    reference = f"docker://{registry.host}/toys/ash"
    build("--from", f"{reference}:1", "--language-file", language_file)
    before = {path.name for path in store.layers.iterdir()}
    build("--from", f"{reference}:2", "--language-file", language_file, "--name", "two")

    layers = [{layer["digest"] for layer in image_of(store, name).manifest["layers"]}
              for name in ("ash", "two")]  # fmt: skip
    new = {path.name for path in store.layers.iterdir()} - before
    assert len(layers[0] & layers[1]) == 1
    assert {name for name in new if len(name) == 64} == {
        digest.removeprefix("sha256:") for digest in layers[1] - layers[0]
    }


def test_prune_removes_the_layers_and_leaves_the_images(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    registry: DockerRegistry,
    language_file: Path,
) -> None:
    build("--from", f"docker://{registry.host}/toys/ash:1", "--language-file", language_file)

    pruned = commands("slipway", "image", "prune", "--store", store.root)

    assert pruned.code == 0
    assert list(store.layers.iterdir()) == []
    image_of(store, "ash")


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_a_guest_boots_from_each_compression(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    layout: Path,
    language_file: Path,
    tmp_path: Path,
    compression: str,
) -> None:
    program = tmp_path / "program.ash"
    program.write_text("cat /etc/version")
    asked = ("--from", f"oci:{layout}:2", "--language-file", language_file)

    built = build(*asked, "--compression", compression)
    ran = commands("vmm-run", "--store", store.root, program)

    assert built.code == 0, built.stderr
    assert image_of(store, "ash").manifest["archive"]["compression"] == compression
    assert (ran.code, ran.stdout) == (0, b"2"), ran.stderr


def test_a_terminal_shows_a_bar_for_each_layer(
    commands: Commands, store: ImageStore, registry: DockerRegistry, language_file: Path
) -> None:
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)

    with commands.start(
        "slipway", "image", "build", "--no-snapshot", "--store", store.root,
        "--from", f"docker://{registry.host}/toys/ash:1",
        "--language-file", language_file, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while process.poll() is None:
            select.select([ours], [], [], 0.1)
            with suppress(OSError):  # nothing there, or the other side has been closed
                shown += os.read(ours, 1 << 16)
    os.close(ours)

    assert process.returncode == 0, shown.decode()
    layers = [layer["digest"][7:19] for layer in image_of(store, "ash").manifest["layers"]]
    assert [f"layer {layer}" in shown.decode() for layer in layers] == [True] * 3


# --- Which source ----------------------------------------------------------------------------


def test_the_registry_is_asked_before_debian(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    apt: Path,
    layout: Path,
    registry: DockerRegistry,
) -> None:
    del commands.environment["SLIPWAY_SOURCE"]
    commands.environment["SLIPWAY_REGISTRY"] = registry.host
    registry.push(f"oci:{layout}:2", "library/node:22-slim")
    store.apt.symlink_to(apt)

    ended = build("javascript")

    assert ended.code == 0, ended.stderr
    assert f"javascript: from docker://{registry.host}/library/node:22-slim" in ended.stderr
    assert "its registry answers" in ended.stderr
    assert image_of(store, "javascript").source["kind"] == "registry"


@pytest.mark.parametrize(("emulated", "kind"), [(False, "registry"), (True, "debian")])
def test_emulated_hosts_build_slow_languages_from_debian(
    new_store: Callable[[], ImageStore],
    layout: Path,
    registry: DockerRegistry,
    emulated: bool,
    kind: str,
) -> None:
    registry.push(f"oci:{layout}:2", "library/golang:1-alpine")
    choices = SourceOptions(registry=registry.host, emulated=emulated)
    told: list[str] = []

    source = choose_source(
        catalogue.find_language("go"),
        new_store(),
        choices,
        "amd64",
        None,
        BuildProgress(notice=told.append),
    )
    source.close()

    assert source.kind == kind
    assert ("emulated machine" in told[0]) == emulated


def test_debian_stands_in_for_a_registry_that_does_not_answer(
    build: Callable[..., Ended], commands: Commands, store: ImageStore, apt: Path
) -> None:
    del commands.environment["SLIPWAY_SOURCE"]
    commands.environment["SLIPWAY_REGISTRY"] = "127.0.0.1:1"
    shutil.rmtree(store.apt, ignore_errors=True)
    store.apt.symlink_to(apt)
    remove_image(store, "bash")

    ended = build("bash")

    assert ended.code == 0, ended.stderr
    assert "bash: from Debian's packages (cannot connect to 127.0.0.1:1" in ended.stderr
    assert image_of(store, "bash").source["kind"] == "debian"


def test_a_registry_that_is_forced_is_not_stood_in_for(
    build: Callable[..., Ended], store: ImageStore
) -> None:
    ended = build("--source", "registry", "--registry", "127.0.0.1:1", "bash@5.0")

    assert ended.code == 125
    assert "127.0.0.1:1" in ended.stderr
    assert store.image("bash@5.0") is None


def test_versions_of_a_language_are_run_side_by_side(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    registry: DockerRegistry,
    layout: Path,
    language_file: Path,
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.ash"
    program.write_text("cat /etc/version || echo none")
    build("--from", f"oci:{layout}:1", "--language-file", language_file)
    asked = ("--registry", registry.host, "--source", "registry")

    built = build(*asked, "ash@2")
    first = commands("vmm-run", "--store", store.root, program)
    second = commands("vmm-run", "--store", store.root, "--language", "ash@2", program)
    commands("slipway", "image", "default", "--store", store.root, "ash@2")
    default = commands("vmm-run", "--store", store.root, program)
    listed = commands("slipway", "image", "list", "--store", store.root)

    assert built.code == 0, built.stderr
    assert [ended.stdout for ended in (first, second, default)] == [b"none\n", b"2", b"2"]
    assert [line.split()[0] for line in listed.stdout.decode().splitlines()[1:]] == [
        "ash", "ash@2*", "bash",
    ]  # fmt: skip


# --- Warming up ------------------------------------------------------------------------------


def test_the_result_of_a_warm_up_is_in_the_image(
    build: Callable[..., Ended], store: ImageStore, layout: Path, language_file: Path
) -> None:
    language_file.write_text(ASH + WARM)

    first = build("--from", f"oci:{layout}:2", "--language-file", language_file)
    warmed = image_of(store, "ash")
    entries = read_archive(warmed)
    again = build(
        "--from", f"oci:{layout}:2", "--language-file", language_file, "--compression", "none"
    )

    assert first.code == again.code == 0, first.stderr + again.stderr
    assert entries["opt/warm"][1] == b"1000\n"
    assert "warming the image up" in first.stderr
    # The second image has the same root before it is warmed up, and so nothing is run again.
    assert "warming the image up" not in again.stderr
    assert image_of(store, "ash").manifest["warm"] == warmed.manifest["warm"]


def test_an_image_that_is_warm_is_not_warmed_up(
    build: Callable[..., Ended], store: ImageStore, tmp_path: Path, language_file: Path
) -> None:
    language_file.write_text(ASH + WARM)
    write_layout(tmp_path / "warm", [ash(of_files(opt__warm="already"))])

    ended = build("--from", f"oci:{tmp_path}/warm", "--language-file", language_file)

    assert ended.code == 0
    assert "warm" not in image_of(store, "ash").manifest


def test_a_failed_warm_up_is_reported_with_its_output(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    layout: Path,
    language_file: Path,
) -> None:
    language_file.write_text(ASH + WARM.replace("id -u", "echo no such luck >&2; exit 3; id -u"))

    ended = build("--from", f"oci:{layout}:2", "--language-file", language_file)

    assert ended.code == 125
    assert "no such luck" in ended.stderr
    assert store.image("ash") is None
    assert store.names("language") == []
    assert commands.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_warm_up_and_its_machine(
    commands: Commands,
    store: ImageStore,
    layout: Path,
    language_file: Path,
    number: signal.Signals,
) -> None:
    language_file.write_text(ASH + WARM.replace("id -u", "while :; do :; done; id -u"))

    with commands.start(
        "slipway", "image", "build", "--no-snapshot", "--store", store.root,
        "--from", f"oci:{layout}:2",
        "--language-file", language_file,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        early = read_until(process.stderr, b"warming the image up", "the warm-up begins")
        block_until(
            lambda: any("qemu" in child.name() for child in commands.processes()),
            "the machine of the warm-up runs",
        )
        process.send_signal(number)
        _, said = process.communicate(timeout=60)

    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert b"Traceback" not in early + said
    assert commands.leftovers() == []
    assert store.image("ash") is None
    # What a killed one has left is swept by whoever comes next.
    killed = number == signal.SIGKILL
    assert (b"interrupted; nothing is left" in said, prune(store) > 0) == (not killed, killed)


# --- What is bad -----------------------------------------------------------------------------


def breaking(fill: Callable[[LayerWriter], None]) -> ContainerImage:
    return ContainerImage((shell(), Layer.of_members(fill)))


def with_layer(layer: Layer) -> ContainerImage:
    return ContainerImage((shell(), layer))


BAD: dict[str, tuple[Callable[[], ContainerImage], str]] = {
    "climbing": (lambda: breaking(lambda w: w.file("../../tmp/owned")), "climbs out"),
    "absolute": (lambda: breaking(lambda w: w.file("/etc/owned")), "absolute path"),
    "trailer": (lambda: breaking(lambda w: w.file("TRAILER!!!")), "TRAILER!!!"),
    "hard link outside": (
        lambda: breaking(lambda w: w.hardlink("x", "../etc/shadow")),
        "climbs out",
    ),
    "hard link to nothing": (
        lambda: breaking(lambda w: w.hardlink("x", "none")),
        "not a file in the tree",
    ),
    "no tar": (lambda: with_layer(Layer.of_bytes(b"x" * 4096)), "broken tar archive"),
    "cut": (lambda: with_layer(Layer.of_bytes(NOISE[:700])), "broken tar archive"),
    "another machine": (
        lambda: ContainerImage((shell(),), architecture="s390x"),
        "linux/s390x",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_image_is_reported_and_leaves_no_files(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    tmp_path: Path,
    language_file: Path,
    name: str,
) -> None:
    make, words = BAD[name]
    write_layout(tmp_path / "bad", [make()])

    ended = build("--from", f"oci:{tmp_path}/bad", "--language-file", language_file)

    assert ended.code == 125
    assert words in ended.stderr
    assert store.image("ash") is None
    assert store.names("language") == []
    assert list(store.temporary.iterdir()) == []
    assert commands.leftovers() == []


def test_links_never_lead_out_of_the_root(
    build: Callable[..., Ended], store: ImageStore, tmp_path: Path, language_file: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def fill(layer: LayerWriter) -> None:
        layer.symlink("way", str(outside))
        layer.file("way/file", "data")
        layer.symlink("there", "/opt/there")
        layer.file("there/file", "data")
        layer.symlink("up", "../../../..")
        layer.file("up/climbed", "data")

    write_layout(tmp_path / "links", [breaking(fill)])

    ended = build("--from", f"oci:{tmp_path}/links", "--language-file", language_file)

    assert ended.code == 0, ended.stderr
    entries = read_archive(image_of(store, "ash"))
    assert entries["opt/there/file"][1] == b"data"
    assert entries["climbed"][1] == b"data"
    assert list(outside.iterdir()) == []


def test_a_damaged_blob_is_reported_and_replaced_by_the_next_attempt(
    build: Callable[..., Ended], store: ImageStore, registry: DockerRegistry,
    layout: Path, language_file: Path,
) -> None:  # fmt: skip
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs" / "sha256"
    [entry] = [m for m in index["manifests"] if m["annotations"].popitem()[1] == "2"]
    manifest = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_text())
    stored = registry.blob(manifest["layers"][-1]["digest"])
    sound = stored.read_bytes()
    asked = ("--from", f"docker://{registry.host}/toys/ash:2", "--language-file", language_file)
    stored.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    try:
        damaged = build(*asked)
    finally:
        stored.write_bytes(sound)
    mended = build(*asked)

    assert damaged.code == 125
    assert "digest" in damaged.stderr
    assert mended.code == 0, mended.stderr
    image_of(store, "ash")


@pytest.mark.parametrize("part", ["layers", "tmp"])
def test_a_full_disk_is_reported_and_the_next_attempt_succeeds(
    build: Callable[..., Ended],
    commands: Commands,
    store: ImageStore,
    registry: DockerRegistry,
    language_file: Path,
    part: str,
) -> None:
    directory = store.root / part
    directory.mkdir(exist_ok=True)
    asked = ("--from", f"docker://{registry.host}/toys/ash:1", "--language-file", language_file)
    mount = f'mount -t tmpfs -o size=2m,mode=755 none {directory} && exec "$@"'
    namespaces = "-m" if os.geteuid() == 0 else "-Urm"
    commands.prefix = ("unshare", namespaces, "sh", "-c", mount, "sh")

    full = build(*asked)
    commands.prefix = ()
    again = build(*asked)

    assert full.code == 125
    assert f"the file system of {directory} has 2 MiB free" in full.stderr
    assert "--store" in full.stderr
    assert again.code == 0, again.stderr
    image_of(store, "ash")


def test_killed_builds_never_leave_a_broken_store(
    commands: Commands,
    pristine_store: Path,
    tmp_path: Path,
    store: ImageStore,
    registry: DockerRegistry,
    language_file: Path,
) -> None:
    asked: tuple[str | Path, ...] = ("--no-snapshot", "--language-file", language_file)
    asked = (*asked, "--from", f"docker://{registry.host}/toys/ash:1")
    sound = ImageStore(shutil.copytree(pristine_store, tmp_path / "sound"))
    began = time.monotonic()
    commands("slipway", "image", "build", "--store", sound.root, *asked)
    seconds = time.monotonic() - began
    chance = random.Random(50)
    killed = 0
    for _ in range(KILLS):
        with commands.start("slipway", "image", "build", "--store", store.root, *asked) as process:
            try:
                process.wait(chance.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        for image in store.images():
            image.verify()
        assert store.image("bash") is not None
        if (done := store.image("ash")) is not None:
            assert done.digest == image_of(sound, "ash").digest
            remove_image(store, "ash")
            if chance.random() < 0.5:
                prune(store)

    ended = commands("slipway", "image", "build", "--store", store.root, *asked)

    assert killed > KILLS // 2
    assert ended.code == 0, ended.stderr
    assert image_of(store, "ash").digest == image_of(sound, "ash").digest
    prune(store)
    assert list(store.temporary.iterdir()) == list(store.layers.iterdir()) == []
    assert commands.leftovers() == []
