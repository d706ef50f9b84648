"""One example of each message with its exact bytes, and input that must be refused.

Needs nothing but the standard library and ``slipway_protocol``, so that the same check runs under
the agent's frozen interpreter: ``python corpus.py`` prints what is wrong and fails, or is silent.
The bytes are written down, not computed: a change of the wire format is a change of this file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from slipway_protocol import messages as m
from slipway_protocol.codec import decode, encode
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.framing import BadFrame, decode_frame, encode_frame
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, Table

TO_AGENT = "host to agent"
TO_HOST = "agent to host"
BOTH = "both"

TABLES: dict[str, tuple[Table, ...]] = {
    TO_AGENT: (HOST_TO_AGENT,),
    TO_HOST: (AGENT_TO_HOST,),
    BOTH: (HOST_TO_AGENT, AGENT_TO_HOST),
}


@dataclass(frozen=True, slots=True)
class Example:
    """A message, which way it travels, and its payload in hexadecimal."""

    direction: str
    message: m.Message
    payload: str

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that have the message."""
        return TABLES[self.direction]


_BUILD = m.Command(("cc", "-o", "a.out", "main.c"), (("PATH", "/usr/bin:/bin"),), m.Limits())
_RUN = m.Command(
    # An argument of Linux is bytes: this one is "é" in Latin-1, which is not UTF-8.
    ("./a.out", "\udce9"),
    (("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")),
    m.Limits(
        wall_ms=10_000,
        cpu_ms=5_000,
        memory_bytes=256 << 20,
        processes=64,
        file_bytes=1 << 32,
        open_files=256,
        output_bytes=1 << 20,
        kill_on_output=True,
        soft_open_files=64,
    ),
    stdin=True,
    out_of_memory=("full",),
)

