"""Provider of images: the seam between a run and the image store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from slipway._run.assets import find_kernel
from slipway._run.find_assets import find_assets

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import AssetRequest, Assets, Progress
    from slipway.machine.model import Hypervisor
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore


class ImageProvider(Protocol):
    """Source of the assets that machines boot from. Its methods may be called in any thread."""

    def find(self, request: AssetRequest, progress: Progress, *, repair: bool = False) -> Assets:
        """Find the assets of a machine. Build missing ones, and with ``repair`` damaged ones.

        Raises:
            HostError: the assets are missing, and this host cannot run the machine.
            ImageError: they cannot be built.
            InputError: the machine would have too little memory.
        """
        ...

    def choose_hypervisor(self, options: Options) -> Hypervisor:
        """Choose the hypervisor of ``options``; called once for each run.

        Raises:
            InputError: the hypervisor is unknown.
        """
        ...

    def is_built(self, language: Language, options: Options) -> bool:
        """Return whether :meth:`find` has no image to build, which takes minutes."""
        ...

    def is_known(self, language: Language, options: Options) -> bool:
        """Return whether there is an image of this name, perhaps damaged or of an older form."""
        ...


class StoredImages:
    """Images of ``store``; missing ones are built into the store."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def find(self, request: AssetRequest, progress: Progress, *, repair: bool = False) -> Assets:
        """Find or build the assets of a machine; see :meth:`ImageProvider.find`."""
        language, options, hypervisor = request.language, request.options, request.hypervisor
        return find_assets(
            language, options, self._store, progress, hypervisor=hypervisor, repair=repair
        )

    def choose_hypervisor(self, options: Options) -> Hypervisor:
        """Choose the hypervisor of ``options``; see :meth:`ImageProvider.choose_hypervisor`."""
        from slipway.machine.hypervisors import choose

        return choose(options.machine, self._store.root, options.arch)

    def is_built(self, language: Language, options: Options) -> bool:
        """Return whether the store has the image and the kernel, neither of them stale."""
        from slipway_initramfs.errors import ImageCorrupted

        architecture = None if options.arch == "auto" else options.arch
        try:
            image = self._store.image(language.image, architecture)
            kernel = find_kernel(self._store, architecture, options)
            if image is None or kernel is None:
                return False
            return language.matches(image) and kernel.is_current
        except ImageCorrupted:
            return False

    def is_known(self, language: Language, options: Options) -> bool:
        """Return whether the store has an image of this name, perhaps damaged or stale."""
        from slipway_initramfs.errors import ImageCorrupted

        architecture = None if options.arch == "auto" else options.arch
        try:
            return self._store.image(language.image, architecture) is not None
        except ImageCorrupted:
            return True
