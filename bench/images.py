"""An image of 300 MB in gzip layers: pulled, unpacked and packed by us, and by the usual programs.

From one docker-registry on loopback, into nothing that is there already: `slipway image build`
against `skopeo copy`, `umoci unpack`, `find`, `cpio` and `lz4`. Goals: at most the same wall time,
a peak below 300 MB, no root.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from process_tree import measure
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.build import build_image
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.freeze import freeze_agent
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.languages.toml_file import parse_language
from slipway_initramfs.oci.container_image import ContainerImage
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.source import SourceOptions
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from process_tree import Cost

HERE = Path(__file__)
LANGUAGE = """\
name = "bench"
suffixes = [".bench"]
source = "main"
run = { command = ["true"] }
[image.registry]
reference = "bench:1"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--build", nargs=2, metavar=("REFERENCE", "STORE"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    sys.path.append(str(HERE.parents[1] / "tests"))
    if parsed.prepare is not None:
        prepare(parsed.prepare)
    elif parsed.build is not None:
        build_everything(parsed.build[0], Path(parsed.build[1]))
    else:
        run(parsed.rounds)


def run(rounds: int) -> None:
    from support.registries import docker_registry

    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        print("making the image and what it boots with")
        # In a process of its own, so that this one has little memory and forks fast.
        subprocess.run((sys.executable, str(HERE), "--prepare", directory), check=True)
        with docker_registry(work / "registry") as registry:
            reference = registry.push(work / "layout", "library/bench:1")
            compare(reference, work, rounds)


def prepare(work: Path) -> None:
    """Make the image, and a store with kernel and agent, which the others do not make either."""
    from support.container_images import write_layout
    from support.debian_layers import Packages
    from support.image_recipes import debian_gcc

    architecture = machine_architecture()
    packages = Packages(DebianArchive(ImageStore().apt, architecture, print))
    write_layout(work / "layout", [debian_gcc(packages)], "t")
    (work / "bench.toml").write_text(LANGUAGE)
    store = ImageStore(work / "prepared")
    store.apt = ImageStore().apt
    build_kernel(store)
    freeze_agent(store, architecture, lambda _: None)


def build_everything(reference: str, root: Path) -> None:
    """Make an image with nothing trimmed: the work that the other programs do."""
    ContainerImage.trim = ()
    language = parse_language(LANGUAGE.encode(), "bench.toml")
    build_image(language, ImageStore(root), SourceOptions(reference=Reference.parse(reference)))


def archive_size(root: Path) -> int:
    image = ImageStore(root).image("bench")
    assert image is not None
    return image.root.size


def usual_programs(reference: str, target: Path, level: int) -> list[str]:
    """The shell script that does it with programs of Debian's."""
    rootless = "" if os.geteuid() == 0 else "--rootless"
    place, source = shlex.quote(str(target)), shlex.quote(reference)
    script = f"""
set -e
mkdir {place}; cd {place}
skopeo --insecure-policy copy --quiet --src-tls-verify=false {source} oci:layout:t
umoci --log error unpack {rootless} --image layout:t bundle
cd bundle/rootfs
find . | LC_ALL=C sort | cpio --quiet -o -H newc | lz4 -q -l -{level} > ../../root.cpio.lz4
"""
    return ["sh", "-c", script]


def compare(reference: str, work: Path, rounds: int) -> None:
    """Run all in turn; the first round warms caches and is not counted."""
    target = work / "target"
    ours = [str(Path(sys.executable).with_name("slipway")), "image", "build"]
    ours += ["--no-snapshot", "--from", reference]
    ours += ["--language-file", str(work / "bench.toml"), "--store", str(target)]
    everything = [sys.executable, str(HERE), "--build", reference, str(target)]

    def measure_packed(root: Path) -> int:
        return (root / "root.cpio.lz4").stat().st_size

    rows: dict[str, tuple[Sequence[str], Callable[[Path], int]]] = {
        "skopeo, umoci, cpio, lz4 -3": (usual_programs(reference, target, 3), measure_packed),
        "skopeo, umoci, cpio, lz4 -1": (usual_programs(reference, target, 1), measure_packed),
        "slipway, nothing trimmed": (everything, archive_size),
        "slipway image build": (ours, archive_size),
    }
    costs: dict[str, list[tuple[Cost, int]]] = {name: [] for name in rows}
    for number in range(rounds + 1):
        for name, (command, size) in rows.items():
            if command[0] != "sh":
                shutil.copytree(work / "prepared", target)
            os.sync()  # what one has left to write is not to slow down the next
            cost = measure(command)
            if number:
                costs[name].append((cost, size(target)))
            shutil.rmtree(target)
    report(costs, rounds)


def report(costs: dict[str, list[tuple[Cost, int]]], rounds: int) -> None:
    print(f"\nmedians of {rounds} rounds in turn; wall time with minimum and maximum")
    print(
        f"{'':<28} {'wall s':>20} {'ratio':>6} {'CPU s':>6} {'sum MB':>7} {'one MB':>7} {'MB':>5}"
    )
    first = statistics.median(cost.wall for cost, _ in next(iter(costs.values())))
    for name, runs in costs.items():
        walls = sorted(cost.wall for cost, _ in runs)
        wall = statistics.median(walls)
        processor = statistics.median(cost.processor for cost, _ in runs)
        together = statistics.median(cost.together for cost, _ in runs) / 1e6
        largest = statistics.median(cost.largest for cost, _ in runs) / 1e6
        spread = f"{wall:.1f} ({walls[0]:.1f} to {walls[-1]:.1f})"
        print(
            f"{name:<28} {spread:>20} {wall / first:>6.2f} {processor:>6.1f}"
            f" {together:>7.0f} {largest:>7.0f} {runs[0][1] / 1e6:>5.0f}"
        )
    print(
        "CPU: user and system, all processes. sum: highest resident memory of all processes\n"
        "together; one: peak of the largest; both looked at each 20 ms. MB: the archive.\n"
        "'nothing trimmed' packs the same files as the programs above it; 'image build' is the\n"
        "whole command, with trimming and the initrd that is booted."
    )


if __name__ == "__main__":
    main()
