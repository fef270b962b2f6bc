"""Runs over one segment side by side: what differs between them, and how far they agree."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.names import PREDICTIONS
from voxweft.apps.ink.plane import PICTURES, Plane, histogram, opened_plane
from voxweft.engine.passes import KNOWN
from voxweft.errors import RequestError
from voxweft.ops.agreement import block_means, pearson
from voxweft.remote import without_secrets
from voxweft.stores.url import children, parent_and_name, records_at
from voxweft.version import __version__

REDUCED = 2048  # pixels a side, at most, of what is held of a picture
BESIDE = re.compile(rf"_{KNOWN}\.\w+$")  # what lies beside a picture, and is none of ink


@dataclass(frozen=True, slots=True)
class InkRun:
    """One picture.

    Attributes
    ----------
    file, sha256, shape_yx
        Where it lies; digest of the file, "" of an OME-Zarr; rows and columns.
    record
        What it says of its making.
    level, n_levels
        Values from ``level`` on, of ``n_levels``, count as ink.
    mean, share
        Mean of its values, 0 to 1; share of its pixels that count as ink.
    reduced
        Its values, 0 to 1, as means of square blocks, float32 [Y, X].
    """

    file: str
    sha256: str
    shape_yx: tuple[int, int]
    record: dict[str, Any]
    level: int
    n_levels: int
    mean: float
    share: float
    reduced: NDArray[np.float32] = field(repr=False, compare=False)

    def entry(self) -> dict[str, Any]:
        """What a manifest says of it."""
        facts = {"file": without_secrets(self.file), "sha256": self.sha256, "size": list(self.shape_yx)}
        counted = {"level": self.level, "levels": self.n_levels}
        measured = {"mean": round(self.mean, 6), "share_at_threshold": round(self.share, 6), "counted_from": counted}
        return facts | self.record | measured


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs, and of each pair Pearson's r [runs, runs]; NaN where their sizes differ or one is constant."""

    runs: tuple[InkRun, ...]
    agreement: NDArray[np.float64]

    @property
    def differing(self) -> tuple[str, ...]:
        """The facts of the records in which runs differ."""
        names = dict.fromkeys(name for run in self.runs for name in run.record)
        return tuple(n for n in names if len({json.dumps(run.record.get(n)) for run in self.runs}) > 1)

    def manifest(self) -> dict[str, Any]:
        """Plain JSON values."""
        n = len(self.runs)
        pairs = [
            {"runs": [a, b], "r": None if math.isnan(r := float(self.agreement[a, b])) else round(r, 6)}
            for a in range(n)
            for b in range(a + 1, n)
        ]
        runs = [run.entry() for run in self.runs]
        return {"voxweft": __version__, "runs": runs, "differing": list(self.differing), "agreement": pairs}


def pictures_of(segment: str) -> list[str]:
    """The pictures of a segment: of its folder ``predictions``, or those that lie in it itself.

    Raises
    ------
    RequestError
        If there are none.
    """
    folder = segment.rstrip("/")
    for place in (f"{folder}/{PREDICTIONS}", folder):
        if found := sorted(n for n in children(place) if n.endswith(PICTURES) and not BESIDE.search(n)):
            return [f"{place}/{name}" for name in found]
    raise RequestError(f"{segment} holds no pictures, nor does its folder {PREDICTIONS}; voxweft ink run makes them")


def compare(pictures: Sequence[str], threshold: float = 0.5) -> Comparison:
    """Read pictures one after the other and compare them.

    Memory does not grow with their number times their size: of each no more than 2048 x 2048 means of blocks are kept,
    which the agreement is measured on.

    Parameters
    ----------
    pictures
        PNG, TIFF or zarr; paths or s3://.
    threshold
        From which share of the largest value on a pixel counts as ink.

    Raises
    ------
    RequestError
        If there are fewer than two, or the threshold is no share.
    VolumeError
        If one is no picture.
    """
    if len(pictures) < 2:
        raise RequestError("one picture alone cannot be compared; give two or more, or a segment with predictions")
    if not 0 < threshold <= 1:
        raise RequestError(f"--threshold {threshold:g} is not between 0 and 1")
    runs = []
    for url in pictures:
        with opened_plane(url) as plane:
            runs.append(_look(plane, threshold))
    agreement = np.eye(len(runs))
    for a, one in enumerate(runs):
        for b, other in enumerate(runs[:a]):
            same = one.shape_yx == other.shape_yx
            agreement[a, b] = agreement[b, a] = pearson(one.reduced, other.reduced) if same else math.nan
    return Comparison(tuple(runs), agreement)


def _look(plane: Plane, threshold: float) -> InkRun:
    side = max(1, math.ceil(max(plane.shape_yx) / REDUCED))
    counts, parts, top = np.zeros(plane.n_levels, np.int64), [], plane.n_levels - 1
    for band in plane.bands(max(side, 1024 // side * side)):
        counts += histogram(band, plane.n_levels)
        parts.append(block_means(band, side) / np.float32(top))
    level, n_pixels = math.ceil(threshold * top), int(counts.sum())
    return InkRun(
        plane.url,
        plane.sha256,
        plane.shape_yx,
        plane.record,
        level,
        plane.n_levels,
        float(counts @ np.arange(plane.n_levels)) / top / n_pixels,
        float(counts[level:].sum()) / n_pixels,
        np.concatenate(parts),
    )


def save_manifest(comparison: Comparison, place: str) -> str:
    """Write the manifest, a path or s3://; where it lies."""
    folder, name = parent_and_name(place)
    records_at(folder).put(name, json.dumps(comparison.manifest(), indent=1).encode())
    return place
