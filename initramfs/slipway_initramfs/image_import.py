"""Import of an exported image (image_archive.py) from an untrusted file.

The whole archive is read and checked before a record refers to any of its content. An invalid
archive leaves only files that the next garbage collection removes.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs import freeze
from slipway_initramfs.agent_sources import AgentSources
from slipway_initramfs.debian.archive import ARCHITECTURES
from slipway_initramfs.disk import space
from slipway_initramfs.errors import ImageCorrupted, ImageError, InvalidLanguage, UnknownLanguage
from slipway_initramfs.image_archive import ArchiveIndex, ArchiveReader, UnfitArchive
from slipway_initramfs.languages import catalogue, toml_file
from slipway_initramfs.languages.catalogue import LANGUAGE_KIND
from slipway_initramfs.oci.manifests import MAX_ENVIRONMENT, MAX_VARIABLES
from slipway_initramfs.store import manifests
from slipway_initramfs.store.garbage_collection import try_tidy

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.image_archive import ArchiveMember
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

_MAX_TEXT = 512


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Result of an import: the image in the store.

    ``replaced`` is true if another image had its name; ``agent`` is true if the archive's agent
    fits this version of Slipway. Otherwise the first run freezes an agent from Debian's packages.
    """

    image: Image
    replaced: bool
    agent: bool


def import_image(
    store: ImageStore, file: BinaryIO, progress: Callable[[str], None]
) -> ImportResult:
    """Import the image in ``file``, which is read in one pass.

    Intact kernels and agents of the store are kept, unless they are of another version.

    Raises:
        ImageError: the archive or the store is invalid; the store is unchanged.
    """
    reader = ArchiveReader(file)
    index = reader.index()
    key = index.keys["image"]
    total = sum(part.size for part in (*index.records.values(), *index.blobs))
    space.check_space("importing the image", (store.temporary, total))
    try:
        with store.building(f"image-{key}", progress):
            archive = _IncomingImage(store, reader, index)
            archive.read(progress)
            return archive.keep()
    finally:
        # The next writer would collect garbage too, but the space is needed now.
        with suppress(ImageError):
            try_tidy(store)


