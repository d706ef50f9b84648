"""Picture of the life of a run, as SVG on stdout; life-of-a-run.svg beside this file is its output.

SVG, because GitHub and the built pages show it without a script or a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 1000, 430
STYLE = """
  text { font: 14px -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2937 }
  .title { font-weight: 600 } .small { font-size: 12px; fill: #4b5563 }
  .step { fill: #eef2ff; stroke: #4f46e5 } .guest { fill: #ecfdf5; stroke: #059669 }
  .border { fill: none; stroke: #059669; stroke-width: 2; stroke-dasharray: 7 5 }
  .host { fill: none; stroke: #9ca3af; stroke-width: 1.5 }
  .arrow { fill: none; stroke: #374151; stroke-width: 1.6; marker-end: url(#head) }
  .stream { fill: none; stroke: #059669; stroke-width: 2; marker-end: url(#green) }
"""


@dataclass(frozen=True)
class Box:
    """Step of a run: place, title and lines of small text."""

    x: int
    y: int
    width: int
    title: str
    lines: tuple[str, ...]
    kind: str = "step"
    height: int = 78

    def draw(self) -> str:
        """Return the box and its texts as SVG."""
        middle = self.x + self.width // 2
        texts = [f'<text class="title" x="{middle}" y="{self.y + 23}">{escape(self.title)}</text>']
        texts += [
            f'<text class="small" x="{middle}" y="{self.y + 43 + 17 * row}">{escape(line)}</text>'
            for row, line in enumerate(self.lines)
        ]
        return (
            f'<rect class="{self.kind}" x="{self.x}" y="{self.y}" width="{self.width}"'
            f' height="{self.height}" rx="8"/>\n<g text-anchor="middle">' + "".join(texts) + "</g>"
        )


BOXES = (
    Box(20, 60, 150, "1 Request", ("language, source, files,", "limits: all checked")),
    Box(210, 60, 150, "2 Admission", ("waits for its turn,", "memory and CPUs")),
    Box(400, 60, 150, "3 Image", ("built once,", "digests compared")),
    Box(590, 60, 190, "4 Machine", ("from the pool, or a clone", "of a snapshot, or cold boot")),
    Box(590, 222, 190, "5 Agent, PID 1", ("handshake; takes the job", "and its files"), "guest"),
    Box(400, 222, 150, "6 Build", ("compiler, as an", "unprivileged user"), "guest"),
    Box(210, 222, 150, "7 Run", ("your program, in its", "cgroup, with limits"), "guest"),
    Box(20, 222, 150, "8 Result", ("verdict, output, files,", "usage, provenance")),
)
ARROWS = (
    ("arrow", "M170 99 H206"),
    ("arrow", "M360 99 H396"),
    ("arrow", "M550 99 H586"),
    ("arrow", "M685 138 V218"),
    ("arrow", "M590 261 H554"),
    ("arrow", "M400 261 H364"),
    ("arrow", "M210 261 H174"),
    ("stream", "M285 300 V372 H95 V304"),
)


def draw() -> str:
    """Return the picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>The life of a run</title>",
        f"<style>{STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="{name}" markerWidth="9" markerHeight="8" refX="7" refY="4" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
            for name, colour in (("head", "#374151"), ("green", "#059669"))
        ),
        "</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>',
        '<rect class="host" x="8" y="26" width="984" height="396" rx="10"/>',
        '<text class="title" x="20" y="48">Host: Slipway in your process, or slipway serve</text>',
        '<rect class="border" x="192" y="176" width="790" height="150" rx="10"/>',
        '<text class="title" x="206" y="200">Guest: one virtual machine, no network</text>',
        *(box.draw() for box in BOXES),
        *(f'<path class="{kind}" d="{path}"/>' for kind, path in ARROWS),
        '<text class="small" x="300" y="367">stdout and stderr stream while it runs; '
        "a slow reader stops the program, not the host</text>",
        '<g text-anchor="middle">'
        '<text class="small" x="880" y="236">kvm: Slipway\'s own VMM,</text>'
        '<text class="small" x="880" y="253">one confined process</text>'
        '<text class="small" x="880" y="270">qemu: software emulation,</text>'
        '<text class="small" x="880" y="287">works without KVM</text></g>',
        '<text class="small" x="206" y="404">After the run the machine is killed. '
        "A session keeps its machine, and with it the files.</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(draw(), end="")
