"""Freezer of the agent: an archive of interpreter, libraries and modules below ``/.agent``.

The interpreter is Debian's, with a loader and libraries of its own at absolute paths. The agent
therefore runs on any root, even on an empty one. The archive is not compressed: an emulated guest
takes longer to unpack an archive than to read it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs.agent_sources import AgentSources
from slipway_initramfs.architectures import LOADERS, TRIPLETS
from slipway_initramfs.errors import BuildFailed, ImageCorrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipway_initramfs.rootfs.tree import Tree
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Archive, Blob

    Progress = Callable[[str], None]

KIND = "agent"
ROOT = ".agent"
PYTHON = "3.11"
LIBRARY = f"lib/python{PYTHON}"
# The loader would read these files of the image: libraries of another libc, or a hostile choice.
FOREIGN = b"/etc/ld.so."
NOWHERE = b"/.ag/ld.so."
DEVICES = {
    "console": (5, 1),
    "null": (1, 3),
    "random": (1, 8),
    "urandom": (1, 9),
    "ttyS0": (4, 64),
    "ttyS1": (4, 65),
}
# -X utf8: the guest has no locale, and paths are bytes.
# -PsSB is -ISB that reads variables, of which init has those of the kernel's command line.
PYTHON_OPTIONS = "-PsSB -X utf8 -X frozen_modules=on"
# Random keys for hashes are read from /dev/urandom; a kernel that has no random numbers yet, for
# lack of rdrand, collects some for a second. Hashes of the agent meet no data of another guest.
PYTHON_VARIABLES = "PYTHONHASHSEED=0"
FORMER_SECONDS = 3600
MAX_SOURCE = 4 << 20


@dataclass(frozen=True, slots=True)
class Agent:
    """A frozen agent in the store.

    ``kernel_arguments`` belong at the end of the kernel's command line, and start the agent.
    """

    archive: Archive
    path: Path
    digest: str
    version: str
    kernel_arguments: str


def freeze_agent(
    store: ImageStore, architecture: str, progress: Progress, *, verify: bool = False
) -> Agent:
    """Return the frozen agent for an architecture (Debian's name); freeze it if sources changed.

    With ``verify`` every byte of an existing archive is checked, else only its length.

    Raises:
        BuildFailed: the agent cannot be frozen.
        ImageError: the store is invalid.
    """
    sources = AgentSources()
    key = f"{architecture}-{sources.fingerprint()}"
    archive = _find_stored(store, key, verify=verify)
    if archive is None:
        progress("freezing the agent")
        # The archive depends on Debian's packages too; they are resolved when sources change.
        with store.building("agent-packages", progress):
            tree = assemble_tree(sources, store, architecture, progress)

        def write(output: BinaryIO) -> None:
            from slipway_initramfs.rootfs.cpio import write_tree

            write_tree(tree, output)

        archive = store.put_archive(KIND, key, write)
        _forget_former(store, architecture, key)
    loader = f"/{ROOT}/lib/{loader_name(architecture)}"
    arguments = (
        f"rdinit={loader} {PYTHON_VARIABLES} -- --inhibit-cache --library-path /{ROOT}/lib"
        f" /{ROOT}/bin/python3 {PYTHON_OPTIONS} /{ROOT}/agent.pyc"
    )
    return Agent(archive, archive.path, archive.blob.digest, sources.version(), arguments)


def adopt_agent(store: ImageStore, architecture: str, blob: Blob) -> None:
    """Register ``blob``, frozen elsewhere from these sources, unless the store has an intact agent.

    Call within ``building``.
    """
    key = f"{architecture}-{AgentSources().fingerprint()}"
    if _find_stored(store, key, verify=True) is None:
        manifest = {"archive": {"digest": blob.digest, "size": blob.size}}
        store.put_record(f"archive-{KIND}", key, manifest)


def loader_name(architecture: str) -> str:
    """Return the file name of the agent's loader."""
    return LOADERS[architecture].rpartition("/")[2]


def _find_stored(store: ImageStore, key: str, *, verify: bool) -> Archive | None:
    """Return the archive of this key, or None if it is missing or damaged."""
    try:
        archive = store.archive(KIND, key)
        if archive is not None:
            archive.verify() if verify else archive.quick_check()
    except ImageCorrupted:
        return None
    return archive


def _forget_former(store: ImageStore, architecture: str, key: str) -> None:
    """Remove references of agents of former sources; a prune of the store then removes the files.

    References younger than FORMER_SECONDS stay: another checkout may use the same store.
    """
    before = time.time() - FORMER_SECONDS
    for path in (store.root / "refs" / f"archive-{KIND}").glob(f"{architecture}-*"):
        with suppress(FileNotFoundError):
            if path.name != key and path.lstat().st_mtime < before:
                store.tree.remove_file(path)


def assemble_tree(
    sources: AgentSources, store: ImageStore, architecture: str, progress: Progress
) -> Tree:
    """Return the tree of the archive. The caller holds the store's lock.

    Raises:
        ImageError: a package or a file of it is missing.
    """
    from slipway_initramfs.rootfs.tree import Tree

    contents = sources.contents()
    debian = _unpack_packages(contents, store, architecture, progress)
    triplet = TRIPLETS[architecture]
    tree = Tree()
    for name, device in DEVICES.items():
        tree.add_device(f"dev/{name}", "c", device, 0o600 if name.startswith("tty") else 0o666)
    tree.add_directory(ROOT, 0o700)
    tree.add_directory(f"{ROOT}/disk", 0o700)
    tree.add_file(f"{ROOT}/bin/python3", _read_file(debian, f"usr/bin/python{PYTHON}"), 0o755)
    for name in contents["libraries"]:
        data = _find_library(debian, triplet, name)
        tree.add_file(f"{ROOT}/lib/{name}", data, 0o755)
    name = loader_name(architecture)
    loader = _find_library(debian, triplet, name)
    tree.add_file(f"{ROOT}/lib/{name}", _isolate_loader(loader), 0o755)
    extensions = {}
    for module, place in contents["extensions"].items():
        extensions[module] = f"{module}.so"
        data = _read_file(debian, place.format(triplet=triplet))
        tree.add_file(f"{ROOT}/lib/{module}.so", data, 0o755)
    tree.add_directory(f"{ROOT}/{LIBRARY}/lib-dynload")
    for module, place in contents["lazy_extensions"].items():
        data = _read_file(debian, place.format(triplet=triplet))
        tree.add_file(f"{ROOT}/{LIBRARY}/{module.replace('.', '/')}.so", data, 0o755)
    _add_modules(tree, sources, debian, contents, extensions)
    return tree


def _unpack_packages(
    contents: dict[str, Any], store: ImageStore, architecture: str, progress: Progress
) -> Tree:
    """Return a tree with the Debian packages that the agent is made of."""
    from slipway_initramfs.debian.archive import DebianArchive
    from slipway_initramfs.rootfs import defaults
    from slipway_initramfs.rootfs.layers import apply_layer
    from slipway_initramfs.rootfs.tree import Tree

    source = DebianArchive(store.apt, architecture, progress)
    wanted = contents["packages"]
    packages = [p for p in source.resolve(wanted) if p.name in wanted]
    source.check_room(packages, store.temporary, "the agent")
    source.fetch(packages)
    tree = Tree()
    defaults.merge_usr(tree, architecture)
    for package in packages:
        apply_layer(tree, source.open(package, store.temporary), "deb")
    return tree


def _read_file(tree: Tree, path: str) -> bytes:
    node = tree.find(path)
    if node is None or not node.is_file:
        raise BuildFailed(f"Debian's packages have no {path}, which the agent needs")
    return node.read(64 << 20)


def _find_library(tree: Tree, triplet: str, name: str) -> bytes:
    for directory in (f"lib/{triplet}", f"usr/lib/{triplet}", "lib"):
        node = tree.find(f"{directory}/{name}")
        if node is not None and node.is_file:
            return node.read(64 << 20)
    raise BuildFailed(f"Debian's packages have no {name}, which the agent needs")


def _isolate_loader(loader: bytes) -> bytes:
    """Replace the path of the loader's configuration by a path that no image has."""
    if FOREIGN not in loader:
        raise BuildFailed(f"the loader does not contain the path {FOREIGN.decode()}...")
    return loader.replace(FOREIGN, NOWHERE)


def _add_modules(
    tree: Tree,
    sources: AgentSources,
    debian: Tree,
    contents: dict[str, Any],
    extensions: dict[str, str],
) -> None:
    """Compile all modules: those of every start into one bundle, the others as files."""
    import marshal

    from slipway_initramfs.rootfs import bytecode
    from slipway_initramfs.rootfs.tree import Tree

    bundled = dict(_list_bundled_modules(sources, debian, contents))
    lazy = dict(_list_lazy_modules(debian, contents))
    interpreter = bytecode.find_interpreter(PYTHON)
    if interpreter is None:
        raise BuildFailed(
            f"cannot freeze the agent: Python {PYTHON} is not installed",
            f"Install it: apt-get update && apt-get install python{PYTHON}",
        )
    scratch = Tree()
    for part, modules in (("bundle", bundled), ("lazy", lazy)):
        for path, data in modules.items():
            scratch.add_file(f"{part}/python3/{path}", data)
    if bytecode.compile_all(scratch, interpreter, PYTHON) != len(bundled) + len(lazy):
        raise BuildFailed("cannot compile a module of the agent")
    table = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): (
            path.endswith("/__init__.py"),
            _read_bytecode(scratch, f"bundle/python3/{path}")[16:],
        )
        for path in bundled
    }
    main = table.pop("loader")
    header = _read_bytecode(scratch, "bundle/python3/loader.py")[:16]
    tree.add_file(f"{ROOT}/agent.pyc", header + main[1])
    tree.add_file(
        f"{ROOT}/agent.modules", marshal.dumps((table, extensions, tuple(contents["slim"])), 4)
    )
    for path in lazy:
        data = _read_bytecode(scratch, f"lazy/python3/{path}")
        tree.add_file(f"{ROOT}/{LIBRARY}/{path}c", data)


