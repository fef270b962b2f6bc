"""Which colour is which class, and how much there is of each; how far it agrees with the truth."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.ledger import Ledger
from voxweft.geometry.box import Box
from voxweft.ops.activate import VALUES
from voxweft.viewer import pictures
from voxweft.viewer.markup import bar_table, dot, row_table
from voxweft.viewer.scale import volume_in_words
from voxweft.viewer.subject import SEEN_VOXELS, Seen, class_map, middle_of

SHOWN = 60


def legend(seen: Seen, ledger: Ledger) -> Iterator[str]:
    """Classes with their colours, names, voxels, volumes and shares; of a probability also how it is spread."""
    subject = seen.subject
    if subject.finish.output in VALUES:
        yield _spread(*_read(seen)[:2], seen)
        return
    counts, said = _counted(seen, ledger)
    if counts is None:
        values, how, exact = _read(seen)
        classes = class_map(values, subject.finish)
        factor = subject.region.n_voxels / max(1, classes.size)
        counts = np.bincount(classes.ravel(), minlength=2).astype(np.float64) * factor
        said = f"counted, {how}" if exact else f"an estimate: {how}"
        yield _table(seen, counts, exact)
        yield f"<p class=small>{escape(said)}</p>"
        if subject.finish.output not in ("labels", "mask"):
            yield _spread(values, how, seen)
        return
    yield _table(seen, counts, True)
    yield f"<p class=small>{escape(said)}</p>"


def class_name(seen: Seen, index: int) -> str:
    """What a class is called."""
    return seen.subject.names.get(index, f"class {index}")


def colour_of(seen: Seen, index: int) -> tuple[int, ...]:
    """The colour of a class in the overlays."""
    tints = seen.subject.tints
    return tuple(int(c) for c in tints[index % len(tints)])


def score(seen: Seen) -> Iterator[str]:
    """Dice of every class against the truth: of all voxels, or of the middle of a large volume."""
    region = seen.subject.region
    box = region if region.n_voxels <= SEEN_VOXELS else seen.window
    truth = seen.truth_of(box)
    if seen.truth is None or truth is None:
        return
    found = class_map(seen.sink.read(box), seen.subject.finish)
    rows = []
    for index in sorted({*np.unique(found).tolist(), *np.unique(truth).tolist()} - {0}):
        a, b = found == index, truth == index
        both, total = int((a & b).sum()), int(a.sum()) + int(b.sum())
        name = f"{dot(colour_of(seen, index))}{escape(class_name(seen, index))}"
        rows.append([name, f"{2 * both / total:.3f}", f"{int(b.sum()):,}", f"{int(a.sum()):,}"])
    where = "all voxels" if box == region else f"the middle, {box}"
    yield row_table(("class", "Dice", "voxels in the truth", "voxels found"), rows)
    yield f"<p class=small>Of {where}; truth: {escape(seen.truth.info.url)}</p>"


def _counted(seen: Seen, ledger: Ledger) -> tuple[NDArray[np.float64] | None, str]:
    """Voxels of each label where the run counted them."""
    sweep = seen.subject.sweep
    if sweep is None or not sweep.tally or seen.subject.finish.output != "labels":
        return None, ""
    tables = [ledger.table(sweep.name, unit).get("voxels") for unit in range(sweep.n_units)]
    rows = [table.sum(axis=0) for table in tables if table is not None]
    if len(rows) < len(tables):
        return None, ""
    return np.asarray(np.sum(rows, axis=0), np.float64), "counted by the run, all voxels"


def _read(seen: Seen) -> tuple[NDArray[Any], str, bool]:
    """The result where it is small enough, how it was taken, and whether that is all of it."""
    sink, region = seen.sink, seen.subject.region
    level = next((k for k in range(sink.n_levels()) if np.prod(sink.shape(k)) <= SEEN_VOXELS), sink.n_levels() - 1)
    if level == 0 and region.n_voxels <= SEEN_VOXELS:
        return sink.read(region), "all voxels", True
    factor = seen.factor(level)
    start = (int(a // f) for a, f in zip(region.start, factor, strict=True))
    stop = (min(n, int(-(-b // f))) for b, f, n in zip(region.stop, factor, sink.shape(level), strict=True))
    box = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
    if box.n_voxels > SEEN_VOXELS:
        return sink.read(middle_of(box), level), f"from the middle of resolution level {level}", False
    return sink.read(box, level), f"from resolution level {level}", level == 0


def _table(seen: Seen, counts: NDArray[np.float64], exact: bool) -> str:
    total = counts.sum() or 1
    about = "" if exact else "about "
    geometry = seen.subject.spec.geometry
    rows = [
        [
            f"{dot(colour_of(seen, i))}{escape(class_name(seen, i))}",
            f"{about}{n:,.0f}",
            f"{about}{volume}" if (volume := volume_in_words(n, geometry)) else "",
            f"{n / total:.2%}",
        ]
        for i, n in enumerate(counts)
        if n
    ]
    table = row_table(("class", seen.subject.spec.words.voxels, "volume", "share"), rows[:SHOWN])
    return table + (f"<p class=small>{len(rows) - SHOWN} more classes</p>" if len(rows) > SHOWN else "")


def _spread(values: NDArray[Any], how: str, seen: Seen) -> str:
    """How often which probability comes, or which size."""
    counts, _ = np.histogram(pictures.foreground(values, seen.subject.finish), bins=20, range=(0, 1))
    bars = {f"{i / 20:.2f} to {(i + 1) / 20:.2f}": int(n) for i, n in enumerate(counts)}
    sizes = seen.subject.finish.output in VALUES
    what = "size, as a share of the largest" if sizes else "probability of the foreground"
    said = f"voxels by {what}, {how}"
    return f"<details><summary>{escape(said)}</summary>{bar_table(bars, said)}</details>"
