"""Memory of a machine, and the limits and files that fit into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._model.options import MAX_MEMORY
from slipway._util.errors import InputError
from slipway._util.units import MIB, format_mib

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.records import Image

# The agent gives a job's workspace this share of the memory for programs.
DISK_SHARE = 2
# A file takes whole pages of the workspace.
_PAGE = 4096


def choose_machine_memory(image: Image, language: Language, options: Options) -> int:
    """Choose the memory of the machine in bytes, a multiple of 1 MiB.

    The default is that of the image, or more if a limit needs more.

    Raises:
        InputError: the memory is too little, or more than this host has.
    """
    name, limit = _find_largest_limit(language, options)
    if options.memory is None:
        memory = image.default_memory
        if limit > image.room(memory):
            memory = image.memory_for(limit + _measure_files(options, 0))
        reason = f"{name} of {format_mib(limit)} needs a machine of {format_mib(memory)}"
    else:
        if options.memory < image.minimum_memory:
            minimum = -(-image.minimum_memory // MIB)
            given = (
                format_mib(options.memory) if options.memory >= MIB else f"{options.memory} bytes"
            )
            raise InputError(
                f"{image.name} needs {minimum} MiB of memory to boot, and {given} are given",
                f"Give at least {minimum} MiB ({minimum * MIB} bytes); "
                f"the default is {format_mib(image.default_memory)}.",
            )
        memory = -(-options.memory // MIB) * MIB
        reason, name = f"memory is {format_mib(memory)}", "memory"
    most = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), MAX_MEMORY)
    if memory > most and memory > image.default_memory:
        raise InputError(f"{reason}, and this host has {format_mib(most)}", f"Give less {name}.")
    return memory


def check_room(
    image: Image, language: Language, memory: int, options: Options, source_size: int
) -> None:
    """Check that a machine with ``memory`` bytes has room for the limits and files of a run.

    Raises:
        InputError: a limit or the files do not fit.
    """
    name, limit = _find_largest_limit(language, options)
    room = image.room(memory)
    if limit > room:
        raise InputError(
            f"{name} is {format_mib(limit)}, and programs can have {format_mib(room)} in a machine "
            f"whose memory is {format_mib(memory)}",
            f"{_suggest_memory(image, limit)} Or give a smaller {name}.",
        )
    if not options.files:
        return
    size = _measure_files(options, source_size)
    if size > room // DISK_SHARE:
        raise InputError(
            f"the input files take {format_mib(size)}, and the workspace of a machine with "
            f"{format_mib(memory)} of memory has {format_mib(room / DISK_SHARE)}",
            _suggest_memory(image, DISK_SHARE * size),
        )


def _suggest_memory(image: Image, room: int) -> str:
    memory = image.memory_for(room)
    return (
        f"Give the machine more memory: --memory {memory // MIB} (the option memory, in bytes: "
        f"{memory})."
    )


def _find_largest_limit(language: Language, options: Options) -> tuple[str, int]:
    """Return name and bytes of the largest memory limit; 0 bytes if no limit is set."""
    limits = [("memory_limit", options.memory_limit or language.run.limits.memory * MIB)]
    if language.build is not None:
        build = options.build_memory_limit or language.build.limits.memory * MIB
        limits.append(("build_memory_limit", build))
    return max(limits, key=lambda limit: limit[1])


def _measure_files(options: Options, source_size: int) -> int:
    sizes = [source_size, *(len(file.data) for file in options.files)]
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)
