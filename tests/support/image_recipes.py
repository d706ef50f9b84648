"""Recipes of the container images of the tests, modelled on official images.

No registry on the internet is needed: the content is Debian's, in the layout of each image, with
files to be trimmed, and with files of lower layers that higher layers replace or remove.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from support.container_images import ContainerImage, Layer
from support.debian_layers import MERGED, set_runpath, status
from support.small_interpreter import compile_interpreter

if TYPE_CHECKING:
    from slipway_initramfs.debian.archive import Package
    from support.debian_layers import Packages
    from support.layer_writer import LayerWriter

RUST = "1.63.0"

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TRIPLETS = {"amd64": "x86_64", "arm64": "aarch64"}
_BASE = """
base-files base-passwd bash coreutils dash debianutils diffutils dpkg findutils grep gzip hostname
libc-bin login mawk ncurses-base ncurses-bin perl-base sed sysvinit-utils tar tzdata util-linux
"""
# What maintainer scripts make, where the target is there.
_ALTERNATIVES = {
    "awk": "mawk",
    "nawk": "mawk",
    "pager": "more",
    "which": "which.debianutils",
    "cc": "gcc",
    "c89": "c89-gcc",
    "c99": "c99-gcc",
}


def debian(packages: Packages) -> ContainerImage:
    """Like debian:bookworm, in one layer."""
    return ContainerImage(
        layers=(_debian_layer(packages, packages.resolve(_BASE.split())),),
        command=("bash",),
        architecture=packages.architecture,
        variant="v8" if packages.architecture == "arm64" else "",
    )


def debian_gcc(packages: Packages) -> ContainerImage:
    """A Debian with gcc: 300 MB of real content in two layers, for measurements."""
    base = packages.resolve(_BASE.split())
    return ContainerImage(
        layers=(_debian_layer(packages, base), _gcc_layer(packages, base)),
        environment=(f"PATH={SYSTEM_PATH}", "GCC_VERSION=12.2.0"),
        command=("bash",),
        architecture=packages.architecture,
    )


def debian_rust(packages: Packages) -> ContainerImage:
    """Like rust:1.63-slim-bookworm: rustup's directories, and its proxy in the place of rustc."""
    base = packages.resolve(_BASE.split())
    return ContainerImage(
        layers=(
            _debian_layer(packages, base),
            _gcc_layer(packages, base),
            Layer.of_members(partial(_add_rust, packages=packages)),
        ),
        environment=(
            f"PATH=/usr/local/cargo/bin:{SYSTEM_PATH}",
            "RUSTUP_HOME=/usr/local/rustup",
            "CARGO_HOME=/usr/local/cargo",
            f"RUST_VERSION={RUST}",
        ),
        command=("bash",),
        architecture=packages.architecture,
    )


def lua(packages: Packages) -> ContainerImage:
    """A Debian with Lua 5.4: a small language that Slipway does not ship."""
    base = packages.resolve(_BASE.split())

    def fill(layer: LayerWriter) -> None:
        added = packages.resolve(["lua5.4"], without=base)
        packages.add(layer, added)
        _add_status(layer, [*base, *added])
        layer.directory("etc/alternatives")
        layer.symlink("etc/alternatives/lua-interpreter", "/usr/bin/lua5.4")
        layer.symlink("usr/bin/lua", "/etc/alternatives/lua-interpreter")

    return ContainerImage(
        layers=(_debian_layer(packages, base), Layer.of_members(fill)),
        environment=(f"PATH={SYSTEM_PATH}", "LUA_VERSION=5.4.4"),
        working_directory="/srv/lua",
        architecture=packages.architecture,
        variant="v8" if packages.architecture == "arm64" else "",
    )


