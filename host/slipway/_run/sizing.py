"""How much memory a machine has, and whether what a run asks for fits into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway._model.options import MAX_MEMORY
from slipway._util.units import MIB

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.records import Image

# The agent gives a job's disk this share of what the machine leaves its programs.
DISK_SHARE = 2
# A file has whole pages of its disk.
_PAGE = 4096


def choose_machine_memory(image: Image, language: Language, options: Options) -> int:
    """What the machine has: whole MiB, which all machines can have and snapshots are named by.

    Where it is not given, it is the image's default, or more where a limit needs it.

    Raises:
        InputError: it is too little, or more than this host has.
    """
    name, limit = _largest_limit(language, options)
    if options.memory is None:
        memory = image.default_memory
        if limit > image.room(memory):
            memory = image.memory_for(limit + _size_of_files(options, 0))
        told = f"{name} of {_mib(limit)} takes a machine of {_mib(memory)}"
    else:
        if options.memory < image.minimum_memory:
            minimum = -(-image.minimum_memory // MIB)
            given = _mib(options.memory) if options.memory >= MIB else f"{options.memory} bytes"
            raise InputError(
                f"{image.name} needs {minimum} MiB of memory to boot, and {given} are given",
                f"Give at least {minimum} MiB ({minimum * MIB} bytes); "
                f"the default is {image.default_memory // MIB} MiB.",
            )
        memory = -(-options.memory // MIB) * MIB
        told, name = f"memory is {_mib(memory)}", "memory"
    most = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), MAX_MEMORY)
    if memory > most and memory > image.default_memory:
        raise InputError(f"{told}, and this host has {most // MIB} MiB", f"Give less {name}.")
    return memory


def check_room(
    image: Image, language: Language, has: int, options: Options, source_size: int
) -> None:
    """Check that a machine of ``has`` bytes has room for the limits and the files of a run.

    Raises:
        InputError: it has not.
    """
    name, limit = _largest_limit(language, options)
    room = image.room(has)
    if limit > room:
        raise InputError(
            f"{name} is {_mib(limit)}, and of a machine whose memory is {_mib(has)} "
            f"its programs can have {room // MIB} MiB",
            f"{_hint_at_memory(image, limit)} Or give a smaller {name}.",
        )
    if not options.files:
        return
    size = _size_of_files(options, source_size)
    if size > room // DISK_SHARE:
        raise InputError(
            f"the input files take {size / MIB:.1f} MiB, and the disk of a machine whose memory is "
            f"{_mib(has)} has {room / DISK_SHARE / MIB:.1f} MiB",
            _hint_at_memory(image, DISK_SHARE * size),
        )


def _hint_at_memory(image: Image, room: int) -> str:
    memory = image.memory_for(room)
    return (
        f"Give the machine more memory: --memory {memory // MIB} (the option memory, in bytes: "
        f"{memory})."
    )


def _largest_limit(language: Language, options: Options) -> tuple[str, int]:
    """The name and the bytes of the memory limit that needs most; 0 where neither is set."""
    limits = [("memory_limit", options.memory_limit or language.run.limits.memory * MIB)]
    if language.build is not None:
        build = options.build_memory_limit or language.build.limits.memory * MIB
        limits.append(("build_memory_limit", build))
    return max(limits, key=lambda limit: limit[1])


def _size_of_files(options: Options, source_size: int) -> int:
    sizes = [source_size, *(len(file.data) for file in options.files)]
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


def _mib(size: int) -> str:
    return f"{size // MIB} MiB" if not size % MIB else f"{size / MIB:.1f} MiB"
