"""Real machines of the architecture that this host has not, on every way to them.

The behaviours of programs are those of ``make behaviour-arm64``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

import slipway
from slipway._local.runtime import AsyncRuntime
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway.machine.qemu_targets import find_target
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.languages import catalogue
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.source import SourceOptions, choose_source
from slipway_initramfs.store.image_store import ImageStore
from support.container_images import ContainerImage, Layer, write_layout
from support.debian_layers import Packages
from support.host_programs import need_program
from support.programs import PATIENCE
from support.registries import docker_registry
from support.serving import Server
from support.stores import copy_store
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway._run.assets import Assets
    from support.commands import Commands
    from support.layer_writer import LayerWriter
    from support.registries import DockerRegistry

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

HOST = machine_architecture()
(FOREIGN,) = {"amd64", "arm64"} - {HOST}
WAIT: dict[str, Any] = PATIENCE
# What uname(1) says.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
UNAME = "uname -m"
HERE, THERE = (f"{MACHINES[name]}\n" for name in (HOST, FOREIGN))
REASON = f"{FOREIGN} is emulated on this {HOST} host"
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
version = "both"
"""


@pytest.fixture(scope="module")
def foreign_bash(image_store: ImageStore, progress: Callable[[str], None]) -> Assets:
    """What a machine of the other architecture boots."""
    need_program(find_target(FOREIGN).program)
    return find_assets(find_language("bash"), Options(arch=FOREIGN), image_store, progress)


