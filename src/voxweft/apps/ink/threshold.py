"""Where ink begins: the level that agrees best with labelled maps, and the mask that it makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.picture import TILED, check_place, save_picture
from voxweft.apps.ink.plane import Plane, histogram, opened_plane
from voxweft.engine.opened import Readable
from voxweft.errors import RequestError, first_line
from voxweft.geometry.box import Box, Zyx
from voxweft.ops.thresholds import Counts, LevelScore, best_level, score_at
from voxweft.remote import remote_errors
from voxweft.stores.url import absolute, records_at

UNUSED = -1


@dataclass(frozen=True, slots=True)
class LabelledMap:
    """A picture on which ink was labelled, what a network found there, and where it was labelled ("": everywhere)."""

    labelled: str
    prediction: str
    mask: str = ""


@dataclass(frozen=True, slots=True)
class MapScore:
    """One map: the level that is best for it, and how good the common level is on it."""

    labelled: str
    prediction: str
    best: LevelScore
    common: LevelScore


@dataclass(frozen=True, slots=True)
class Calibration:
    """The level from which on values, of ``n_levels``, count as ink: the median of the best of each map."""

    level: int
    n_levels: int
    maps: tuple[MapScore, ...]

    def to_json(self) -> bytes:
        """For ``thresholds.json``."""
        common = [one.common for one in self.maps]
        mean = {n: round(float(np.mean([getattr(c, n) for c in common])), 6) for n in ("f1", "precision", "recall")}
        maps = [asdict(one) for one in self.maps]
        return json.dumps({"level": self.level, "levels": self.n_levels, **mean, "maps": maps}, indent=1).encode()


def calibrate(maps: Sequence[LabelledMap], unlabelled: int = UNUSED) -> Calibration:
    """Find the level from which on values count as ink.

    A pixel was labelled as ink where its value is more than half of the largest one of its map.

    Parameters
    ----------
    maps
        Labelled pictures and predictions of the same sizes.
    unlabelled
        A grey value of the labelled pictures that says nothing; -1: none does.

    Raises
    ------
    RequestError
        If sizes or bits differ, or a map has no ink, or nothing else.
    """
    if not maps:
        raise RequestError("no labelled map was given; write LABELLED.png=PREDICTION.png")
    counted = [_counts(one, unlabelled) for one in maps]
    if len(sizes := {len(inside) for inside, _ in counted}) > 1:
        raise RequestError(f"predictions of {' and '.join(map(str, sorted(sizes)))} levels have no level in common")
    best = [best_level(*counts) for counts in counted]
    level = int(np.median([one.level for one in best]) + 0.5)
    scores = [
        MapScore(one.labelled, one.prediction, b, score_at(*counts, level))
        for one, b, counts in zip(maps, best, counted, strict=True)
    ]
    return Calibration(level, len(counted[0][0]), tuple(scores))


def _counts(one: LabelledMap, unlabelled: int) -> tuple[Counts, Counts]:
    """How many pixels of each value lie on ink, and beside it."""
    with opened_plane(one.labelled) as labels, opened_plane(one.prediction) as found:
        _require_alike(labels, found)
        if one.mask:
            with opened_plane(one.mask) as mask:
                _require_alike(mask, found)
                inside, outside = _counted(labels, found, mask, unlabelled)
        else:
            inside, outside = _counted(labels, found, None, unlabelled)
    if not inside.sum():
        raise RequestError(f"{one.labelled} has no ink labelled where it counts; nothing can be calibrated on it")
    if not outside.sum():
        raise RequestError(f"{one.labelled} has nothing but ink where it counts; nothing can be calibrated on it")
    return inside, outside


def _counted(labels: Plane, found: Plane, mask: Plane | None, unlabelled: int) -> tuple[Counts, Counts]:
    top = max((int(band[band != unlabelled].max(initial=0)) for band in labels.bands()), default=0)
    inside, outside = (np.zeros(found.n_levels, np.int64) for _ in range(2))
    masks = mask.bands() if mask else None
    for label, values in zip(labels.bands(), found.bands(), strict=True):
        counts = label != unlabelled
        if masks is not None:
            counts &= next(masks) > 0
        ink = label > top / 2
        inside += histogram(values[counts & ink], found.n_levels)
        outside += histogram(values[counts & ~ink], found.n_levels)
    return inside, outside


def _require_alike(one: Plane, other: Plane) -> None:
    if one.shape_yx != other.shape_yx:
        sizes = [f"{plane.url} has {plane.shape_yx[1]} x {plane.shape_yx[0]} pixels" for plane in (one, other)]
        raise RequestError(f"{sizes[0]}, {sizes[1]}; they must be of one size")


@dataclass(frozen=True, slots=True)
class _AsMask:
    """A picture as 0 and 255."""

    rows: Readable
    level: int

    @property
    def shape_zyx(self) -> Zyx:
        """Its extent."""
        return self.rows.shape_zyx

    def read(self, box: Box) -> NDArray[Any] | None:
        """255 where it is ink."""
        values = self.rows.read(box)
        return None if values is None else np.where(values >= self.level, 255, 0).astype(np.uint8)

    def holds(self, box: Box) -> bool:
        """As the picture does."""
        return self.rows.holds(box)


def read_level(calibration: str) -> tuple[int, int]:
    """The level of a ``thresholds.json``, and of how many.

    Raises
    ------
    RequestError
        If it is none.
    """
    folder, _, name = calibration.rpartition("/")
    unreadable: tuple[type[Exception], ...] = (OSError, *remote_errors())
    try:
        found = json.loads(records_at(folder or ("." if name == calibration else "/")).get(name) or b"{}")
        return int(found["level"]), int(found["levels"])
    except unreadable as error:
        raise RequestError(f"{calibration} cannot be read: {first_line(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{calibration} is no thresholds.json of voxweft ink threshold calibrate") from error


def apply(prediction: str, output: str, *, level: int = UNUSED, calibration: str = "") -> str:
    """Write a mask, 255 where a picture's values are ``level`` or more, else 0; a few rows are held at once.

    Parameters
    ----------
    prediction
        PNG, TIFF or zarr, 8 or 16 bit.
    output
        PNG or TIFF, with the record of the prediction and the level.
    level, calibration
        The level; or what :func:`calibrate` found, in ``thresholds.json``.

    Returns
    -------
    str
        Where it lies.

    Raises
    ------
    RequestError
        If not one of both is given, or the level is none of the picture's.
    """
    if (level == UNUSED) == (not calibration):
        raise RequestError("give either --level N or --calibration thresholds.json")
    if not output.endswith((".png", *TILED)):
        raise RequestError(f"cannot write {output!r}: it must end in .png, {', '.join(TILED)}")
    if absolute(output) == absolute(prediction):
        raise RequestError(f"{output} is what is read; choose another OUTPUT")
    check_place(output)
    level, n_levels = read_level(calibration) if calibration else (level, 0)
    with opened_plane(prediction) as plane:
        if n_levels and n_levels != plane.n_levels:
            raise RequestError(f"{calibration} is of {n_levels} levels, {prediction} has {plane.n_levels}")
        if not 0 < level < plane.n_levels:
            raise RequestError(f"--level {level} is not 1 to {plane.n_levels - 1}, the values of {prediction}")
        about = plane.record | {"threshold": {"level": level, "levels": plane.n_levels}}
        save_picture(output, _AsMask(plane.rows, level), about, plane.pixel_yx_um)
    return output
