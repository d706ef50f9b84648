"""Snapshots that ``slipway image build`` takes of the images that it has built."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from slipway._cli.event_loop import run_interruptible
from slipway._cli.progress import Progress
from slipway._cli.snapshot_budget import add_snapshot_budget
from slipway._cli.terminal import write_line
from slipway._model.network import Network
from slipway._model.options import KERNEL_NAMES, OPTIONS, Options
from slipway._util.errors import HostError, InputError, SlipwayError
from slipway._util.units import format_mib

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from slipway._cli.parser import Parser
    from slipway._run.assets import AssetRequest
    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway.machine.model import Hypervisor
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore


def add_snapshot_options(parser: Parser) -> None:
    """Add the options that say of which machines snapshots are taken."""
    import argparse

    add = parser.add_argument
    add(
        "--snapshot",
        action=argparse.BooleanOptionalAction,
        help="take a snapshot, from which machines are cloned (default: take it if possible)",
    )
    add(
        "--machine",
        choices=OPTIONS["machine"].choices,
        help="hypervisor of the snapshot (default: auto)",
    )
    add("--port", choices=OPTIONS["port"].choices, help="port of the snapshot (default: auto)")
    add("--kernel", choices=KERNEL_NAMES, help="kernel of the snapshot (default: the one in use)")
    add(
        "--network",
        action="store_true",
        help="take the snapshot of a machine with a network, for runs with any rules",
    )
    add_snapshot_budget(parser)


def read_snapshot_options(parsed: argparse.Namespace) -> Options | None:
    """Return the options of the machines for snapshots, or None with --no-snapshot.

    Raises:
        InputError: arguments exclude each other.
    """
    if parsed.snapshot is False:
        for name in ("machine", "port", "kernel", "network", "snapshot_budget"):
            if getattr(parsed, name) not in (None, False):
                option = "--" + name.replace("_", "-")
                raise InputError(
                    f"{option} and --no-snapshot exclude each other",
                    f"Leave out {option}: images do not depend on it.",
                )
        return None
    # A snapshot has no rules: each clone gets those of its run.
    network = Network() if parsed.network else None
    return Options(
        machine=parsed.machine or "auto",
        arch=parsed.arch,
        port=parsed.port or "auto",
        network=network,
        kernel=parsed.kernel,
    )


class SnapshotCreation:
    """Creation of the snapshots of several images, one after the other.

    If they are not ``required``, a failure is a warning, and the images stay good.
    """

    def __init__(
        self,
        store: ImageStore,
        hypervisor: Hypervisor,
        options: Options,
        budget: int | None,
        *,
        required: bool,
    ) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._options = options
        self._budget = budget
        self._required = required
        self._failure: HostError | None = None

    def check_host(self) -> None:
        """Check that this host can run machines, before any work begins.

        Raises:
            HostError: this host lacks something, and the snapshots are required.
        """
        try:
            self._hypervisor.check()
        except HostError as error:
            if self._required:
                raise
            self._failure = error

    def create_all(self, languages: Sequence[Language]) -> None:
        """Take a snapshot of each language's image, unless the store has it, and report all.

        Raises:
            SlipwayError: a snapshot cannot be taken, and the snapshots are required.
        """
        from slipway._snapshots.budget import measure_use
        from slipway._snapshots.store import SnapshotStore

        for language in languages:
            try:
                self._create(language)
            except SlipwayError as error:
                if self._required:
                    raise
                write_line(f"warning: no snapshot of {language.image}: {error.message}")
                if error.hint:
                    write_line(f"hint: {error.hint}")
        found = SnapshotStore(self._store).list()
        if found:
            write_line(str(measure_use(found, self._store.root, self._budget)))

    def _create(self, language: Language) -> None:
        """Take the snapshot of one image, and report it.

        Raises:
            SlipwayError: the snapshot cannot be taken.
        """
        from slipway._run.assets import AssetRequest
        from slipway._run.image_errors import translated_image_errors

        if self._failure is not None:
            raise self._failure
        request = AssetRequest(language, self._options, self._hypervisor)
        progress = Progress()
        began = time.monotonic()
        try:
            with translated_image_errors():
                stored, is_new = self._find_or_create(request, progress)
        finally:
            progress.clear()
        taken = f"{time.monotonic() - began:.1f} s" if is_new else "current"
        write_line(f"snapshot {stored.key.name}: {format_mib(stored.disk_bytes, 0)}, {taken}")

    def _find_or_create(
        self, request: AssetRequest, progress: Progress
    ) -> tuple[StoredSnapshot, bool]:
        from slipway._run.find_assets import find_assets
        from slipway._snapshots.create import create_sound_snapshot
        from slipway._snapshots.key import SnapshotKey
        from slipway._snapshots.store import SnapshotStore

        options, store = request.options, self._store
        assets = find_assets(
            request.language, options, store, progress, hypervisor=request.hypervisor
        )
        snapshots = SnapshotStore(store)
        if stored := snapshots.find_sound(SnapshotKey.of_run(assets, options), progress):
            return stored, False
        stored = run_interruptible(
            lambda: create_sound_snapshot(assets, options, store, progress, self._budget)
        )
        return stored, True
