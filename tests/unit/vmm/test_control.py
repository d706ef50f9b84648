"""What a VMM and its parent say to each other; and a VMM that says anything at all."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import SlipwayError
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec
from slipway.machine.process import ChildProcess
from slipway.machine.zygote_handle import ZygoteHandle
from slipway.vmm.kvm import usability
from slipway.vmm.process import control

if TYPE_CHECKING:
    from typing import Self

fast = settings(deadline=None, derandomize=True, database=None, max_examples=300)

# As the file system may give them, whose names are bytes.
TEXTS = st.text() | st.binary().map(os.fsdecode)
NAMES = st.text(st.characters(exclude_characters="=\0", exclude_categories=["Cs"]))
VERBS = st.sampled_from(
    [control.RUNNING, control.FAILED, control.ENDED, control.PAUSED, control.REPORT, "", "x"]
)
FIELDS = st.sampled_from(["kind", "message", "hint", "text", "wanted", "cpu_us", "exits", ""])
SAYINGS = st.builds(
    lambda verb, texts: control.encode(verb, **texts), VERBS, st.dictionaries(FIELDS, TEXTS)
)
NUMBERS = st.text("0123456789\xb2\u0663-+_ .") | TEXTS


@given(verb=NAMES, texts=st.dictionaries(NAMES.filter(lambda name: name != "verb"), TEXTS))
@fast
def test_message_says_what_was_put_into_it(verb: str, texts: dict[str, str]) -> None:
    expected = {name: text.replace("\0", " ") for name, text in texts.items()}

    assert control.decode(control.encode(verb, **texts)) == (verb, expected)


@given(st.binary())
@fast
def test_any_bytes_are_some_message(message: bytes) -> None:
    verb, texts = control.decode(message)

    assert isinstance(verb, str)
    assert all(isinstance(text, str) for pair in texts.items() for text in pair)


@given(st.dictionaries(FIELDS, st.text(st.characters(codec=None), max_size=20)))
@fast
def test_any_characters_can_be_said(texts: dict[str, str]) -> None:
    """Halves of characters too, which no encoding has."""
    verb, told = control.decode(control.encode("verb", **texts))

    assert (verb, told.keys()) == ("verb", texts.keys())


@pytest.mark.parametrize("text", ["x", "\xe9", "\U0001f600"])
def test_message_that_is_too_long_is_cut_off(text: str) -> None:
    message = control.encode("verb", first="1", last=text * control.MAX_MESSAGE)

    assert len(message) == control.MAX_MESSAGE
    verb, texts = control.decode(message)
    assert (verb, texts["first"]) == ("verb", "1")
    assert texts["last"].startswith(text * 1000)


def test_messages_stay_apart_and_have_an_end() -> None:
    ours, theirs = control.create_pair()
    with ours:
        with theirs:
            theirs.send(control.encode("one"))
            theirs.send(control.encode("two"))
        heard = [ours.recv(control.MAX_MESSAGE) for _ in range(3)]

    assert heard == [b"one", b"two", b""]


# --- A VMM that has been taken over -------------------------------------------------------------


class HostileVmm:
    """Zygote whose only child, a VMM, says one of ``answers`` to each thing it is told."""

    def __init__(self, answers: list[list[bytes]]) -> None:
        self._answers = answers
        self._ends: list[socket.socket] = []

    async def start(self, _module: str) -> Self:
        return self

    async def spawn(self, descriptors: tuple[int, ...], _group: int) -> ChildProcess:
        self._ends = [socket.socket(fileno=os.dup(number)) for number in descriptors]
        self._ends[0].setblocking(False)
        asyncio.get_running_loop().add_reader(self._ends[0], self._hear)
        return ChildProcess.start(["true"])

    async def close(self) -> None:
        pass

    def _hear(self) -> None:
        channel = self._ends[0]
        answer: list[bytes] = []
        with suppress(OSError):  # the parent may leave before it has heard all
            if channel.recv(control.MAX_MESSAGE) and self._answers:
                answer = self._answers.pop(0)
                for message in answer:
                    channel.send(message)
        if not answer:
            asyncio.get_running_loop().remove_reader(channel)
            for end in self._ends:
                end.close()


async def machine_of(answers: list[list[bytes]], directory: Path) -> list[str]:
    """Start a machine of that VMM, and ask it all there is to ask; what a person would see."""
    spec = MachineSpec(directory / "kernel", directory / "initrd", "", 1 << 26)
    vmm = HostileVmm(answers)
    raised: list[object] = []
    shown: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    with (
        mock.patch.object(usability, "examine", return_value=(True, "")),
        mock.patch.object(ZygoteHandle, "start", vmm.start),
    ):
        try:
            machine = await KvmHypervisor().start(spec)
        except SlipwayError as error:
            shown += [error.message, error.hint]
        else:
            assert 0 <= machine.start_cpu_seconds < 1e12
            for verb in (machine.pause, machine.resume, machine.count_exits):
                try:
                    shown += await verb() or []
                except SlipwayError as error:
                    shown += [error.message, error.hint]
            shown += (await machine.read_exit_report()).split("\n")
            await machine.stop()
    assert raised == []
    return shown


MESSAGES = st.lists(st.binary(max_size=300) | SAYINGS, max_size=4)
RUNNING = st.builds(lambda cpu: control.encode(control.RUNNING, cpu_us=cpu), NUMBERS)


def answer(verb: str) -> st.SearchStrategy[list[bytes]]:
    """What that VMM says when it is expected to say ``verb``; an end where it does not."""
    right = st.builds(lambda text: control.encode(verb, exits=text), TEXTS)
    return st.builds(lambda *parts: [*parts[0], parts[1]], MESSAGES, right | st.just(b""))


@given(
    st.tuples(
        st.builds(lambda before, running: [*before, running], MESSAGES, RUNNING),
        *map(answer, (control.PAUSED, control.RESUMED, control.REPORT)),
    )
)
@settings(fast, max_examples=60)
def test_parent_survives_whatever_a_vmm_says(answers: tuple[list[bytes], ...]) -> None:
    shown = asyncio.run(machine_of(list(answers), Path("/nowhere")))

    assert all(line.isprintable() for line in shown)