def _read_bytecode(tree: Tree, path: str) -> bytes:
    folder, _, name = path.rpartition("/")
    tag = PYTHON.replace(".", "")
    return _read_file(tree, f"{folder}/__pycache__/{name.removesuffix('.py')}.cpython-{tag}.pyc")


def _list_bundled_modules(
    sources: AgentSources, debian: Tree, contents: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Yield path and source of each module of the bundle; later modules replace earlier ones."""
    yield "loader.py", (sources.freeze / "loader.py").read_bytes()
    for path in contents["bundled"]:
        yield path, _read_source(debian, path)
    yield "sliplib/slip.py", (sources.sliplib / "slip.py").read_bytes()
    for package in (sources.agent, sources.protocol):
        for file in sorted(package.glob("*.py")):
            if file.name not in contents["left_out"]:
                yield f"{package.name}/{file.name}", file.read_bytes()
    slim = sources.freeze / "slim"
    for file in sorted(slim.rglob("*.py")):
        yield file.relative_to(slim).as_posix(), file.read_bytes()


def _list_lazy_modules(debian: Tree, contents: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    for path in contents["lazy"]:
        yield path, _read_source(debian, path)


def _read_source(debian: Tree, path: str) -> bytes:
    for directory in (f"usr/{LIBRARY}", "usr/lib/python3/dist-packages"):
        node = debian.find(f"{directory}/{path}")
        if node is not None and node.is_file:
            return node.read(MAX_SOURCE)
    raise BuildFailed(f"Debian's packages have no module {path}, which the agent needs")
