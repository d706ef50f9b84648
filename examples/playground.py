"""Playground: shows output as it comes, and sends your input to the program; Ctrl-C ends it.

    python examples/playground.py
    python examples/playground.py examples/queens.cpp
    python examples/playground.py --language python -c 'print(input())'
    python examples/playground.py --api-sock /run/slipway/api
    python examples/playground.py --tty examples/queens.cpp

Without a file, the program is a sample that asks for names. With --tty, it runs in a terminal.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import sys
import termios
import threading
import tty

import slipway

SAMPLE = """\
echo "What is your name?"
while read -r name; do
    echo "Hello, $name. And yours?"
done
echo "Nobody left."
"""


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api-sock", metavar="PATH", help="server to use (default: none)")
    parser.add_argument("--language", metavar="NAME", help="language (default: by suffix)")
    parser.add_argument("-c", dest="source", metavar="TEXT", help="source code, instead of a file")
    parser.add_argument("--tty", action="store_true", help="give the program a terminal")
    parser.add_argument("file", nargs="?", type=pathlib.Path, help="file with the source code")
    return parser.parse_args()


def read_program(parsed, runs):
    """Return the source and its language."""
    if parsed.file is None:
        return parsed.source or SAMPLE, parsed.language or "bash"
    suffix = parsed.file.suffix.removeprefix(".")
    for language in runs.languages():
        if suffix in {known.removeprefix(".") for known in language.suffixes}:
            return parsed.file.read_bytes(), parsed.language or language.name
    if parsed.language is None:
        sys.exit(f"unknown suffix of {parsed.file}: use --language")
    return parsed.file.read_bytes(), parsed.language


@contextlib.contextmanager
def lend_terminal(execution):
    """Leave echo, lines and Ctrl-C to the program's terminal, and pass on our size."""
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    raw = termios.tcgetattr(0)
    raw[1] = saved[1]  # for our own messages
    termios.tcsetattr(0, termios.TCSADRAIN, raw)

    def resize(*_):
        threading.Thread(target=execution.resize, args=read_size(), daemon=True).start()

    signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def read_size():
    """Return rows and columns of our terminal."""
    columns, rows = os.get_terminal_size(0)
    return rows, columns


def pass_input(stdin):
    """Pass our input to the program. Runs in a thread, because reading a terminal blocks."""
    # Input after the program's end is dropped.
    with contextlib.suppress(slipway.SlipwayError):
        while data := os.read(0, 4096):
            stdin.write(data)
        stdin.close()


def show_events(execution):
    """Print the events of a run, and return its result."""
    for event in execution:
        match event:
            case slipway.Queued(position=position):
                print(f"[in the queue, {position} runs before this run]", file=sys.stderr)
            case slipway.Preparing(detail=detail):
                print(f"[{detail}]", file=sys.stderr)
            case slipway.PhaseStarted(phase=phase):
                print(f"[{phase}]", file=sys.stderr)
            case slipway.Output(stream=stream, data=data):
                target = sys.stdout if stream == "stdout" else sys.stderr
                target.buffer.write(data)
                target.flush()
    return execution.wait()


def main():
    parsed = parse_arguments()
    if parsed.tty and not os.isatty(0):
        sys.exit("--tty needs a terminal as stdin")
    with slipway.Client(parsed.api_sock) if parsed.api_sock else slipway.Runtime() as runs:
        source, language = read_program(parsed, runs)
        options = {"tty": slipway.Tty(*read_size())} if parsed.tty else {}
        with runs.start(source, language, stdin=None, **options) as execution:
            threading.Thread(target=pass_input, args=[execution.stdin], daemon=True).start()
            with lend_terminal(execution) if parsed.tty else contextlib.nullcontext():
                try:
                    result = show_events(execution)
                except KeyboardInterrupt:
                    execution.cancel()
                    result = show_events(execution)
    print(f"[{result.summary()}]", file=sys.stderr)
    return 130 if result.verdict == "cancelled" else 0


try:
    sys.exit(main())
except OSError as error:
    sys.exit(f"cannot read the program: {error}")
except slipway.SlipwayError as error:
    sys.exit("\n".join(filter(None, [error.message, error.hint])))