EXAMPLES = (
    Example(
        TO_AGENT,
        m.Hello(1, ("signal",), 1_700_000_000_000_000_000, b"\xc0\xdb\x00\xff"),
        "96010191a67369676e616ccf17979cfe362a0000c404c0db00ffc2",
    ),
    Example(
        TO_AGENT,
        m.Hello(2, (), 0, b"", clone=True),
        "9601029000c400c3",
    ),
    Example(
        TO_AGENT,
        m.Job(7, _BUILD, _RUN, ("out/a.txt",), 1 << 20, 64 << 20, outputs_bytes=1 << 24),
        "9902079694a26363a22d6fa5612e6f7574a66d61696e2e639192a450415448ad2f7573722f62696e"
        "3a2f62696e9900000000000000c200c2c0909692a72e2f612e6f7574a1e99292a450415448ad2f75"
        "73722f62696e3a2f62696e92a44c414e47a7432e5554462d3899cd2710cd1388ce1000000040cf00"
        "00000100000000cd0100ce00100000c340c3c091a466756c6c91a96f75742f612e747874ce001000"
        "00ce04000000c2ce01000000",
    ),
    Example(
        TO_AGENT,
        m.Job(8, None, m.Command(("sh",), (), m.Limits()), (), 0, keep=True),
        "990208c09691a27368909900000000000000c200c2c090900000c300",
    ),
    Example(
        BOTH,
        m.File(7, "src/naïve.c", 0o644, 70_000),
        "950307ac7372632f6e61c3af76652e63cd01a4ce00011170",
    ),
    Example(
        BOTH,
        m.FileData(7, b"int main(void) { return 0; }\n"),
        "930407c41d696e74206d61696e28766f696429207b2072657475726e20303b207d0a",
    ),
    Example(
        BOTH,
        m.Files(7, (m.WholeFile("a", 0o644, b"x\n"), m.WholeFile("b/c", 0o755, b""))),
        "9310079293a161cd01a4c402780a93a3622f63cd01edc400",
    ),
    Example(TO_AGENT, m.Start(7), "920507"),
    Example(TO_AGENT, m.Input(7, b"line\n"), "930607c4056c696e650a"),
    Example(TO_AGENT, m.InputEnd(7), "920707"),
    Example(BOTH, m.Credit(7, m.Stream.STDOUT, 0xFFFF_FFFF), "94080701ceffffffff"),
    Example(TO_AGENT, m.Signal(7, 15), "9309070f"),
    Example(TO_AGENT, m.Cancel(7), "920a07"),
    Example(
        TO_AGENT,
        m.Job(9, None, m.Command(("sh",), (), m.Limits(), tty=m.Tty(24, 80)), (), 0),
        "990209c09691a27368909900000000000000c200c292185090900000c200",
    ),
    Example(TO_AGENT, m.Resize(7, m.Tty(50, 132)), "930d079232cc84"),
    Example(
        TO_AGENT,
        m.Connect(b"\xc6\x12\x00\x02", b"\xc6\x12\x00\x01", 30, 65520, b"RT\x00SLQ"),
        "960ec404c6120002c404c61200011ecdfff0c406525400534c51",
    ),
    # Inside is Shutdown, 910b.
    Example(
        TO_AGENT,
        m.Packed(bytes.fromhex("789c9bc80d00012f009d")),
        "920fc40a789c9bc80d00012f009d",
    ),
    Example(TO_AGENT, m.Shutdown(), "910b"),
    Example(
        TO_AGENT,
        m.Prestart(m.Command(("sh", "main.sh"), (("LANG", "C"),), m.Limits()), "main.sh", ("a",)),
        "940c9692a27368a76d61696e2e73689192a44c414e47a1439900000000000000c200c2c090a76d61696e2e"
        "736891a161",
    ),
    Example(TO_HOST, m.Awake(1), "922001"),
    Example(
        TO_HOST,
        m.Ready(1, "0.1.0", ("cgroup2",), "6.1.0-40", 2, 1 << 28, 700_000, 2_900_000),
        "992101a5302e312e3091a76367726f757032a8362e312e302d343002ce10000000ce000aae60ce002c4020",
    ),
    Example(TO_HOST, m.PhaseStarted(7, m.Phase.BUILD), "93220701"),
    Example(TO_HOST, m.Output(7, m.Stream.STDERR, b"\xc0\xdb\xdc\xdd\n"), "94230702c405c0dbdcdd0a"),
    Example(TO_HOST, m.OutputEnd(7, m.Stream.STDOUT, 1 << 40, 12), "95240701cf00000100000000000c"),
    Example(TO_HOST, m.Exited(7, m.Phase.RUN, 0, 9), "952507020009"),
    Example(
        TO_HOST,
        m.PhaseDone(
            7,
            m.Phase.RUN,
            m.Verdict.TIMED_OUT,
            0,
            9,
            m.Usage(10_000_500, 9_000_000, 40_000, 33 << 20, 3),
            "the time limit of 10000 ms passed",
        ),
        "9826070203000995ce00989874ce00895440cd9c40ce0210000003d9217468652074696d65206c69"
        "6d6974206f66203130303030206d7320706173736564",
    ),
    Example(
        TO_HOST,
        m.FileMissing(7, "out/a.txt", "it does not exist"),
        "942707a96f75742f612e747874b1697420646f6573206e6f74206578697374",
    ),
    Example(TO_HOST, m.JobDone(7), "922807"),
    Example(
        TO_HOST, m.Log(m.Level.WARNING, "dropped 3 bytes"), "93291eaf64726f707065642033206279746573"
    ),
    Example(TO_HOST, m.Fault("a second job", False), "932aac61207365636f6e64206a6f62c2"),
    Example(TO_HOST, m.Connected(45_000, 400), "932bcdafc8cd0190"),
)

# Payload and frame: END (c0) and ESC (db) are escaped in the payload and in its checksum.
FRAMES = (
    ("910b", "c0910b2c7051bec0"),
    ("c0", "c0dbdc3d2d6649c0"),
    ("db", "c0dbddd1e403c3c0"),
    ("dbdc", "c0dbdddcd49070acc0"),
    ("dcdd", "c0dcdd85363694c0"),
    ("c0c0dbdb", "c0dbdcdbdcdbdddbddd2b06bb5c0"),
    ("0041", "c00041f9630240c0"),
    ("05e4", "c005e4dbdddbdcc99bc0"),
)

# What may stand between two ENDs without being a frame.
NOISE = (
    ("a byte", "41"),
    ("less than a checksum", "000000"),
    ("no payload and its right checksum", "00000000"),
    ("a wrong checksum", "910b00000000"),
    ("a big endian checksum", "910bbe51702c"),
    ("an escape at the end", "910bdb"),
    ("an escape of nothing", "91db0b0000000000"),
    ("an escaped escape of nothing", "dbdbdc0000000000"),
    ("a line of the kernel", b"[    1.234567] random: crng init done\r\n".hex()),
)

