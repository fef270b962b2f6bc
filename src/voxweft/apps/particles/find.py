"""Finding particles in blocks: the operations behind the three methods, and what makes picks of them.

    watershed   Blocks(extents) -> Gather(extents) -> Blocks(find, with halo) -+
    com         Blocks(components) -> Gather(join) ----------------------------+-> Gather(picks)
    peaks       Blocks(peaks, with halo) --------------------------------------+

A row a particle: "label", "centre" (z y x in voxels), "score", "voxels". What blocks cannot know, which centres are too
near to each other, is done with all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.gather import Gathered
from voxweft.engine.op import Cell, Made, Op, Table, block_op, gather_op, joined
from voxweft.engine.output import Source
from voxweft.engine.stage import Blocks, Gather, Stage
from voxweft.geometry.box import Box, Zyx
from voxweft.ops.components import connected
from voxweft.ops.join import joined_components, plane_parts
from voxweft.ops.peaks import apart, halo_of, peaks
from voxweft.ops.runs import Runs, measured, merged
from voxweft.ops.watershed import TILE, Waists, parted, parted_at_once

LABELS, PROBABILITY = "labels", "probability"
EXTENTS, FIND, PICKS = "extents", "find", "picks"
SUMS = ("n", "sum", "square", "sure")
SHARES = 1 << 24  # of a probability, in sums
AT_ONCE = 1 << 24  # voxels of a volume that is parted as a whole
EXPECTED = 0.7  # radii of the ball that octopi trains its networks to paint
BORDER = 0.005  # of an axis, at its ends, where centres are not taken


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that is looked for.

    Attributes
    ----------
    name, label
        What it is called; its value in label volumes, and its channel of probabilities.
    radius
        Of the particle, in voxels.
    smallest, largest
        Radii of the smallest and of the largest ball that is one, in voxels.
    threshold
        Least probability of a peak.
    apart
        Voxels within which there is one peak.
    """

    name: str
    label: int
    radius: float
    smallest: float
    largest: float
    threshold: float = 0.3
    apart: float = 0.0

    @property
    def least(self) -> float:
        """Voxels of the smallest."""
        return 4 / 3 * math.pi * self.smallest**3

    @property
    def most(self) -> float:
        """Voxels of the largest."""
        return 4 / 3 * math.pi * self.largest**3

    def waists(self, filter_size: int) -> Waists:
        """How they are parted where they touch."""
        reach = min(96, max(32, math.ceil(4 * self.largest)))
        return Waists(filter_size, self.least, self.most, reach, math.ceil(self.largest) + 8)


