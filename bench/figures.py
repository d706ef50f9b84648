"""Figures and table of docs/performance.md, drawn from the record of ``bench/as_typed.py --json``.

::

    python bench/figures.py               draw docs/figures/*.svg and write the table anew
    python bench/figures.py --check       write nothing; fail if one of them is not of the record

The table of the small kernel is of a record of its own, which has no figures. One figure has a bar
for each language and way of starting, on a logarithmic scale, beside the floors. The others are
waterfalls: the steps of one run, the sample with the median time, for each way.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from starts_record import ROOT, STEPS, WAYS, Sample, StartsRecord, compute_median, find_middle
from svg import Chart

sys.path.append(str(ROOT / "tests"))

from support.markdown import wrap

DIRECTORY = ROOT / "docs/figures"
RECORD, SMALL_KERNEL_RECORD = "starts.json", "starts-small-kernel.json"
PAGE = ROOT / "docs/performance.md"
# A table of the page is between its line and the next END.
BEGIN, END = "<!-- bench/figures.py: table -->", "<!-- bench/figures.py: end -->"
BEGIN_SMALL_KERNEL = "<!-- bench/figures.py: table of the small kernel -->"
LANGUAGES = {
    "bash": "Bash",
    "python": "Python",
    "javascript": "JavaScript",
    "c": "C",
    "c++": "C++",
    "go": "Go",
    "rust": "Rust",
}
# Languages whose runs are drawn step by step: an interpreter, and a compiler.
WATERFALLS = ("python", "c")
WIDTH = 900
# Colours of ways, on light and dark pages.
WAY_COLOURS = {
    "cold": ("#b91c1c", "#f87171"),
    "snapshot": ("#c2410c", "#fb923c"),
    "fork": ("#4338ca", "#a5b4fc"),
    "pool": ("#047857", "#34d399"),
    "server": ("#0e7490", "#22d3ee"),
    "bubblewrap": ("#6b7280", "#9ca3af"),
}
# Colours and words of the steps of a run.
STEP_COLOURS = {
    "start": ("#6b7280", "#9ca3af"),
    "queue": ("#a16207", "#facc15"),
    "prepare": ("#c2410c", "#fb923c"),
    "boot": ("#b91c1c", "#f87171"),
    "agent": ("#be185d", "#f472b6"),
    "ready": ("#9d174d", "#f9a8d4"),
    "restore": ("#7e22ce", "#c084fc"),
    "build": ("#4338ca", "#a5b4fc"),
    "run": ("#047857", "#34d399"),
    "teardown": ("#0e7490", "#22d3ee"),
    "end": ("#6b7280", "#9ca3af"),
}
STEP_WORDS = {
    "start": "command: its start, arguments, request",
    "queue": "queue of the server",
    "prepare": "image found, VMM started",
    "boot": "kernel, unpacking the image",
    "agent": "agent: its start",
    "ready": "agent: handshake",
    "restore": "clone: until its agent answers",
    "build": "compiler",
    "run": "program",
    "teardown": "machine ended",
    "end": "command: end",
}
# The scale of bars is logarithmic, in seconds.
LEAST, MOST = 0.01, 30.0
BAR, GAP = 11, 12


def draw_bars(record: StartsRecord) -> str:
    """Return the bars of all languages by all ways, with the line of the bare QEMU."""
    left, right, y = 110, 800, 66.0
    languages = [name for name in LANGUAGES if name in record.languages]
    rows = {
        name: [way for way in WAYS if way in WAY_COLOURS and record.select(name, way)]
        for name in languages
    }
    height = 66 + sum(BAR * len(ways) + GAP for ways in rows.values()) + 30
    described = "; ".join(
        f"{LANGUAGES[name]}: "
        + ", ".join(f"{way} {format_seconds(read_wall(record, name, way))}" for way in ways)
        for name, ways in rows.items()
    )
    title = "A hello world as typed: seconds by language and way of starting"
    chart = Chart(WIDTH, height, title, f"Medians. {described}.")
    chart.add_text(16, 26, title, kind="title")
    add_legend(chart, 16, 46, list(WAY_COLOURS))
    for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30):
        x = place_on_scale(tick, left, right)
        chart.add_line(x, 58, height - 26)
        chart.add_text(x, height - 10, f"{tick:g} s", kind="small", anchor="middle")
    for name, ways in rows.items():
        chart.add_text(left - 10, y + BAR * len(ways) / 2 + 4, LANGUAGES[name], anchor="end")
        for way in ways:
            wall = read_wall(record, name, way)
            end = place_on_scale(wall, left, right)
            chart.add_bar(left, y, end - left, BAR - 2, way)
            chart.add_text(end + 4, y + BAR - 2, format_seconds(wall), kind="small")
            y += BAR
        y += GAP
    if bare := record.select("", "bare QEMU"):
        wall = compute_median(bare, lambda sample: sample.wall)
        x = place_on_scale(wall, left, right)
        chart.add_line(x, 58, height - 26, "floor")
        text = f"bare QEMU boots the kernel in {format_seconds(wall)}"
        chart.add_text(WIDTH - 16, 26, f"dashed: {text}", kind="small", anchor="end")
    return chart.draw(WAY_COLOURS)


def draw_waterfall(record: StartsRecord, name: str) -> str:
    """Return the steps of one run of a language by each way, each way on a scale of its own."""
    left, right, y = 330, 800, 62.0
    middles = {
        way: find_middle(samples)
        for way in WAYS
        if (samples := record.select(name, way)) and samples[0].steps
    }
    height = 62 + sum(17 * len(sample.steps) + 44 for sample in middles.values())
    described = "; ".join(describe_steps(way, sample) for way, sample in middles.items())
    title = f"One run of a {LANGUAGES[name]} hello world, step by step"
    chart = Chart(WIDTH, height, title, f"The run with the median time of each way. {described}.")
    chart.add_text(16, 26, title, kind="title")
    chart.add_text(16, 44, "each way has a scale of its own; times in ms", kind="small")
    for way, sample in middles.items():
        bottom = y + 17 * len(sample.steps) + 10
        chart.add_text(16, y + 12, way, kind="title")
        chart.add_text(16, y + 28, f"{format_seconds(sample.wall)} in all", kind="small")
        for tick in list_ticks(sample.wall):
            x = left + (right - left) * tick / sample.wall
            chart.add_line(x, y, bottom)
            chart.add_text(x, bottom + 13, format_ms(tick), kind="small", anchor="middle")
        passed = 0.0
        for step in STEPS:
            if step not in sample.steps:
                continue
            seconds, scale = sample.steps[step], (right - left) / sample.wall
            chart.add_text(left - 8, y + 12, STEP_WORDS[step], kind="small", anchor="end")
            chart.add_bar(left + passed * scale, y + 3, seconds * scale, 11, step)
            end = left + (passed + seconds) * scale
            chart.add_text(end + 4, y + 12, format_ms(seconds), kind="small")
            passed += seconds
            y += 17
        y = bottom + 34
    return chart.draw(STEP_COLOURS)


def describe_steps(way: str, sample: Sample) -> str:
    """Return the steps of a sample as a sentence."""
    steps = (f"{STEP_WORDS[step]} {format_seconds(sample.steps[step])}" for step in sample.steps)
    return f"{way}, {format_seconds(sample.wall)}: {', '.join(steps)}"


def add_legend(chart: Chart, x: float, y: float, ways: list[str]) -> None:
    """Add a square and a word for each way."""
    for way in ways:
        chart.add_bar(x, y - 9, 10, 10, way)
        chart.add_text(x + 15, y, way, kind="small")
        x += 30 + 7 * len(way)


def place_on_scale(seconds: float, left: float, right: float) -> float:
    """Return the place of a time on the logarithmic scale."""
    share = math.log(max(seconds, LEAST) / LEAST) / math.log(MOST / LEAST)
    return left + (right - left) * min(share, 1.0)


def read_wall(record: StartsRecord, name: str, way: str) -> float:
    """Return the median wall-clock seconds of a language by a way."""
    return compute_median(record.select(name, way), lambda sample: sample.wall)


def list_ticks(wall: float) -> list[float]:
    """Return round times from 0 to at most ``wall`` seconds, three to five."""
    decade = 10.0 ** math.floor(math.log10(wall))
    step = next(decade * part for part in (2, 1, 0.5) if wall / (decade * part) >= 2)
    return [step * number for number in range(math.floor(wall / step) + 1)]


def format_ms(seconds: float) -> str:
    """Return a time in ms with at most three digits after which only zeros follow."""
    ms = seconds * 1000
    digits = 2 - math.floor(math.log10(ms)) if ms > 0 else 0
    return f"{round(ms, digits):g}" if ms < 1000 else f"{round(ms, digits):.0f}"


def format_seconds(seconds: float) -> str:
    """Return a time with three digits, below 0.1 s in ms."""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"


def build_table(record: StartsRecord) -> str:
    """Return the table of the page: medians by the clock and, in brackets, of processor time."""
    ways = [way for way in WAYS if any(record.select(name, way) for name in record.languages)]
    lines = [f"| | {' | '.join(ways)} |", f"| --- |{' --- |' * len(ways)}"]
    for name in (name for name in LANGUAGES if name in record.languages):
        cells = [build_cell(record.select(name, way), way) for way in ways]
        lines.append(f"| {LANGUAGES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def build_cell(samples: list[Sample], way: str) -> str:
    """Return the cell of a row."""
    if not samples:
        return ""
    wall = compute_median(samples, lambda sample: sample.wall)
    if way == "bubblewrap":
        return f"{wall:.3f}"
    return f"{wall:.3f} ({compute_median(samples, lambda sample: sample.cpu):.2f})"


def build_text(record: StartsRecord) -> str:
    """Return the part of the page that is generated: where and when, and the table."""
    loads = [sample.load for sample in record.samples]
    bare = record.select("", "bare QEMU")
    head = (
        f"Measured {record.date[:10]} at {record.commit} on {record.host['processors']} processors "
        f"({record.host['processor']}), {record.host['qemu']}, guests with "
        f"{record.host['guest']}, with a load of {min(loads):.1f} to {max(loads):.1f}; the number "
        f"of samples of a row is at most {record.rounds}:"
    )
    lines = [wrap(head).rstrip(), "", build_table(record)]
    if bare:
        wall = compute_median(bare, lambda sample: sample.wall)
        cpu = compute_median(bare, lambda sample: sample.cpu)
        lines += ["", f"Bare QEMU to a trivial `/init`: {wall:.3f} s ({cpu:.2f})."]
    return "\n".join(lines)


def replace_text(page: str, begin: str, text: str) -> str:
    """Return the page with ``text`` between its mark ``begin`` and the next end."""
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(END)
    return f"{head}{begin}\n\n{text}\n\n{END}{tail}"


def build_all(record: StartsRecord, small: StartsRecord) -> dict[Path, str]:
    """Return the text of all figures and of the page, by path."""
    texts = {DIRECTORY / "starts.svg": draw_bars(record)}
    for name in WATERFALLS:
        if name in record.languages:
            texts[DIRECTORY / f"steps-{name}.svg"] = draw_waterfall(record, name)
    page = replace_text(PAGE.read_text("utf-8"), BEGIN, build_text(record))
    return {**texts, PAGE: replace_text(page, BEGIN_SMALL_KERNEL, build_text(small))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, default=DIRECTORY / RECORD)
    parser.add_argument("--check", action="store_true")
    parsed = parser.parse_args()
    small = StartsRecord.read(DIRECTORY / SMALL_KERNEL_RECORD)
    texts = build_all(StartsRecord.read(parsed.record), small)
    stale = [path for path, text in texts.items() if read_text(path) != text]
    if parsed.check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"not drawn from {parsed.record.name}: {names}; run: python bench/figures.py")
    for path in stale:
        path.write_text(texts[path], "utf-8")


def read_text(path: Path) -> str:
    """Return the text of a file, nothing if it is missing."""
    return path.read_text("utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
