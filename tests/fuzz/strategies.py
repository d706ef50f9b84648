"""Everything that may be sent, and much that may not: the one place that the properties draw from.

Needs hypothesis and ``slipway_protocol``, nothing else of the tests.
"""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import strategies as st

from slipway_protocol import messages as m
from slipway_protocol.framing import END, MAX_ENCODED, encode_frame
from slipway_protocol.schema import MAX_DATA, MAX_TEXT, U8, U16, U32, U63

ESC = b"\xdb"


def numbers(maximum: int) -> st.SearchStrategy[int]:
    """Integers up to ``maximum``, often where msgpack changes their width."""
    edges = [n for bits in (0, 7, 8, 16, 32, 63) for n in (2**bits - 1, 2**bits) if n <= maximum]
    return st.sampled_from([*edges, maximum]) | st.integers(0, maximum)


def text(maximum: int) -> st.SearchStrategy[str]:
    """Text without NUL: of Unicode, or of bytes that need not be UTF-8."""
    shown = min(maximum, 40)
    return st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=shown),
        st.binary(max_size=shown).map(
            lambda data: data.replace(b"\0", b"\xff").decode("utf-8", "surrogateescape")
        ),
    )


_PARTS = (
    text(20).map(lambda part: part.replace("/", "_")).filter(lambda p: p not in {"", ".", ".."})
)
paths = st.lists(_PARTS, min_size=1, max_size=5).map("/".join) | st.sampled_from(
    ["a", "/".join(["p" * 255] * 16), "é" * 255]
)

# The longest there is, and what SLIP makes longest, among all sorts of small data.
data = st.binary(min_size=1, max_size=200) | st.sampled_from(
    [END, ESC, END * MAX_DATA, ESC * MAX_DATA, bytes(MAX_DATA)]
)

_jobs = numbers(U32)
_streams = st.sampled_from(m.Stream)
_phases = st.sampled_from(m.Phase)
_codes = numbers(U8)
_names = st.lists(text(64), max_size=5).map(tuple)
_long_text = text(MAX_TEXT) | st.just("\udcff" * MAX_TEXT)

limits = st.builds(
    m.Limits,
    numbers(U32),
    numbers(U32),
    numbers(U63),
    numbers(U32),
    numbers(U63),
    numbers(U32),
    numbers(U63),
    st.booleans(),
    numbers(U32),
)
ttys = st.builds(m.Tty, numbers(U16), numbers(U16))
commands = st.builds(
    m.Command,
    st.lists(text(200), max_size=6).map(tuple),
    st.lists(st.tuples(text(50), text(200)), max_size=6).map(tuple),
    limits,
    st.booleans(),
    st.none() | ttys,
    _names,
)
usages = st.builds(m.Usage, numbers(U63), numbers(U63), numbers(U63), numbers(U63), numbers(U32))

_FILES: dict[type, st.SearchStrategy[Any]] = {
    m.File: st.builds(m.File, _jobs, paths, numbers(0o777), numbers(U63)),
    m.FileData: st.builds(m.FileData, _jobs, data),
    m.Files: st.builds(
        m.Files,
        _jobs,
        st.lists(
            st.builds(m.WholeFile, paths, numbers(0o777), st.binary(max_size=200)),
            min_size=1,
            max_size=4,
        ).map(tuple),
    ),
    m.Credit: st.builds(m.Credit, _jobs, _streams, numbers(U32)),
}
HOST_MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    **_FILES,
    m.Hello: st.builds(
        m.Hello, numbers(U32), _names, numbers(U63), st.binary(max_size=64), st.booleans()
    ),
    m.Prestart: st.builds(m.Prestart, commands, paths, st.lists(paths, max_size=3).map(tuple)),
    m.Job: st.builds(
        m.Job,
        _jobs,
        st.none() | commands,
        commands,
        st.lists(paths, max_size=5).map(tuple),
        numbers(U32),
        numbers(U63),
        st.booleans(),
    ),
    m.Start: st.builds(m.Start, _jobs),
    m.Input: st.builds(m.Input, _jobs, data),
    m.InputEnd: st.builds(m.InputEnd, _jobs),
    m.Signal: st.builds(m.Signal, _jobs, numbers(64)),
    m.Cancel: st.builds(m.Cancel, _jobs),
    m.Resize: st.builds(m.Resize, _jobs, ttys),
    m.Connect: st.builds(
        m.Connect,
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=4, max_size=4),
        numbers(32),
        numbers(U16),
        st.binary(min_size=6, max_size=6),
    ),
    m.Packed: st.builds(m.Packed, data),
    m.Shutdown: st.builds(m.Shutdown),
}
AGENT_MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    **_FILES,
    m.Awake: st.builds(m.Awake, numbers(U32)),
    m.Ready: st.builds(
        m.Ready,
        numbers(U32),
        text(64),
        _names,
        text(256),
        numbers(U16),
        numbers(U63),
        numbers(U63),
        numbers(U63),
    ),
    m.PhaseStarted: st.builds(m.PhaseStarted, _jobs, _phases),
    m.Output: st.builds(m.Output, _jobs, _streams, data),
    m.OutputEnd: st.builds(m.OutputEnd, _jobs, _streams, numbers(U63), numbers(U63)),
    m.Exited: st.builds(m.Exited, _jobs, _phases, _codes, _codes),
    m.PhaseDone: st.builds(
        m.PhaseDone,
        _jobs,
        _phases,
        st.sampled_from(m.Verdict),
        _codes,
        _codes,
        usages,
        _long_text,
    ),
    m.FileMissing: st.builds(m.FileMissing, _jobs, paths, _long_text),
    m.JobDone: st.builds(m.JobDone, _jobs),
    m.Log: st.builds(m.Log, st.sampled_from(m.Level), _long_text),
    m.Fault: st.builds(m.Fault, _long_text, st.booleans()),
    m.Connected: st.builds(m.Connected, numbers(U63), numbers(U63)),
}