@pytest.fixture(scope="module")
def both(bash: Assets, foreign_bash: Assets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with bash for both architectures, and nothing else."""
    root = tmp_path_factory.mktemp("both") / "store"
    for assets in (bash, foreign_bash):
        copy_store(assets, root)
    return root


# --- Ways ------------------------------------------------------------------------------------


def test_runtime_with_an_architecture_starts_all_its_machines_on_it(both: Path) -> None:
    with slipway.Runtime(store=both, arch=FOREIGN, cold=True) as runtime:
        ran = runtime.run(UNAME, "bash", **WAIT)
        with runtime.session("bash") as session:
            session.run("echo kept >note", **WAIT)
            with session.fork() as fork:
                forked = fork.run(f"{UNAME}; cat note", **WAIT)
        own = runtime.run(UNAME, "bash", arch=HOST, **WAIT)
        language = next(each for each in runtime.languages() if each.name == "bash")

    provenance = ran.provenance
    assert (ran.stdout, provenance.arch, provenance.machine) == (THERE, FOREIGN, "qemu")
    assert provenance.machine_reason == REASON
    assert forked.stdout == f"{THERE}kept\n"
    assert (own.stdout, own.provenance.arch) == (HERE, HOST)
    assert language.architectures == ("amd64", "arm64")


def test_server_with_an_architecture_starts_machines_on_it_unless_a_client_names_another(
    both: Path,
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="slipway-") as place,
        Server(Path(place), "--store", str(both), "--arch", FOREIGN) as server,
        slipway.Client(server.path) as client,
    ):
        ran = client.run(UNAME, "bash", **WAIT)
        with client.session("bash") as session, session.fork() as fork:
            forked = fork.run(UNAME, **WAIT)
        own = client.run(UNAME, "bash", arch=HOST, **WAIT)
        language = next(each for each in client.languages() if each.name == "bash")

    assert [each.stdout for each in (ran, forked, own)] == [THERE, THERE, HERE]
    assert ran.provenance.machine_reason == REASON
    assert language.built
    assert language.architectures == ("amd64", "arm64")


async def test_pool_keeps_clones_of_the_architecture(both: Path) -> None:
    async with AsyncRuntime(store=both, arch=FOREIGN, pool=1, warm=["bash"]) as runtime:
        await wait_until(lambda: runtime.idle == 1, "a clone waits", limit=240)
        ran = await runtime.run(UNAME, "bash", **WAIT)
        # Its key is another: no idle clone, and the pool makes no snapshot before the first run.
        own = await runtime.run(UNAME, "bash", arch=HOST, **WAIT)

    assert (ran.stdout, ran.provenance.start) == (THERE, "pool")
    assert (own.stdout, own.provenance.start) == (HERE, "cold")


async def test_model_chooses_the_architecture_of_a_call(commands: Commands, both: Path) -> None:
    server = StdioServerParameters(
        command=str(commands.path("slipway")),
        args=["mcp", "--store", str(both), "--arch", FOREIGN],
        env=commands.environment,
    )
    call = {"language": "bash", "source": UNAME, "timeout": WAIT["timeout"]}

    async with Client(server) as mcp:
        languages = await mcp.call_tool("list_languages")
        by_default = await mcp.call_tool("run_code", call)
        named = await mcp.call_tool("run_code", {**call, "arch": HOST})
        unknown = await mcp.call_tool("run_code", {**call, "arch": "riscv"})

    told = {each["name"]: each for each in languages.structured_content["languages"]}
    assert (told["bash"]["ready"], told["c"]["ready"]) == (True, False)
    assert told["bash"]["architectures"] == ["amd64", "arm64"]
    assert by_default.structured_content["stdout"] == THERE
    assert named.structured_content["stdout"] == HERE
    assert unknown.is_error
    assert "'arch'" in str(unknown.content)
    assert commands.leftovers() == []


def test_snapshot_of_an_architecture_serves_its_machines_only(
    commands: Commands, both: Path
) -> None:
    store = ("--store", both)
    build = ("slipway", "image", "build", "--arch", FOREIGN, "--snapshot")

    built = commands(*build, *store, "bash")
    listed = json.loads(commands("slipway", "snapshot", "list", "--json", *store).stdout)
    runs = [
        json.loads(
            commands(
                *("vmm-run", "--json", *store, "--arch", name, "--language", "bash", "-c", UNAME)
            ).stdout
        )
        for name in (FOREIGN, HOST)
    ]

    assert built.code == 0, built.stderr
    found = {each["architecture"]: each for each in listed}
    assert found[FOREIGN]["current"], found
    assert [(each["arch"], each["start"]) for each in runs] == [
        (FOREIGN, "snapshot"),
        (HOST, "cold"),
    ]
    assert commands.leftovers() == []


def test_exported_image_of_an_architecture_runs_from_another_store(
    commands: Commands, both: Path, tmp_path: Path
) -> None:
    file, elsewhere = tmp_path / "bash.slipway", ("--store", tmp_path / "elsewhere")

    exported = commands(
        *("slipway", "image", "export", "--store", both, "--arch", FOREIGN, "bash", file)
    )
    imported = commands("slipway", "image", "import", *elsewhere, file)
    commands.environment["PATH"] = _make_path(tmp_path, HOST, FOREIGN)
    ran = commands("vmm-run", *elsewhere, "--arch", FOREIGN, "--language", "bash", "-c", UNAME)
    own = commands("vmm-run", *elsewhere, "--language", "bash", "-c", UNAME)

    assert (exported.code, imported.code) == (0, 0), exported.stderr + imported.stderr
    assert f"bash ({FOREIGN})" in imported.stderr
    assert (ran.code, ran.stdout.decode()) == (0, THERE), ran.stderr
    # The host's own is not there, and the other is not taken for it.
    assert own.code == 125
    assert "apt-get" in own.stderr


def _make_path(directory: Path, *architectures: str) -> str:
    """Return a PATH with what machines of the architectures need, and nothing else."""
    programs = directory / "programs"
    programs.mkdir()
    for name in ("setpriv", "sh", *(find_target(each).program for each in architectures)):
        (programs / name).symlink_to(need_program(name))
    return str(programs)


# --- What is missing -------------------------------------------------------------------------


@pytest.mark.usefixtures("foreign_bash")
def test_missing_emulator_is_named_with_its_package(
    commands: Commands, both: Path, tmp_path: Path
) -> None:
    package = find_target(FOREIGN).package
    commands.environment["PATH"] = _make_path(tmp_path, HOST)
    store = ("--store", both)

    ran = commands("vmm-run", *store, "--arch", FOREIGN, "--language", "bash", "-c", UNAME)
    own = commands("vmm-run", *store, "--language", "bash", "-c", UNAME)
    doctor = commands("slipway", "doctor", "--json", *store)
    serve = commands("slipway", "serve", *store, "--arch", FOREIGN, "--api-sock", tmp_path / "s")

    assert (ran.code, serve.code) == (125, 125)
    for refused in (ran, serve):
        assert f"QEMU for {FOREIGN} is not installed" in refused.stderr
        assert package in refused.stderr
    assert (own.code, own.stdout.decode()) == (0, HERE), own.stderr
    assert doctor.code == 0
    findings = {each["need"]: each for each in json.loads(doctor.stdout)}
    assert not findings[f"qemu {FOREIGN}"]["met"]
    assert not findings[f"arch {FOREIGN}"]["met"]
    assert package in findings[f"arch {FOREIGN}"]["fix"]
    assert findings[f"arch {HOST}"]["met"]


# --- Container images ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(apt: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry with ``toys/ash``: ``both`` for both architectures, ``host`` for the host's."""
    for program in ("apt-get", "docker-registry", "skopeo"):
        need_program(program)
    images = [_make_ash(Packages(DebianArchive(apt, name, print))) for name in (HOST, FOREIGN)]
    layout = tmp_path_factory.mktemp("layout")
    write_layout(layout, images, "both")
    write_layout(layout, images[:1], "host")
    with docker_registry(tmp_path_factory.mktemp("registry")) as running:
        for tag in ("both", "host"):
            running.push(f"oci:{layout}:{tag}", f"toys/ash:{tag}")
        running.push(f"oci:{layout}:host", "library/bash:5.2")
        yield running


def _make_ash(packages: Packages) -> ContainerImage:
    """Return an image like Alpine's, of Debian's busybox for the architecture."""

    def fill(layer: LayerWriter) -> None:
        packages.add(layer, packages.select(["busybox-static"]), {"bin/busybox": "bin/busybox"}.get)
        for applet in ("sh", "cat", "uname"):
            layer.symlink(f"bin/{applet}", "busybox")
        layer.file("etc/image", f"the image for {packages.architecture}\n")

    return ContainerImage((Layer.of_members(fill),), architecture=packages.architecture)


@pytest.fixture
def ash_file(tmp_path: Path) -> Path:
    """The language of these images."""
    path = tmp_path / "ash.toml"
    path.write_text(ASH)
    return path


@pytest.mark.debian
@pytest.mark.usefixtures("foreign_bash")
def test_index_of_a_registry_is_booted_on_each_architecture(
    commands: Commands, both: Path, registry: DockerRegistry, ash_file: Path
) -> None:
    store = ("--store", both)
    reference = f"docker://{registry.host}/toys/ash:both"
    build = ("slipway", "image", "build", "--no-snapshot", *store)
    source = ("--from", reference, "--language-file", ash_file)
    program = f"{UNAME}; cat /etc/image"

    built = [commands(*build, "--arch", name, *source) for name in (FOREIGN, HOST)]
    ran = [
        commands("vmm-run", *store, "--arch", name, "--language", "ash", "-c", program)
        for name in (FOREIGN, HOST)
    ]

    assert [each.code for each in built] == [0, 0], built
    assert [each.stdout.decode() for each in ran] == [
        f"{THERE}the image for {FOREIGN}\n",
        f"{HERE}the image for {HOST}\n",
    ], ran
    assert commands.leftovers() == []


@pytest.mark.debian
def test_image_that_lacks_the_architecture_is_refused(
    commands: Commands, both: Path, registry: DockerRegistry, ash_file: Path
) -> None:
    reference = f"docker://{registry.host}/toys/ash:host"

    refused = commands(
        *("slipway", "image", "build", "--store", both, "--arch", FOREIGN, "--from", reference),
        *("--language-file", ash_file, "--name", "other"),
    )

    assert refused.code == 125
    assert f"the image is for 'linux/{HOST}', not for linux/{FOREIGN}" in refused.stderr
    assert f"Name an image for {FOREIGN}" in refused.stderr
    assert ImageStore(both).image("other", FOREIGN) is None


@pytest.mark.debian
def test_debian_stands_in_for_a_registry_without_the_architecture(
    new_store: Callable[[], ImageStore], registry: DockerRegistry
) -> None:
    language, options = catalogue.find_language("bash"), SourceOptions(registry=registry.host)
    notices: list[str] = []
    progress = BuildProgress(notice=notices.append)

    kinds = []
    for name in (HOST, FOREIGN):
        source = choose_source(language, new_store(), options, name, None, progress)
        source.close()
        kinds.append(source.kind)

    assert kinds == ["registry", "debian"]
    assert f"not for linux/{FOREIGN}" in notices[-1]
