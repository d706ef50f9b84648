"""Image stores from the command line: what is there, what is damaged, what cannot be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.images import StoredImages
from slipway._run.languages import find_language
from slipway.vmm.kvm import usability
from slipway_initramfs.store.records import BUILDER
from support.commands import Ended
from support.stores import flip_a_byte, store_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._run.assets import Assets
    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands

# A mount without devices in a namespace of its own: whoever opens KVM there is refused.
INSTALL_QEMU = "apt-get update && apt-get install --no-install-recommends qemu-system-x86"
WITHOUT_KVM = (
    *("unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", "-c"),
    'mount --bind /dev/kvm /dev/kvm && mount -o remount,bind,nodev /dev/kvm && exec "$@"',
    "sh",
)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.sh"
    path.write_text("echo hello")
    return path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(path: Path) -> None:
    path.unlink()


# --- What is there ---------------------------------------------------------------------------


def test_images_are_listed(commands: Commands, store: ImageStore, bash: Assets) -> None:
    ended = commands("slipway", "image", "list", "--store", store.root)
    records = commands("slipway", "image", "list", "--json", "--store", store.root)

    heading, row = ended.stdout.decode().splitlines()
    assert heading.split()[0] == "IMAGE"
    assert row.split()[0] == "bash"
    assert bash.image.digest[:12] in row.split()
    (record,) = json.loads(records.stdout)
    assert (record["name"], record["digest"]) == ("bash", bash.image.digest)
    assert record["minimum_memory"] == bash.image.minimum_memory
    assert record["toolchain"] in row
    assert record["toolchain"].startswith("bash 5.")


def test_image_is_inspected_by_name_or_digest(
    commands: Commands, store: ImageStore, bash: Assets
) -> None:
    by_name = commands("slipway", "image", "inspect", "bash", "--store", store.root)
    by_digest = commands(
        "slipway", "image", "inspect", bash.image.digest[:10], "--store", store.root
    )

    assert by_name.stdout == by_digest.stdout
    record = json.loads(by_name.stdout)
    assert record["digest"] == bash.image.digest
    assert any(package["name"] == "coreutils" for package in record["packages"])


def test_empty_store_is_told(commands: Commands, tmp_path: Path) -> None:
    ended = commands("slipway", "image", "list", "--store", tmp_path / "none")

    assert (ended.code, ended.stdout) == (0, b"")
    assert "slipway image build" in ended.stderr


def test_image_is_removed(commands: Commands, store: ImageStore) -> None:
    removed = commands("slipway", "image", "remove", "bash", "--store", store.root)
    again = commands("slipway", "image", "remove", "bash", "--store", store.root)

    assert removed.code == 0
    assert store.images() == []
    assert again.code == 2


# --- Doctor ----------------------------------------------------------------------------------


def test_doctor_finds_this_host_well(commands: Commands, store: ImageStore) -> None:
    ended = commands("slipway", "doctor", "--store", store.root)
    records = commands("slipway", "doctor", "--json", "--store", store.root)

    assert ended.code == 0
    assert "MISSING" not in ended.stdout.decode()
    findings = json.loads(records.stdout)
    assert {"need", "met", "found", "fix", "needed"} == set(findings[0])
    needs = {finding["need"] for finding in findings}
    assert needs >= {
        "qemu",
        "kvm",
        "warm clones",
        "gateway",
        "names",
        "memory",
        "disk",
        "store",
        "kernel",
        "image",
    }
    assert all(finding["met"] for finding in findings if finding["needed"])


def test_unusable_kvm_is_told_in_plain_words(commands: Commands, store: ImageStore) -> None:
    if usability.examine()[0]:
        commands.prefix = WITHOUT_KVM
    found = commands("slipway", "doctor", "--store", store.root)
    source = ("--language", "sh", "-c", "echo")
    refused = commands("vmm-run", "--store", store.root, "--machine", "kvm", *source)

    assert found.code == 0
    (note,) = (
        line for line in found.stdout.decode().splitlines() if line.startswith("note     kvm")
    )
    assert "fix: optional: programs run slower without KVM" in found.stdout.decode()
    assert refused.code == 125
    assert "KVM cannot be used here: " in refused.stderr
    assert note.split(maxsplit=2)[2].split()[:3] == refused.stderr.split(": ")[3].split()[:3]
    assert "or name qemu" in refused.stderr


def test_doctor_names_the_package_that_is_missing(
    commands: Commands, store: ImageStore, tmp_path: Path
) -> None:
    commands.environment["PATH"] = str(tmp_path)

    ended = commands("slipway", "doctor", "--store", store.root)
    run = commands("slipway", "run", "--store", store.root, "--language", "sh", "-", stdin=b":")

    assert ended.code == 1
    assert INSTALL_QEMU in ended.stdout.decode()
    assert run.code == 125
    assert INSTALL_QEMU in run.stderr


def test_doctor_finds_the_damaged_image(commands: Commands, store: ImageStore) -> None:
    image = store.image("bash")
    assert image is not None
    flip_a_byte(image.root_archive)

    ended = commands("slipway", "doctor", "--store", store.root)

    assert ended.code == 1
    assert "slipway image build" in ended.stdout.decode()


# --- Damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [flip_a_byte, remove])
def test_damaged_initrd_is_made_again(
    commands: Commands, store: ImageStore, hello: Path, damage: Callable[[Path], None]
) -> None:
    initrd = find_assets(find_language("bash"), Options(), store, print).initrd
    sound = initrd.read_bytes()
    damage(initrd)

    ended = commands("vmm-run", "--store", store.root, hello)

    assert (ended.code, ended.stdout) == (0, b"hello\n")
    assert initrd.read_bytes() == sound
    assert commands.leftovers() == []


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("image", flip_a_byte),
        ("kernel", flip_a_byte),
        ("agent", remove),
        ("manifest", cut),
        ("reference", flip_a_byte),
    ],
)
def test_damaged_part_is_made_again(
    commands: Commands,
    store: ImageStore,
    bash: Assets,
    hello: Path,
    part: str,
    damage: Callable[[Path], None],
) -> None:
    # Making it again takes the package lists, and the packages; the user's store has them.
    store.apt.symlink_to(store_root(bash) / "apt")
    blobs = store.root / "blobs"
    damage(
        {
            "image": blobs / bash.image.root.digest,
            "kernel": blobs / bash.kernel.image.digest,
            "agent": blobs / bash.agent.archive.blob.digest,
            "manifest": store.root / "manifests" / f"{bash.image.digest}.json",
            "reference": store.root / "refs" / "image" / f"bash-{bash.image.architecture}",
        }[part]
    )

    ended = commands("vmm-run", "--store", store.root, hello)

    assert (ended.code, ended.stdout) == (0, b"hello\n")
    assert commands("slipway", "doctor", "--store", store.root).code == 0
    assert commands.leftovers() == []


def test_kernel_of_another_version_is_unpacked_again(store: ImageStore, bash: Assets) -> None:
    store.apt.symlink_to(store_root(bash) / "apt")
    stale = bash.kernel.manifest | {"builder": BUILDER - 1}
    with store.building("kernel"):
        store.put_record("kernel", bash.kernel.architecture, stale)
    said: list[str] = []

    needs_build = not StoredImages(store).is_built(bash.language, Options())
    found = find_assets(bash.language, Options(), store, said.append)

    assert needs_build
    assert found.kernel.is_current
    assert StoredImages(store).is_built(bash.language, Options())
    assert f"the kernel {bash.kernel.version} is from another version of Slipway" in said


# --- Stores that cannot be written ------------------------------------------------------------


def test_store_that_cannot_be_made_is_told(
    commands: Commands, hello: Path, hypervisor: dict[str, str]
) -> None:
    commands.environment.update(hypervisor)

    ended = commands("vmm-run", "--store", "/proc/slipway", hello)

    assert (ended.code, ended.stdout) == (125, b"")
    assert "/proc/slipway" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert commands.leftovers() == []


def test_store_below_a_file_is_told(commands: Commands, hello: Path) -> None:
    ended = commands("vmm-run", "--store", hello / "store", hello)

    assert (ended.code, ended.stdout) == (125, b"")
    assert f"cannot trust the image store: {hello} is a file instead of a directory" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("vmm-run", "--language", "sh", "-c", "echo"),
        ("slipway", "image", "list"),
        ("slipway", "image", "prune"),
        ("slipway", "snapshot", "list"),
        ("slipway", "serve", "--api-sock", "/nowhere"),
        ("slipway", "mcp"),
    ],
    ids=" ".join,
)
def test_store_that_is_no_directory_is_told_by_every_verb(
    commands: Commands, hello: Path, command: tuple[str, ...]
) -> None:
    ended = commands(*command, "--store", hello)

    assert (ended.code, ended.stdout) == (125, b"")
    error, hint = ended.stderr.splitlines()
    refusal = f"cannot trust the image store: {hello} is a file instead of a directory"
    assert error == f"slipway: error: {refusal}"
    assert "use another store" in hint


def test_doctor_tells_of_a_store_that_it_may_not_search(
    commands: Commands, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if os.geteuid() == 0:
        request.getfixturevalue("other_users")
        commands.prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        closed = Path("/root/slipway")
    else:
        closed = tmp_path / "closed" / "slipway"
        closed.parent.mkdir(mode=0)

    ended = commands("slipway", "doctor", "--store", closed)

    assert ended.code == 1
    assert "MISSING  store" in ended.stdout.decode()
    assert "bug" not in ended.stderr


def test_store_of_somebody_else_is_used_without_writing_to_it(
    commands: Commands, store: ImageStore, hello: Path
) -> None:
    find_assets(find_language("bash"), Options(), store, print)
    before = set(store.root.rglob("*"))
    if os.geteuid() == 0:
        # Another user, who may read everything, since the way to the store is the tester's alone.
        reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        commands.prefix = (
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reading),
        )
    else:
        for directory in {path.parent for path in before}:
            directory.chmod(0o555)

    ended = commands("vmm-run", "--store", store.root, hello)

    assert ended == Ended(0, b"hello\n", "")
    assert set(store.root.rglob("*")) == before
