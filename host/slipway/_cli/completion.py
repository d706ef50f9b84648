"""``slipway completion``: print completion scripts for shells."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slipway._cli.parser import Parser
from slipway._cli.program import COMMANDS
from slipway._cli.terminal import print_text

if TYPE_CHECKING:
    from collections.abc import Iterable

SHELLS = ("bash", "zsh", "fish")
# The metavar of an argument decides how its value is completed.
_FILES = {"FILE", "PATH", "NAME|PATH", "LOCAL[:GUEST]"}
_WORDS = {"LANGUAGE": "languages", "IMAGE": "images", "KEY": "snapshots"}
_DESCRIPTION = """\
Print a script for the completion of commands, options, languages and files:
  bash:  eval "$(slipway completion bash)"    in ~/.bashrc
  zsh:   eval "$(slipway completion zsh)"     in ~/.zshrc, after compinit
  fish:  slipway completion fish | source     in ~/.config/fish/config.fish
"""


def build_parser(prog: str) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=prog,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "shell", metavar="SHELL", nargs="?", choices=SHELLS, help="bash, zsh or fish"
    )
    parser.add_argument("--words", choices=tuple(_WORDS.values()), help=argparse.SUPPRESS)
    return parser


def run_command(arguments: list[str], prog: str) -> int:
    """Print the script, or words for a script; return 0."""
    parsed = build_parser(prog).parse_args(arguments)
    if parsed.words is not None:
        print_text("".join(f"{word}\n" for word in sorted(_list_words(parsed.words))))
        return 0
    if parsed.shell is None:
        build_parser(prog).error("the following arguments are required: SHELL")
    import shtab

    from slipway._cli.parser_tree import build_command_parser, build_slipway_parser, walk_parsers

    for program in (build_slipway_parser(), build_command_parser("run", "vmm-run")):
        for each in walk_parsers(program):
            # Shown beside a command in the shell: the short text.
            name = (each.prog or "").rpartition(" ")[2]
            each.description = COMMANDS.get(name, (each.description or "").partition("\n")[0])
            for action in each._actions:
                _set_completion(action)
        print_text(shtab.complete(program, parsed.shell) + "\n")
    return 0


def _set_completion(action: argparse.Action) -> None:
    """Set how shtab completes the value of ``action``, unless by its choices."""
    import shtab

    metavar = action.metavar
    if action.choices is not None:
        return
    if metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif metavar == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif isinstance(metavar, str) and metavar in _WORDS:
        # Prints nothing if slipway is in a virtual environment that is not active.
        words = shtab.cmd(f"slipway completion --words {_WORDS[metavar]} 2>/dev/null")
        action.complete = words  # type: ignore[attr-defined]


def _list_words(what: str) -> Iterable[str]:
    """Return the languages, images or snapshots of the store."""
    from slipway._run.image_errors import translated_image_errors
    from slipway_initramfs.languages import catalogue
    from slipway_initramfs.store.image_store import ImageStore

    store = ImageStore()
    with translated_image_errors():
        if what == "snapshots":
            return store.names("snapshot")
        images = {image.name for image in store.images()}
        return images if what == "images" else images | set(catalogue.known_languages(store))
