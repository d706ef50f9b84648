"""``slipway snapshot``: snapshots, from which machines are cloned."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slipway._cli.command_group import CommandGroup
from slipway._cli.tables import Column, format_table
from slipway._cli.terminal import print_text, write_line
from slipway._snapshots.key import DIFFERENCES, FORMAT, json_digest, language_digest
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import HostError, InputError
from slipway._util.near_names import find_near_names
from slipway._util.units import format_mib, format_time, to_mebibytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from slipway._cli.parser import Parser
    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway_initramfs.store.image_store import ImageStore


def run_command(arguments: list[str], prog: str) -> int:
    """Run one command of ``slipway snapshot``.

    Raises:
        SlipwayError: the command failed.
    """
    return _build_group(prog).run(arguments)


def build_parser(prog: str) -> Parser:
    """Return the parser of all commands."""
    return _build_group(prog).parser


def _build_group(prog: str) -> CommandGroup:
    group = CommandGroup(
        prog,
        "Snapshots, from which machines are cloned instead of booted."
        " To take one: slipway image build LANGUAGE",
    )
    listing = group.add("list", _list_snapshots, "list snapshots, and their state on this host")
    listing.add_argument("--json", action="store_true", help="print JSON records")
    remove = group.add("remove", _remove_snapshots, "remove snapshots; running clones continue")
    remove.add_argument("keys", nargs="*", metavar="KEY", help="key, as shown by the list")
    remove.add_argument("--all", action="store_true", help="remove all snapshots")
    return group


def _list_snapshots(parsed: argparse.Namespace, store: ImageStore) -> int:
    snapshots = SnapshotStore(store).list()
    if parsed.json:
        found = [
            _describe_snapshot(snapshot, find_staleness(snapshot, store)) for snapshot in snapshots
        ]
        print_text(json.dumps(found, indent=1) + "\n")
        return 0
    if not snapshots:
        write_line("no snapshots yet; to take one: slipway image build python")
        return 0
    columns = (
        *(Column("KEY"), Column("IMAGE", cut=True), Column("ARCH"), Column("MACHINE")),
        *(Column(name, right=True) for name in ("MEMORY", "CPUS", "MIB")),
        *(Column(name, cut=True) for name in ("CREATED", "USED", "STATE")),
    )
    rows = []
    for snapshot in snapshots:
        key, stale = snapshot.key, find_staleness(snapshot, store)
        size = (to_mebibytes(key.memory_bytes), key.cpus, to_mebibytes(snapshot.disk_bytes))
        state = f"stale: {stale}" if stale else "current"
        machine = key.architecture, key.hypervisor
        times = format_time(snapshot.made), format_time(snapshot.used)
        rows.append((key.name, key.image, *machine, *size, *times, state))
    print_text(format_table(columns, rows, sys.stdout))
    return 0


def _remove_snapshots(parsed: argparse.Namespace, store: ImageStore) -> int:
    snapshots = SnapshotStore(store)
    # Damaged snapshots are not in the list, but can be removed.
    known = store.names("snapshot")
    if parsed.all == bool(parsed.keys):
        raise InputError(
            "--all and keys exclude each other" if parsed.all else "missing KEY",
            "Name keys that 'slipway snapshot list' shows, or use --all.",
        )
    for key in parsed.keys:
        if key not in known:
            raise _make_unknown_key_error(key, known)
    for key in dict.fromkeys(known if parsed.all else parsed.keys):
        write_line(f"removed {key}: {format_mib(snapshots.remove(key), 0)}")
    return 0


def _make_unknown_key_error(key: str, known: list[str]) -> InputError:
    near = find_near_names(key, known, 3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See: slipway snapshot list"
    return InputError(f"snapshot {key[:160]!r} not found", hint)


def remove_snapshots(keys: Iterable[str], store: ImageStore) -> int:
    """Remove the snapshots of ``keys``; return the freed bytes.

    Raises:
        ImageError: another process is writing to the store.
    """
    snapshots = SnapshotStore(store)
    return sum(snapshots.remove(key) for key in keys)


def find_stale_keys(store: ImageStore) -> list[str]:
    """Return the keys of stale snapshots.

    Raises:
        ImageError: the store cannot be read.
    """
    snapshots = SnapshotStore(store).list()
    return [found.key.name for found in snapshots if find_staleness(found, store)]


def find_staleness(snapshot: StoredSnapshot, store: ImageStore) -> str:
    """Return why a snapshot is stale on this host, or an empty text.

    Only checks without a build are done. A change of the agent's sources is found as soon as the
    old agent has been removed.
    """
    from slipway.machine.hypervisors import HYPERVISORS, find_hypervisor
    from slipway_initramfs.errors import ImageError
    from slipway_protocol import __version__

    parts = dict(snapshot.key.parts)
    if parts.get("version") != f"{__version__} {FORMAT}":
        return DIFFERENCES["version"]
    try:
        architecture = snapshot.key.architecture
        image = store.image(snapshot.key.image, architecture)
        kernel = store.find_kernel(architecture, snapshot.key.kernel)
        agents = _list_agents(store)
    except ImageError as error:
        return error.message
    if image is None or image.digest != parts.get("image"):
        return DIFFERENCES["image"] if image else "its image was removed"
    if kernel is None or kernel.digest != parts.get("kernel"):
        return DIFFERENCES["kernel"] if kernel else "its kernel was removed"
    if parts.get("agent") not in agents:
        return DIFFERENCES["agent"]
    if _digest_language(image.name, image.environment, store) != parts.get("language"):
        return DIFFERENCES["language"]
    if snapshot.key.hypervisor not in HYPERVISORS:
        return "unknown hypervisor"
    try:
        name, architecture = snapshot.key.hypervisor, snapshot.key.architecture
        fingerprint = find_hypervisor(name, architecture=architecture).fingerprint()
    except (HostError, InputError) as error:
        return error.message
    if json_digest(fingerprint) != parts.get("host"):
        return DIFFERENCES["host"]
    for blob in (snapshot.memory, snapshot.state):
        try:
            blob.quick_check()
        except ImageError as error:
            return error.message
    return ""


def _list_agents(store: ImageStore) -> set[str]:
    """Return the digests of all frozen agents in the store."""
    found = (store.archive("agent", key) for key in store.names("archive-agent"))
    return {archive.blob.digest for archive in found if archive is not None}


def _digest_language(name: str, environment: dict[str, str], store: ImageStore) -> str:
    from slipway_initramfs.errors import ImageError
    from slipway_initramfs.languages import catalogue

    try:
        language = catalogue.find_language(name, store)
    except ImageError:
        return ""
    return language_digest(replace(language, environment={**environment, **language.environment}))


def _describe_snapshot(snapshot: StoredSnapshot, stale: str) -> dict[str, Any]:
    key = snapshot.key
    return {
        "key": key.name,
        "image": key.image,
        "architecture": key.architecture,
        "machine": key.hypervisor,
        "memory": key.memory_bytes,
        "cpus": key.cpus,
        "port": key.port,
        "network": key.network,
        "kernel": key.kernel,
        "disk_bytes": snapshot.disk_bytes,
        "made": format_time(snapshot.made),
        "used": format_time(snapshot.used),
        "current": not stale,
        "stale": stale,
    }