# Payloads that break the protocol whichever way they travel, and why.
REFUSED = (
    ("not msgpack", "c1"),
    ("two values", "910b910b"),
    ("a truncated list", "9220"),
    ("an id alone", "0b"),
    ("an empty list", "90"),
    ("text for a list", "a10b"),
    ("a map", "80"),
    ("a map with a member", "8100c0"),
    ("id 0", "9100"),
    ("an id that nobody has", "917f"),
    ("a negative id", "91ff"),
    ("an id of 64 bits", "91cfffffffffffffffff"),
    ("a boolean for an id", "95c3019000c400"),
    ("a number with a point for an id", "92ca40a0000007"),
    ("text for an id", "91a131"),
    ("a list for an id", "919101"),
    ("nil for an id", "91c0"),
    ("a missing field", "920407"),
    ("a missing last field", "93080701"),
    ("nil for a number", "9304c0c40161"),
    ("a boolean for a number", "9304c3c40161"),
    ("a negative number", "9304ffc40161"),
    ("a number with a point", "9304ca3f800000c40161"),
    ("33 bits for 32", "9304cf0000000100000000c40161"),
    ("64 bits for 63", "950307a16100cf8000000000000000"),
    ("text for bytes", "930407a161"),
    ("no bytes of data", "930407c400"),
    ("packed data that are no stream", "920fc40161"),
    ("half a packed stream", "920fc405789c9bc80d"),
    ("a byte behind a packed stream", "920fc40b789c9bc80d00012f009d00"),
    ("bytes for text", "950307c401610000"),
    ("a stream that is none", "9408070301"),
    ("an empty path", "950307a00000"),
    ("a path from the root", "950307a22f610000"),
    ("a path upwards", "950307a4612f2e2e0000"),
    ("a path with a dot", "950307a3612f2e0000"),
    ("a path with two slashes", "950307a4612f2f620000"),
    ("a path that ends with a slash", "950307a2612f0000"),
    ("a path with NUL", "950307a36100620000"),
    ("a mode beyond 0777", "950307a161cd020000"),
    ("a map behind the fields", "940407c4016181a16100"),
    ("an extension behind the fields", "940407c40161d40500"),
    ("a list of 1025 behind the fields", "940407c40161dc0401" + "c0" * 1025),
    ("a list that lies", "ddffffffff"),
    ("a list within that lies", "9304ddffffffffc40161"),
    ("text that lies", "950307dbffffffff610000"),
    ("bytes that lie", "930407c6ffffffff61"),
    ("a map that lies", "930407dfffffffff"),
    ("an extension that lies", "930407c9ffffffff01"),
    ("a timestamp", "9304d6ff00000000c40161"),
    ("a timestamp beyond its range", "9304d7ffffffffffffffffffc40161"),
    ("a list nested 500 deep", "9304" + "91" * 500 + "c0" + "c40161"),
    # Deep enough that Python cannot print it, not so deep that msgpack refuses it.
    ("a list nested 1010 deep", "9304" + "91" * 1010 + "c0" + "c40161"),
    ("a list nested 60000 deep", "9304" + "91" * 60_000 + "c0" + "c40161"),
    ("a list nested 20000 deep that lies", "9304" + "dc0400" * 20_000),
)


def failures() -> list[str]:
    """What this interpreter's protocol does differently from what is written here."""
    return [*_examples_that_differ(), *_frames_that_differ(), *_refusals_that_differ()]


def _examples_that_differ() -> list[str]:
    wrong = []
    for example in EXAMPLES:
        name = type(example.message).__name__
        payload = bytes.fromhex(example.payload)
        encoded = encode(example.message)
        if encoded != payload:
            wrong.append(f"{name} is encoded as {encoded.hex()}")
        for table in example.tables:
            decoded = decode(payload, table)
            if decoded != example.message or type(decoded) is not type(example.message):
                wrong.append(f"{name} is decoded as {decoded!r}")
    return wrong


def _frames_that_differ() -> list[str]:
    wrong = []
    for payload, frame in FRAMES:
        encoded = encode_frame(bytes.fromhex(payload)).hex()
        if encoded != frame:
            wrong.append(f"payload {payload} is framed as {encoded}")
        decoded = decode_frame(bytes.fromhex(frame)[1:-1])
        if decoded != bytes.fromhex(payload):
            wrong.append(f"frame {frame} is decoded as {decoded!r}")
    for why, noise in NOISE:
        if not isinstance(decode_frame(bytes.fromhex(noise)), BadFrame):
            wrong.append(f"{why} is taken for a frame")
    return wrong


def _refusals_that_differ() -> list[str]:
    wrong = []
    for why, payload in REFUSED:
        for end in (Connection.host(), Connection.agent()):
            events = end.receive(encode_frame(bytes.fromhex(payload)))
            if [type(event) for event in events] != [Violation]:
                wrong.append(f"{why} is answered with {events!r:.200}")
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(failures()) or 0)