# Without Packed, which arrives as the message inside.
host_messages: st.SearchStrategy[m.HostMessage] = st.one_of(
    *(strategy for kind, strategy in HOST_MESSAGES.items() if kind is not m.Packed)
)
agent_messages: st.SearchStrategy[m.AgentMessage] = st.one_of(*AGENT_MESSAGES.values())

# --- What a hostile peer may put into a frame -------------------------------------------------

# Any value that msgpack has, however far from any message.
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        text(40),
        st.binary(max_size=40),
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
        st.builds(msgpack.Timestamp, st.integers(0, 2**34), st.integers(0, 999_999_999)),
    ),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(text(8), inner, max_size=4),
    max_leaves=20,
)

_LENGTHS = st.sampled_from([0, 1, 2, 255, 256, 1023, 1024, 1025, 16384, 65535, 2**31, 2**32 - 1])


def _header(code: int, width: int) -> st.SearchStrategy[bytes]:
    """A header that announces a length, whatever follows."""
    return _LENGTHS.map(
        lambda length: bytes([code]) + min(length, 256**width - 1).to_bytes(width, "big")
    )


# Of str, bin, ext, array and map, in each of their widths; their fixed forms are single bytes.
_headers = st.one_of(
    *[
        _header(first + step, 1 << step)
        for first, steps in ((0xD9, (0, 1, 2)), (0xC4, (0, 1, 2)), (0xC7, (0, 1, 2)))
        for step in steps
    ],
    *[_header(code, 2) for code in (0xDC, 0xDE)],
    *[_header(code, 4) for code in (0xDD, 0xDF)],
)
_token = st.one_of(
    _headers,
    st.integers(0, 255).map(lambda byte: bytes([byte])),
    st.binary(max_size=10),
    values.map(lambda value: bytes(msgpack.packb(value, unicode_errors="surrogateescape"))),
)
_runs = st.tuples(_token, st.sampled_from([1, 1, 1, 2, 500, 1000, 20_000])).map(
    lambda run: (run[0] * run[1])[:20_000]
)
_beginnings = st.tuples(st.integers(1, 8), st.integers(0, 64)).map(
    lambda begin: bytes([0x90 | begin[0], begin[1]])
)
# Mostly broken msgpack: headers that lie, nesting, runs of one thing; half of it begins like a
# message, so as to get further.
payloads = st.tuples(st.just(b"") | _beginnings, st.lists(_runs, max_size=3)).map(
    lambda parts: (parts[0] + b"".join(parts[1]))[:65_536]
)

# --- What may stand between frames --------------------------------------------------------------

_noise = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([END, ESC, END + ESC, ESC + END, bytes(4), b"[    0.000000] Linux\r\n"]),
    st.sampled_from([b"x", ESC, END, bytes(3)]).map(lambda byte: byte * (MAX_ENCODED + 1)),
    payloads.map(lambda payload: encode_frame(payload)[:-1]),
)
garbage = st.lists(_noise, max_size=4).map(b"".join)


@st.composite
def chunks_of(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """``stream`` cut anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