def debian_python(packages: Packages) -> ContainerImage:
    """A Debian with Python 3.11 and modules without bytecode, like the official images."""
    base = packages.resolve(_BASE.split())

    def fill(layer: LayerWriter) -> None:
        packages.add(layer, packages.resolve(["python3"], without=base))

    return ContainerImage(
        layers=(_debian_layer(packages, base), Layer.of_members(fill)),
        environment=(f"PATH={SYSTEM_PATH}", "PYTHON_VERSION=3.11.2"),
        command=("python3",),
    )


def distroless_lua(packages: Packages) -> ContainerImage:
    """Like gcr.io/distroless/cc, with Lua: no shell, no tools, an unprivileged user."""
    wanted = ("base-files", "libc6", "libgcc-s1", "libreadline8", "libtinfo6", "lua5.4", "tzdata")

    def place(path: str) -> str | None:
        parts = path.split("/")
        tool = parts[0] in {"bin", "sbin"} or parts[:2] in (["usr", "bin"], ["usr", "sbin"])
        kept = not tool or path == "usr/bin/lua5.4"
        # Distroless images stem from before the merge of /usr: /lib is a directory of its own.
        return path if kept and parts[0] != "var" else None

    def fill(layer: LayerWriter) -> None:
        packages.add(layer, packages.select(wanted), place)
        layer.file(
            "etc/passwd",
            "root:x:0:0:root:/root:/sbin/nologin\n"
            "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
        )
        layer.file("etc/group", "root:x:0:\nnonroot:x:65532:\n")
        layer.directory("home")
        layer.directory("home/nonroot", 0o700, owner=65532)
        layer.directory("tmp", 0o1777)

    return ContainerImage(
        layers=(Layer.of_members(fill),),
        environment=(f"PATH={SYSTEM_PATH}", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"),
        working_directory="/home/nonroot",
        user="65532",
        architecture=packages.architecture,
        variant="v8" if packages.architecture == "arm64" else "",
    )


def scratch_rpn() -> ContainerImage:
    """A single static program in a plain layer, without a file of users."""
    program = compile_interpreter("static")
    return ContainerImage(
        layers=(Layer.of_members(lambda layer: layer.file("rpn", program, 0o755), "none"),),
        environment=(),
        user="1234:1234",
    )


def _debian_layer(packages: Packages, base: list[Package]) -> Layer:
    def fill(layer: LayerWriter) -> None:
        for name in MERGED:
            layer.directory(f"usr/{name}")
            layer.symlink(name, f"usr/{name}")
        shared: dict[str, bytes] = {}

        def keep(path: str, data: bytes) -> bytes:
            if path.startswith("usr/share/base-passwd/"):
                shared[path] = data
            return data

        packages.add(layer, base, change=keep)
        # What the scripts of the packages do after that.
        users = shared["usr/share/base-passwd/passwd.master"].decode().replace(":*:", ":x:")
        layer.file("etc/passwd", users)
        layer.file("etc/group", shared["usr/share/base-passwd/group.master"])
        names = [line.partition(":")[0] for line in users.splitlines()]
        layer.file("etc/shadow", "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names), 0o640)
        layer.file("etc/hostname", "debuerreotype\n")
        layer.symlink("usr/bin/sh", "dash")
        _add_alternatives(layer, ["awk", "nawk", "pager", "which"])
        _add_status(layer, base)
        layer.directory("var/lib/apt")
        layer.directory("var/lib/apt/lists")
        layer.file("var/lib/apt/lists/deb.debian.org_debian_dists_bookworm_InRelease", "x" * 4000)
        layer.directory("var/log/apt")
        layer.file("var/log/apt/history.log", "Start-Date: 2023-11-14\n" * 50)
        layer.directory("tmp", 0o1777)

    return Layer.of_members(fill)


def _gcc_layer(packages: Packages, base: list[Package]) -> Layer:
    def fill(layer: LayerWriter) -> None:
        added = packages.resolve(["ca-certificates", "gcc", "libc6-dev"], without=base)
        packages.add(layer, added)
        _add_alternatives(layer, ["cc", "c89", "c99"])
        _add_status(layer, [*base, *added])
        # As ``rm -rf /var/lib/apt/lists/* /var/log/apt`` leaves it, in both forms.
        layer.opaque("var/lib/apt/lists")
        layer.whiteout("var/log/apt")

    return Layer.of_members(fill)


def _add_alternatives(layer: LayerWriter, names: list[str]) -> None:
    layer.directory("etc/alternatives")
    for name in names:
        layer.symlink(f"etc/alternatives/{name}", f"/usr/bin/{_ALTERNATIVES[name]}")
        layer.symlink(f"usr/bin/{name}", f"/etc/alternatives/{name}")


def _add_status(layer: LayerWriter, there: list[Package]) -> None:
    layer.directory("var/lib/dpkg")
    layer.file("var/lib/dpkg/status", status(there))


_LLVM = ("libllvm14", "libbsd0", "libedit2", "libffi8", "libicu72", "libxml2", "libz3-4")
# The proxy is a program of rustup's that reads the settings in RUSTUP_HOME at each call.
_PROXY = """\
#!/bin/sh
# Stands in for rustup: picks the toolchain, then becomes the program it was called as.
test -n "$RUSTUP_HOME" || { echo "error: rustup could not choose a version of rustc" >&2; exit 1; }
read -r toolchain < "$RUSTUP_HOME/default" || exit 1
exec "$RUSTUP_HOME/toolchains/$toolchain/bin/${0##*/}" "$@"
"""


def _add_rust(layer: LayerWriter, packages: Packages) -> None:
    triplet = TRIPLETS[packages.architecture]
    toolchain = f"usr/local/rustup/toolchains/{RUST}-{triplet}-unknown-linux-gnu"
    libraries = f"usr/lib/{triplet}-linux-gnu"

    def place(path: str) -> str | None:
        """The toolchain's files in the toolchain's directory."""
        if path.startswith("usr/lib/rustlib/") and path.endswith(".so"):
            return None  # a link to where Debian has it
        if f"{path}/".startswith(f"{libraries}/"):
            return f"{toolchain}/lib{path.removeprefix(libraries)}"
        return f"{toolchain}{path.removeprefix('usr')}"

    def place_again(path: str) -> str | None:
        """Shared libraries beside the static ones, of which rustup's toolchains have copies."""
        name = path.removeprefix(f"{libraries}/")
        kept = name.startswith(("libstd-", "libtest-"))
        return f"{toolchain}/lib/rustlib/{triplet}-unknown-linux-gnu/lib/{name}" if kept else None

    def change(path: str, data: bytes) -> bytes:
        # Debian's finds its libraries in the system's directories, rustup's beside itself.
        return set_runpath(data, "$ORIGIN/../lib") if path == f"{toolchain}/bin/rustc" else data

    for path in ("", "/rustup", "/rustup/toolchains", "/cargo", "/cargo/bin"):
        layer.directory(f"usr/local{path}", 0o777 if path else 0o755)
    packages.add(layer, packages.select(_LLVM))
    packages.add(
        layer, packages.select(["libstd-rust-1.63", "libstd-rust-dev", "rustc"]), place, change
    )
    packages.add(layer, packages.select(["libstd-rust-1.63"]), place_again)
    layer.file("usr/local/rustup/default", f"{RUST}-{triplet}-unknown-linux-gnu\n")
    layer.file("usr/local/rustup/settings.toml", 'version = "12"\nprofile = "minimal"\n')
    layer.file("usr/local/cargo/env", 'export PATH="/usr/local/cargo/bin:$PATH"\n')
    layer.file("usr/local/cargo/bin/rustup", _PROXY, 0o755)
    for name in ("cargo", "rustc", "rustdoc", "rustfmt"):
        layer.hardlink(f"usr/local/cargo/bin/{name}", "usr/local/cargo/bin/rustup", 0o755)