class _IncomingImage:
    """Import of one archive into a store."""

    def __init__(self, store: ImageStore, reader: ArchiveReader, index: ArchiveIndex) -> None:
        self._store = store
        self._reader = reader
        self._index = index
        self._manifests: dict[str, dict[str, Any]] = {}

    def read(self, progress: Callable[[str], None]) -> None:
        """Check all records, and store the blobs without a reference."""
        for kind, part in self._index.records.items():
            data = b"".join(self._reader.member(f"manifests/{part.digest}", part.size))
            self._manifests[kind] = _parse_manifest(kind, part, data)
        self._check_records()
        self._check_blobs()
        for number, part in enumerate(self._index.blobs, 1):
            progress(f"reading {number}/{len(self._index.blobs)} {part.digest[:12]}")
            self._store.put_blob(lambda file, part=part: self._copy_blob(part, file))  # type: ignore[misc]
        self._reader.end()

    def keep(self) -> ImportResult:
        """Write all references: the image's after the others, an added language's last."""
        keys, store = self._index.keys, self._store
        architecture = self._manifests["kernel"]["architecture"]
        if not _has_kernel(store, architecture):
            store.put_record("kernel", keys["kernel"], self._manifests["kernel"])
        same_agent = self._index.agent_sources == AgentSources().digest()
        if same_agent:
            agent = self._index.agent
            freeze.adopt_agent(store, architecture, store.blob(agent.digest, agent.size))
        before = store.reference("image", keys["image"])
        digest = store.put_record("image", keys["image"], self._manifests["image"])
        if "language" in keys:
            store.put_record(LANGUAGE_KIND, keys["language"], self._manifests["language"])
        image = store.image_of(self._manifests["image"], digest)
        return ImportResult(image, before not in (None, digest), same_agent)

    def _check_records(self) -> None:
        keys = self._index.keys
        try:
            image = self._store.image_of(
                self._manifests["image"], self._index.records["image"].digest
            )
            kernel = self._store.kernel_of(
                self._manifests["kernel"], self._index.records["kernel"].digest
            )
        except ImageCorrupted as error:
            raise UnfitArchive(f"the archive has a bad record: {error.message}") from error
        if (
            keys["image"] != image.key
            or image.manifest.get("language") != image.language
            or image.architecture not in ARCHITECTURES
            or kernel.architecture != image.architecture
            or keys["kernel"] != kernel.key
            or keys.get("language", image.language) != image.language
        ):
            raise UnfitArchive("the archive's records contradict each other")
        _check_words(image)
        language = self._find_language(image)
        if not language.matches(image):
            raise ImageError(
                f"the image {image.name!r} was built by another version of Slipway, or of its"
                " language file",
                "Export and import with the same version: this one would build the image again.",
            )

    def _find_language(self, image: Image) -> Language:
        """Return the image's language: a built-in language, or the one in the archive."""
        manifest = self._manifests.get("language")
        try:
            if manifest is None:
                return catalogue.find_language(image.name)
            catalogue.check_new_name(image.language)
            text = manifests.get_text(manifest, "file").encode()
            if set(manifest) != {"format", "kind", "file"} or not toml_file.is_language_name(
                image.language
            ):
                raise UnfitArchive("the archive has an invalid record of its language")
            return toml_file.parse_language(text, f"{image.language}.toml")
        except UnknownLanguage as error:
            raise UnfitArchive(
                f"the archive has no language file for {image.name[:80]!r}: {error.message}",
                error.hint,
            ) from error
        except (InvalidLanguage, ImageCorrupted, UnicodeEncodeError) as error:
            reason = error.message if isinstance(error, ImageError) else "no UTF-8"
            raise UnfitArchive(f"the archive has a bad language file: {reason}") from error

    def _check_blobs(self) -> None:
        """Check that the archive has exactly the blobs of its records, with equal sizes."""
        named = {self._index.agent.digest: self._index.agent.size}
        for kind in ("image", "kernel"):
            try:
                for blob in self._store.blobs_of(kind, self._manifests[kind]):
                    if named.setdefault(blob.digest, blob.size) != blob.size:
                        raise UnfitArchive("the archive's records contradict each other")
            except ImageCorrupted as error:
                raise UnfitArchive(f"the archive has a bad record: {error.message}") from error
        if named != {part.digest: part.size for part in self._index.blobs}:
            raise UnfitArchive("the archive's files differ from those of its records")

    def _copy_blob(self, part: ArchiveMember, file: BinaryIO) -> None:
        digest = hashlib.sha256()
        for data in self._reader.member(f"blobs/{part.digest}", part.size):
            digest.update(data)
            file.write(data)
        if digest.hexdigest() != part.digest:
            raise UnfitArchive(
                f"the archive is damaged in {part.digest[:16]}", "Copy or export it again."
            )


def _parse_manifest(kind: str, part: ArchiveMember, data: bytes) -> dict[str, Any]:
    if hashlib.sha256(data).hexdigest() != part.digest:
        raise UnfitArchive(f"the archive is damaged in its record of the {kind}")
    try:
        manifest = manifests.parse_manifest(data, kind)
        same = manifests.encode_manifest(kind, manifest) == data
    except (ImageCorrupted, RecursionError, ValueError) as error:
        raise UnfitArchive(f"the archive has a bad record of the {kind}") from error
    if not same:
        raise UnfitArchive(f"the archive's record of the {kind} is not in the form of a store")
    return manifest


def _check_words(image: Image) -> None:
    """Refuse texts that a build would not have recorded: a terminal or a job might get them."""
    for value in image.source.values():
        if isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
            raise UnfitArchive("the archive's image has an invalid text about its source")
    variables = image.environment
    size = sum(
        len(name.encode("utf-8", "replace")) + len(value) for name, value in variables.items()
    )
    if (
        len(variables) > MAX_VARIABLES
        or size > 2 * MAX_ENVIRONMENT
        or any("=" in name or not name for name in variables)
        or any("\0" in text for pair in variables.items() for text in pair)
    ):
        raise UnfitArchive("the archive's image has invalid environment variables")


def _has_kernel(store: ImageStore, architecture: str) -> bool:
    """Return whether the store has a kernel that is intact and current."""
    try:
        kernel = store.kernel(architecture)
        if kernel is None or not kernel.is_current:
            return False
        kernel.verify()
    except ImageCorrupted:
        return False
    return True
