"""``slipway snapshot``: what machines are cloned from."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slipway._cli.quantities import mebibytes
from slipway._cli.tables import Column, table
from slipway._cli.terminal import emit, say
from slipway._cli.verbs import Verbs
from slipway._model.errors import HostError, InputError
from slipway._snapshots.key import FORMAT, digest_of, language_digest
from slipway._snapshots.store import SnapshotStore

if TYPE_CHECKING:
    import argparse

    from slipway._cli.parsers import Parser
    from slipway._snapshots.store import StoredSnapshot
    from slipway_initramfs.store.image_store import ImageStore


def command(arguments: list[str], prog: str) -> int:
    """Run one verb of ``slipway snapshot``.

    Raises:
        SlipwayError: it could not be done.
    """
    return _verbs(prog).run(arguments)


def parser(prog: str) -> Parser:
    """Return the parser of the verbs."""
    return _verbs(prog).parser


def _verbs(prog: str) -> Verbs:
    verbs = Verbs(
        prog,
        "Snapshots, from which machines are cloned instead of booted."
        " They are made by: slipway image build --snapshot LANGUAGE",
    )
    add = verbs.add
    listing = add("list", _list, "what is there, and whether it is of use on this host today")
    listing.add_argument("--json", action="store_true", help="print records")
    remove = add("remove", _remove, "remove snapshots; machines cloned from them go on")
    remove.add_argument("keys", nargs="*", metavar="KEY", help="as the list shows it")
    remove.add_argument("--all", action="store_true", help="remove all of them")
    return verbs


def _list(parsed: argparse.Namespace, store: ImageStore) -> int:
    snapshots = SnapshotStore(store).list()
    if parsed.json:
        found = [_record(snapshot, staleness(snapshot, store)) for snapshot in snapshots]
        emit(json.dumps(found, indent=1) + "\n")
        return 0
    if not snapshots:
        say("there are no snapshots yet; make one: slipway image build --snapshot python")
        return 0
    columns = (
        *(Column("KEY"), Column("IMAGE", cut=True), Column("MACHINE")),
        *(Column(name, right=True) for name in ("MEMORY", "CPUS", "MIB")),
        *(Column("MADE", cut=True), Column("STATE", cut=True)),
    )
    rows = []
    for snapshot in snapshots:
        shape, stale = snapshot.shape, staleness(snapshot, store)
        size = (mebibytes(shape.memory_bytes), shape.cpus, mebibytes(snapshot.disk_bytes))
        state = f"stale: {stale}" if stale else "current"
        rows.append((shape.key, shape.image, shape.machine, *size, snapshot.made, state))
    emit(table(columns, rows, sys.stdout))
    return 0


def _remove(parsed: argparse.Namespace, store: ImageStore) -> int:
    snapshots = SnapshotStore(store)
    # Damaged ones are in no list, and may be removed all the same.
    known = store.names("snapshot")
    if parsed.all == bool(parsed.keys):
        raise InputError(
            "keys are given beside --all" if parsed.all else "no snapshot is named",
            "Name the keys that 'slipway snapshot list' shows, or give --all.",
        )
    for key in parsed.keys:
        if key not in known:
            raise _unknown(key, known)
    for key in dict.fromkeys(known if parsed.all else parsed.keys):
        say(f"{key}: {mebibytes(snapshots.remove(key))} MiB freed")
    return 0


def _unknown(key: str, known: list[str]) -> InputError:
    import difflib

    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "See: slipway snapshot list"
    return InputError(f"there is no snapshot {key[:160]!r}", hint)


def remove_stale(store: ImageStore) -> int:
    """Remove the snapshots that are of no use any more; return the bytes freed.

    Raises:
        ImageError: another process is writing to the store.
    """
    snapshots = SnapshotStore(store)
    return sum(snapshots.remove(key) for key in stale_keys(store))


def stale_keys(store: ImageStore) -> list[str]:
    """Return the keys of the snapshots that are of no use any more.

    Raises:
        ImageError: the store cannot be read.
    """
    snapshots = SnapshotStore(store).list()
    return [found.shape.key for found in snapshots if staleness(found, store)]


def staleness(snapshot: StoredSnapshot, store: ImageStore) -> str:
    """Why a snapshot is of no use on this host today, as far as that is known soon, or nothing.

    A frozen agent of other sources is only noticed when the old one is gone: what is wanted today
    is known when it has been made.
    """
    from slipway.machine.hypervisors import HYPERVISORS, find_hypervisor
    from slipway_initramfs.errors import ImageError
    from slipway_protocol import __version__

    parts = dict(snapshot.shape.parts)
    if parts.get("version") != f"{__version__} {FORMAT}":
        return "another version of Slipway made it"
    try:
        image, kernel = store.image(snapshot.shape.image), store.kernel()
        agents = _agents(store)
    except ImageError as error:
        return error.message
    if image is None or image.digest != parts.get("image"):
        return "its image has been replaced" if image else "its image is gone"
    if kernel is None or kernel.digest != parts.get("kernel"):
        return "the kernel has been replaced"
    if parts.get("agent") not in agents:
        return "the agent has been replaced"
    if _language(image.name, image.environment, store) != parts.get("language"):
        return "its language is described otherwise now"
    if snapshot.shape.machine not in HYPERVISORS:
        return "there is no such machine"
    try:
        fingerprint = find_hypervisor(snapshot.shape.machine).fingerprint()
    except HostError as error:
        return error.message
    if digest_of(fingerprint) != parts.get("host"):
        return "it is of another CPU, kernel or VMM than this host's"
    for blob in (snapshot.memory, snapshot.state):
        try:
            blob.quick_check()
        except ImageError as error:
            return error.message
    return ""


def _agents(store: ImageStore) -> set[str]:
    """The digests of all frozen agents that the store has."""
    found = (store.archive("agent", key) for key in store.names("archive-agent"))
    return {archive.blob.digest for archive in found if archive is not None}


def _language(name: str, environment: dict[str, str], store: ImageStore) -> str:
    from slipway_initramfs.errors import ImageError
    from slipway_initramfs.languages import catalogue

    try:
        language = catalogue.find_language(name, store)
    except ImageError:
        return ""
    return language_digest(replace(language, environment={**environment, **language.environment}))


def _record(snapshot: StoredSnapshot, stale: str) -> dict[str, Any]:
    shape = snapshot.shape
    return {
        "key": shape.key,
        "image": shape.image,
        "machine": shape.machine,
        "memory": shape.memory_bytes,
        "cpus": shape.cpus,
        "disk_bytes": snapshot.disk_bytes,
        "made": snapshot.made,
        "current": not stale,
        "stale": stale,
    }