def stages_of(
    method: str, wanted: Sequence[Wanted], shape: Zyx, block: int, filter_size: int, sure: bool
) -> list[Stage]:
    """The stages that find particles in a label volume or, by peaks, in probabilities.

    ``block``: voxels along a side of a block, made up to whole tiles; 0 for one of the whole volume, which is parted to
    the voxel as octopi does it. ``sure``: whether there are probabilities, of which scores are made.
    """
    objects = [asdict(one) for one in wanted]
    side: Zyx = tuple(min(-(-block // TILE) * TILE, n) for n in shape) if block else shape  # type: ignore[assignment]
    common: dict[str, Any] = {"shape_zyx": shape, "region": Box.of(shape), "block_zyx": side, "outputs": ()}
    sources: tuple[Source, ...]
    if method == "peaks":
        halo = max([0, *(halo_of(one.radius) for one in wanted)])
        sources = _maps(halo, True)
        return [Blocks(FIND, Op.of(find_peaks, wanted=objects), sources, **common)]
    if method == "com":
        grid = [-(-n // b) for n, b in zip(shape, side, strict=True)]
        sources = (Source(LABELS, halo_zyx=(1, 1, 1), only_after=True), *_maps(0, sure))
        return [
            Blocks("components", Op.of(find_components, wanted=objects), sources, **common),
            Gather(FIND, Op.of(join_components, grid=grid, wanted=objects), ("components",)),
        ]
    halo = max([1, *(one.waists(filter_size).halo for one in wanted)]) if block else 0
    sources = (Source(LABELS, halo_zyx=(halo,) * 3), *_maps(halo, sure))
    return [
        Blocks("boxes", Op.of(find_boxes, labels=[one.label for one in wanted]), (Source(LABELS),), **common),
        Gather(EXTENTS, Op.of(join_boxes), ("boxes",)),
        Blocks(
            FIND,
            Op.of(find_parted, wanted=objects, filter_size=filter_size, at_once=not block),
            sources,
            needs=(EXTENTS,),
            tables=(EXTENTS,),
            **common,
        ),
    ]


def _maps(halo: int, sure: bool) -> tuple[Source, ...]:
    """The probabilities as a source, where there are some."""
    return (Source(PROBABILITY, halo_zyx=(halo,) * 3),) * sure


@block_op
def find_boxes(sources: Sequence[NDArray[Any] | None], cell: Cell, *, labels: Sequence[int]) -> Made:
    """The box of every label in a block: a row each that is there."""
    runs = Runs.of([sources[0][0]], cell.box.start) if sources[0] is not None else None
    if runs is None:
        return Made()
    (label,), table = measured(runs, [runs.values[:, 0]])
    kept = np.isin(label, labels)
    return Made(table={"label": label[kept], "start": table["start"][kept], "stop": table["stop"][kept]})


@gather_op
def join_boxes(gathered: Gathered) -> Made:
    """The box of every label in the volume."""
    found = joined([table for _, table in gathered.tables("boxes") if table])
    if not found:
        return Made(table={"label": np.zeros(0, np.int64)})
    (label,), table = merged([found["label"]], {name: found[name] for name in ("start", "stop")})
    return Made(table={"label": label, **table})


@block_op
def find_parted(
    sources: Sequence[NDArray[Any] | None],
    cell: Cell,
    *,
    wanted: Sequence[Mapping[str, Any]],
    filter_size: int,
    at_once: bool,
    tables: Mapping[str, Table],
) -> Made:
    """The particles of a block, parted by a watershed; rows."""
    known = tables[EXTENTS]
    extents = {
        int(n): Box(tuple(map(int, a)), tuple(map(int, b)))  # type: ignore[arg-type]
        for n, a, b in zip(known["label"], known.get("start", ()), known.get("stop", ()), strict=False)
    }
    objects = [Wanted(**one) for one in wanted]
    rules = {one.label: one.waists(filter_size) for one in objects if one.label in extents}
    if sources[0] is None or not rules:
        return Made()
    if at_once:
        at, number, label = parted_at_once(sources[0][0], extents, rules)
    else:
        at, number, label = parted(sources[0][0], cell.reads[0], cell.box, extents, rules)
    sums = _sums(sources, at - cell.reads[0].start, at, number, label)
    return Made(table=_rows(label, sums, {one.label: one for one in objects}))


@block_op
def find_components(sources: Sequence[NDArray[Any] | None], cell: Cell, *, wanted: Sequence[Mapping[str, Any]]) -> Made:
    """The components of a block, and which parts of shared planes they have; rows of tables."""
    own = cell.box.shape
    read = sources[0][0] if sources[0] is not None else np.zeros(cell.reads[0].shape, np.uint8)
    values = np.where(np.isin(read, [one["label"] for one in wanted]), read, 0)
    ids = connected(values, 6)
    table: dict[str, Any] = {"count": np.array([ids.max(initial=0)], np.int64)}
    for axis in range(3):
        table[f"low_{axis}"] = plane_parts(values, ids, axis, 0, 6)
        behind = own[axis] < values.shape[axis]
        table[f"high_{axis}"] = plane_parts(values, ids, axis, own[axis], 6) if behind else np.zeros(0, np.int64)
    inner = ids[: own[0], : own[1], : own[2]]
    at = np.argwhere(inner)
    number = inner[tuple(at.T)].astype(np.int64) - 1
    label = np.zeros(int(ids.max(initial=0)), np.int64)
    label[ids[ids > 0] - 1] = values[ids > 0]
    return Made(table={**table, "label": label, **_sums(sources, at, at + cell.box.start, number, label)})


@gather_op
def join_components(gathered: Gathered, *, grid: Sequence[int], wanted: Sequence[Mapping[str, Any]]) -> Made:
    """The components of the volume that are as large as particles; rows."""
    tables = [table for _, table in gathered.tables("components")]
    counts = [int(table["count"][0]) for table in tables]
    _, whole = joined_components(counts, (grid[0], grid[1], grid[2]), tables)
    label_of, *sums = (np.concatenate([t[name] for t in tables]) for name in ("label", *SUMS))
    _, found = merged([whole], dict(zip(SUMS, sums, strict=True)))
    label = label_of[np.unique(whole, return_index=True)[1]]
    objects = {one["label"]: Wanted(**one) for one in wanted}
    n = found["n"]
    limits = np.array([(objects[k].least, objects[k].most) for k in label.tolist()]).reshape(-1, 2)
    kept = (n > limits[:, 0]) & (n < limits[:, 1])
    return Made(table=_rows(label[kept], {name: found[name][kept] for name in SUMS}, objects))


@block_op
def find_peaks(sources: Sequence[NDArray[Any] | None], cell: Cell, *, wanted: Sequence[Mapping[str, Any]]) -> Made:
    """The peaks of every object in a block; rows."""
    rows = []
    read, box = cell.reads[0], cell.box
    for one in (Wanted(**w) for w in wanted):
        if sources[0] is None or one.label >= len(sources[0]):
            continue
        halo = halo_of(one.radius)
        window = Box(tuple(a - halo for a in box.start), tuple(b + halo for b in box.stop)) & read  # type: ignore[arg-type]
        p = as_probability(sources[0][(one.label, *window.shift(read.start, -1).slices)])
        at, value = peaks(p, one.radius, one.threshold, window.start)
        voxel = np.rint(at)
        mine = ((voxel >= box.start) & (voxel < box.stop)).all(axis=1)
        rows.append(
            {
                "label": np.full(mine.sum(), one.label),
                "centre": at[mine],
                "score": value[mine],
                "voxels": np.zeros(mine.sum(), np.int64),
            }
        )
    return Made(table=joined(rows))


def as_probability(values: NDArray[Any]) -> NDArray[np.float64]:
    """Stored probabilities as numbers 0 to 1: integers are shares of the largest that they can be."""
    top = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    return np.asarray(values / np.float32(top), np.float64)


def _shares(values: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities in whole shares of 1, whose sums are exact in any order."""
    return np.asarray(np.rint(as_probability(values) * SHARES))


def centres_of(table: Table, wanted: Sequence[Wanted], shape: Zyx, method: str) -> dict[str, Table]:
    """The particles of a volume by the names of their objects, from the rows of its blocks.

    Centres nearer than the smallest radius become their mean (peaks: the larger one stays), and those at the very
    border are left out. Sorted by their scores, the best first.
    """
    found: dict[str, Table] = {}
    for one in wanted:
        mine = table["label"] == one.label if table else np.zeros(0, np.bool_)
        centre = table["centre"][mine] if table else np.zeros((0, 3))
        score, voxels = (table[name][mine] if table else np.zeros(0) for name in ("score", "voxels"))
        if method == "peaks":
            kept = apart(centre, score, one.apart)
            centre, score, voxels = centre[kept], score[kept], voxels[kept]
        else:
            centre, score, voxels = _merged(centre, score, voxels, one.smallest)
        inside = ((centre >= BORDER * np.array(shape)) & (centre <= (1 - BORDER) * np.array(shape))).all(axis=1)
        order = np.lexsort((*centre[inside].T[::-1], -score[inside]))
        found[one.name] = {
            "centre": centre[inside][order],
            "score": score[inside][order],
            "voxels": voxels[inside][order].astype(np.int64),
        }
    return found


def _merged(
    centre: NDArray[np.float64], score: NDArray[np.float64], voxels: NDArray[Any], distance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Centres that are linked by steps of at most ``distance`` as one: their means, the sum of their voxels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    if len(centre) < 2:
        return centre, score, voxels
    pairs = KDTree(centre).query_pairs(distance, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), np.bool_), tuple(pairs.T)), shape=(len(centre),) * 2)
    n, group = connected_components(links, directed=False)
    size = np.bincount(group)
    mean = np.stack([np.bincount(group, centre[:, k]) / size for k in range(3)], axis=1)
    return mean, np.bincount(group, score) / size, np.bincount(group, voxels, n)


def _sums(
    sources: Sequence[NDArray[Any] | None],
    at: NDArray[np.int64],
    place: NDArray[np.int64],
    number: NDArray[np.int64],
    label: NDArray[np.int64],
) -> Table:
    """Sums over the voxels of particles, a row each, of which :func:`_rows` are made.

    ``at``, ``place``, ``number``: of every voxel where it is in the sources, where in the volume, and whose it is.
    """
    many = len(label)
    sure = np.full(many, np.nan)
    if len(sources) > 1 and sources[1] is not None:
        sure = np.bincount(number, _shares(sources[1][(label[number], *at.T)]), many)
    return {
        "n": np.bincount(number, minlength=many).astype(np.int64),
        "sum": np.stack([np.bincount(number, place[:, k], many) for k in range(3)], axis=1),
        "square": np.bincount(number, (place.astype(np.float64) ** 2).sum(axis=1), many),
        "sure": sure,
    }


def _rows(label: NDArray[np.int64], sums: Mapping[str, NDArray[Any]], objects: Mapping[int, Wanted]) -> Table:
    """Rows of particles from the sums of their voxels.

    The score says how close their voxels lie together, 1 for a ball, which tells a particle from pieces of several;
    times their mean probability, or where that is not known, how near their size is to that of the ball that networks
    are trained to paint (the root of the smaller radius / the larger).
    """
    n = sums["n"]
    centre = sums["sum"] / np.maximum(n, 1)[:, None]
    trained = np.array([EXPECTED * objects[int(k)].radius for k in label])
    radius = (3 * n / (4 * math.pi)) ** (1 / 3)
    size = np.sqrt(np.minimum(radius, trained) / np.maximum(np.maximum(radius, trained), 1e-9))
    spread = sums["square"] / np.maximum(n, 1) - (centre**2).sum(axis=1)  # mean squared distance from the centre
    ball = 3 / 5 * radius**2  # that of a ball
    close = np.minimum(1.0, ball / np.maximum(spread, ball * 1e-9 + 1e-9))
    mean = sums["sure"] / (SHARES * np.maximum(n, 1))
    return {
        "label": label,
        "centre": centre,
        "score": close * np.where(np.isfinite(mean), mean, size),
        "voxels": n,
    }
