"""The drawings of docs/concepts, made from the geometry that the program computes with.

Run it as ``python scripts/drawings.py``; a test holds the files against it. They are readable on light and on dark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from voxweft.geometry.box import Box
from voxweft.geometry.columns import Columns
from voxweft.geometry.tiling import AxisTiles, TileGrid
from voxweft.geometry.window import unity_profiles

WIDTH = 640
STYLE = """
text { font: 14px sans-serif; fill: #24292f }
.line { stroke: #57606a; fill: none; stroke-width: 1.5 }
.bold { stroke-width: 3 }
.box { stroke: #57606a; fill: #57606a; fill-opacity: .08; stroke-width: 1.5 }
.a { stroke: #00796b; fill: #00796b; fill-opacity: .22 }
.b { stroke: #c05000; fill: #c05000; fill-opacity: .22 }
.c { stroke: #5a4fcf; fill: #5a4fcf; fill-opacity: .22 }
.d { stroke: #b0005a; fill: #b0005a; fill-opacity: .22 }
.curve { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .line, .box { stroke: #9aa4ae } .box { fill: #9aa4ae }
  .a { stroke: #4db6ac; fill: #4db6ac } .b { stroke: #ff9a4d; fill: #ff9a4d }
  .c { stroke: #a9a1ff; fill: #a9a1ff } .d { stroke: #ff79b8; fill: #ff79b8 }
  .curve { fill: none }
}"""
MARKS = "abcd"
COLUMNS = Columns((512, 512, 768), Box.of((512, 512, 768)), (512, 256), 128)


def rect(x: float, y: float, w: float, h: float, mark: str = "box") -> str:
    """A rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" class="{mark}"/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A line of words, its baseline at y."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """An arrow."""
    return f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" class="line" marker-end="url(#tip)"/>'


def curve(points: Sequence[tuple[float, float]], mark: str) -> str:
    """Straight lines through points."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{mark} curve"/>'


def boxed(x: float, y: float, w: float, lines: Sequence[str], mark: str = "box") -> str:
    """Words in a box, 22 a line high."""
    words = (text(x + w / 2, y + 20 + 19 * n, line, "middle") for n, line in enumerate(lines))
    return rect(x, y, w, 14 + 19 * len(lines), mark) + "".join(words)


def patch() -> Iterator[str]:
    """The patches of a plane: where they start, how they overlap."""
    grid, scale = TileGrid.of(shape=(32, 75, 150), patch=(32, 32, 32), overlap=0.5), 3.6
    yield rect(20, 40, 150 * scale, 75 * scale)
    for tile in grid:
        (_, y, x), (_, j, i) = tile.box.start, tile.index
        if j == 0 and i < 2:
            yield rect(20 + x * scale, 40 + y * scale, 32 * scale, 32 * scale, MARKS[i])
        yield f'<circle cx="{20 + x * scale + 4:g}" cy="{40 + y * scale + 4:g}" r="2.5" class="box"/>'
    yield text(20, 26, f"150 x 75 voxels of a plane; {len(grid.axes[1].starts) * len(grid.axes[2].starts)} patches")
    yield text(20, 334, f"32 x 32 start at the dots: y {', '.join(map(str, grid.axes[1].starts))};")
    yield text(20, 354, f"x {', '.join(map(str, grid.axes[2].starts))}")


def window() -> Iterator[str]:
    """The weights along an axis, and their sum."""
    axis = AxisTiles(75, 32, 16)
    place = lambda n, weight: (30 + (n + 0.5) * 7.6, 220 - 170 * weight)  # noqa: E731
    profiles, total = unity_profiles(axis, "gaussian"), np.zeros(75)
    for k, (start, profile) in enumerate(zip(axis.starts, profiles, strict=True)):
        total[start : start + 32] += profile
        yield curve([place(start + n, w) for n, w in enumerate(profile)], MARKS[k])
        yield rect(30 + start * 7.6, 232 + 12 * k, 32 * 7.6, 8, MARKS[k])
    yield curve([place(n, w) for n, w in enumerate(total)], "line bold")
    yield text(30, 36, "the sum of all weights is 1 at every voxel")
    yield text(30, 300, "the four patches of this axis; each has its own curve above")


def column() -> Iterator[str]:
    """The volume from above, divided."""
    for n in range(COLUMNS.n_columns):
        box, mark = COLUMNS.box(n, range(COLUMNS.n_slabs)), MARKS[n]
        x, w, h = 40 + box.start[2] * 0.32, 256 * 0.32, 512 * 0.32
        yield rect(x, 60, w, h, mark)
        yield text(x + w / 2, 60 + h / 2, f"{n}", "middle")
    yield text(40, 40, "from above (y down, x right)")
    yield text(380, 40, "one of them, from the side (z down)")
    yield rect(400, 60, 82, 240, "a")
    yield arrow(441, 70, 441, 290)
    yield text(500, 100, "swept from the first")
    yield text(500, 120, "plane to the last;")
    yield text(500, 140, "memory holds only")
    yield text(500, 160, "the planes that")
    yield text(500, 180, "patches still need")
    yield text(40, 250, "512 x 768 voxels in three columns")


def slab() -> Iterator[str]:
    """A column from the side: patches, and the planes that are final."""
    axis, scale = AxisTiles(160, 64, 32), 1.7
    yield text(40, 30, "one column (z down)")
    for n in range(0, 160, 32):
        done = n + 32 <= axis.starts[2]
        yield rect(40, 45 + n * scale, 180, 32 * scale, "a" if done else "box")
        yield text(130, 45 + (n + 16) * scale + 5, f"slab {n // 32}" + (": written" if done else ""), "middle")
    for k, start in enumerate(axis.starts):
        yield rect(250 + 60 * k, 45 + start * scale, 50, 64 * scale, "b" if k < 2 else "box")
    y = 45 + axis.starts[2] * scale
    yield f'<line x1="30" y1="{y:g}" x2="560" y2="{y:g}" class="line bold" stroke-dasharray="6 4"/>'
    yield text(250, 30, "patches, 64 deep, a new one every 32 planes")
    yield text(40, 340, "two are computed: no later one begins above the dashed line")


def stage() -> Iterator[str]:
    """The stages of two jobs."""
    for top, title, boxes in (
        (20, "voxweft run", ["Sweep: patches -> slabs", "Blocks: halved levels"]),
        (
            130,
            "voxweft panoptic stack",
            ["Sweep: objects of slices", "Gather: match", "Blocks: relabel", "Gather: table"],
        ),
    ):
        yield text(20, top + 14, title)
        w = (WIDTH - 40 - 24 * (len(boxes) - 1)) / len(boxes)
        for n, words in enumerate(boxes):
            kind, _, what = words.partition(": ")
            x = 20 + n * (w + 24)
            yield boxed(x, top + 28, w, [kind, what], MARKS["SBG".index(kind[0])])
            if n:
                yield arrow(x - 22, top + 54, x - 3, top + 54)


def part() -> Iterator[str]:
    """Which slabs of three columns each of four parts has."""
    for k in range(4):
        for run in COLUMNS.part(k, 4):
            for n in run.slabs:
                yield rect(60 + 150 * run.column, 60 + 55 * n, 120, 48, MARKS[k])
                yield text(120 + 150 * run.column, 89 + 55 * n, f"part {k}", "middle")
    for n in range(COLUMNS.n_columns):
        yield text(120 + 150 * n, 45, f"column {n}", "middle")
    yield text(60, 305, f"{COLUMNS.n_units} slabs, 4 parts: --num-parts 4 --part-id 0 ... 3")


def plan() -> Iterator[str]:
    """What goes into a plan, and who follows it."""
    for n, words in enumerate(("what you asked for", "volume: its fingerprint", "network: its digest")):
        yield boxed(20, 30 + 60 * n, 180, [words])
        yield arrow(202, 48 + 60 * n, 238, 96)
    yield boxed(245, 60, 140, ["plan", "plan.json", "one digest"], "a")
    for n, words in enumerate(("worker", "another worker", "tomorrow, after a stop")):
        yield arrow(388, 96, 424, 48 + 60 * n)
        yield boxed(430, 30 + 60 * n, 180, [words], "b")


def same_bits() -> Iterator[str]:
    """Three ways to one result."""
    ways = ("one process", "8 parts on a cluster", "killed, and run again")
    for n, words in enumerate(ways):
        yield boxed(20, 20 + 60 * n, 200, [words], MARKS[n])
        yield arrow(224, 38 + 60 * n, 388, 98)
    yield boxed(395, 78, 220, ["the same bytes"], "d")


DRAWINGS: dict[str, tuple[Callable[[], Iterator[str]], int, str]] = {
    "patch": (patch, 370, "A plane of a volume, covered by overlapping patches"),
    "window": (window, 315, "Blend weights along an axis; they add up to one"),
    "column": (column, 320, "A volume divided into columns, each swept along z"),
    "slab": (slab, 360, "A column from the side: finished slabs and patches"),
    "stage": (stage, 240, "The stages of two commands"),
    "part": (part, 325, "Slabs of three columns shared by four parts"),
    "plan": (plan, 220, "A plan and what follows it"),
    "same-bits": (same_bits, 210, "Three ways to compute, one result"),
}


def drawn(name: str) -> str:
    """A drawing as SVG."""
    make, height, title = DRAWINGS[name]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    tip = (
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8" class="line"/></marker>'
    )
    return "\n".join([head, f"<title>{title}</title>", f"<style>{STYLE}</style>", tip, *make(), "</svg>", ""])


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/concepts")
    for one in DRAWINGS:
        (folder / f"{one}.svg").write_text(drawn(one), encoding="utf-8")
