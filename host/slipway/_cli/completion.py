"""``slipway completion``: what a shell needs to complete our command lines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slipway._cli.parsers import Parser
from slipway._cli.program import VERBS
from slipway._cli.terminal import emit

if TYPE_CHECKING:
    from collections.abc import Iterable

SHELLS = ("bash", "zsh", "fish")
# How a value is completed follows from what stands for it in the help.
_FILES = {"FILE", "PATH", "LOCAL[:GUEST]"}
_WORDS = {"LANGUAGE": "languages", "IMAGE": "images", "KEY": "snapshots"}
_DESCRIPTION = """\
Print what lets a shell complete the verbs, options, languages and files of slipway and vmm-run:
  bash:  eval "$(slipway completion bash)"    in ~/.bashrc
  zsh:   eval "$(slipway completion zsh)"     in ~/.zshrc, after compinit
  fish:  slipway completion fish | source     in ~/.config/fish/config.fish
"""


def parser(prog: str) -> Parser:
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


def command(arguments: list[str], prog: str) -> int:
    """Print the script, or the words that a script asks for; 0."""
    parsed = parser(prog).parse_args(arguments)
    if parsed.words is not None:
        emit("".join(f"{word}\n" for word in sorted(_words(parsed.words))))
        return 0
    if parsed.shell is None:
        parser(prog).error("the following arguments are required: SHELL")
    import shtab

    from slipway._cli.tree import slipway_parser, verb_parser, walk

    for program in (slipway_parser(), verb_parser("run", "vmm-run")):
        for each in walk(program):
            # What is shown beside a verb; the longer text is for its help.
            verb = (each.prog or "").rpartition(" ")[2]
            each.description = VERBS.get(verb, (each.description or "").partition("\n")[0])
            for action in each._actions:
                _tell_completion(action)
        emit(shtab.complete(program, parsed.shell) + "\n")
    return 0


def _tell_completion(action: argparse.Action) -> None:
    """Tell shtab how the value of ``action`` is completed, unless by its choices."""
    import shtab

    metavar = action.metavar
    if action.choices is not None:
        return
    if metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif metavar == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif isinstance(metavar, str) and metavar in _WORDS:
        # The programs may be in a virtual environment that is not active; then it is no word.
        words = shtab.cmd(f"slipway completion --words {_WORDS[metavar]} 2>/dev/null")
        action.complete = words  # type: ignore[attr-defined]


def _words(what: str) -> Iterable[str]:
    """Return what there is of it in the store."""
    from slipway._run.image_errors import errors_told_to_callers
    from slipway_initramfs.languages import catalogue
    from slipway_initramfs.store.image_store import ImageStore

    store = ImageStore()
    with errors_told_to_callers():
        if what == "snapshots":
            return store.names("snapshot")
        images = {image.name for image in store.images()}
        return images if what == "images" else images | set(catalogue.known_languages(store))
