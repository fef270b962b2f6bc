"""Lists of particles as other programs write them: RELION star files, and comma-separated tables.

=======  =====================================================================================================
relion5  ``data_particles``: rlnTomoName, rlnCenteredCoordinateX/Y/ZAngst (from the middle of the tomogram)
relion4  the same with rlnCoordinateX/Y/Z in pixels from its corner, and rlnMicrographName as RELION 3 has it
csv      id, experiment, particle_type, x, y, z in Angstrom, score: the columns of the CZII challenge first
=======  =====================================================================================================

Angles are RELION's rot, tilt and psi (Heymann et al. 2005, doi:10.1016/j.jsb.2005.06.001): z y z, of the rotation from
the tomogram to the particle.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError, VolumeError, first_line
from voxweft.installed import install_line

FORMATS = ("relion5", "relion4", "csv")
CENTRED, PLAIN = (
    [f"rln{kind}{axis}{unit}" for axis in "XYZ"] for kind, unit in (("CenteredCoordinate", "Angst"), ("Coordinate", ""))
)
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
SCORES = ["rlnAutopickFigureOfMerit", "rlnLCCmax", "rlnMaxValueProbDistribution"]
CHALLENGE = ("id", "experiment", "particle_type", "x", "y", "z", "score")


@dataclass(frozen=True)
class Listed:
    """Particles of one or several runs, all of the same length n.

    Attributes
    ----------
    runs, objects
        Names; of a file without objects "", or "class N".
    centres
        float64 [n, 3], x y z in Angstrom, or in pixels where ``in_pixels``; from the middle of the tomogram where
        ``centred``.
    scores
        float64 [n].
    turns
        float64 [n, 3, 3], from the particle to the tomogram.
    """

    runs: Sequence[str]
    objects: Sequence[str]
    centres: NDArray[np.float64]
    scores: NDArray[np.float64]
    turns: NDArray[np.float64]
    centred: bool = False
    in_pixels: bool = False


def format_of(path: str, asked: str = "") -> str:
    """The format of a file: the one asked for, or by its ending.

    >>> format_of("picks.star"), format_of("picks.csv"), format_of("picks.star", "relion4")
    ('relion5', 'csv', 'relion4')
    """
    if asked and asked not in FORMATS:
        raise RequestError(f"--format {asked!r} is unknown; use one of {', '.join(FORMATS)}")
    found = {".star": "relion5", ".csv": "csv"}.get(Path(path).suffix.lower(), "")
    if not (asked or found):
        raise RequestError(f"{path}: give a name that ends in .star or .csv, or --format")
    return asked or found


def as_text(listed: Listed, kind: str, numbers: Mapping[str, int]) -> str:
    """The text of a file; ``numbers``: of objects, for rlnClassNumber."""
    if kind == "csv":
        return _as_csv(listed)
    columns: dict[str, Sequence[Any]] = {"rlnTomoName": listed.runs}
    if kind == "relion4":
        columns["rlnMicrographName"] = listed.runs
    names = CENTRED if kind == "relion5" else PLAIN
    columns |= {name: [f"{v:.6f}" for v in listed.centres[:, k]] for k, name in enumerate(names)}
    angles = _angles(listed.turns)
    columns |= {name: [f"{v:.6f}" for v in angles[:, k]] for k, name in enumerate(ANGLES)}
    columns[SCORES[0]] = [f"{v:.6f}" for v in listed.scores]
    columns["rlnClassNumber"] = [numbers.get(name, 0) for name in listed.objects]
    lines = ["", "# made by voxweft", "", "data_particles", "", "loop_"]
    lines += [f"_{name} #{n}" for n, name in enumerate(columns, start=1)]
    lines += [" ".join(str(v) for v in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join(lines) + "\n\n"


def read_list(path: str) -> Listed:
    """Read a star or csv file.

    Raises
    ------
    VolumeError
        If it is missing, damaged, or has no coordinates; coordinates that are no finite numbers are named.
    """
    place = Path(path)
    if not place.is_file():
        raise VolumeError(f"{path}: no list of particles lies there")
    try:
        columns = _star(place) if place.suffix.lower() == ".star" else _csv(place)
    except VolumeError:
        raise
    except Exception as error:  # whatever its parser raises
        raise VolumeError(f"{path} is no star or csv file, or damaged: {first_line(error)}") from error
    for names, centred, in_pixels in ((CENTRED, True, False), (PLAIN, False, True), (["x", "y", "z"], False, False)):
        if set(names) <= columns.keys():
            centres = np.stack([_numbers(columns[n], n, path) for n in names], axis=1)
            return _listed(columns, centres, centred, in_pixels)
    raise VolumeError(f"{path} has no coordinates: {', '.join(CENTRED)}, {', '.join(PLAIN)}, or x, y, z")


def _listed(
    columns: Mapping[str, Sequence[Any]], centres: NDArray[np.float64], centred: bool, in_pixels: bool
) -> Listed:
    n = len(centres)
    runs = next(
        (columns[c] for c in ("rlnTomoName", "rlnMicrographName", "experiment", "run") if c in columns), [""] * n
    )
    objects: Sequence[Any] = columns.get("particle_type", columns.get("object", ()))
    if not len(objects):
        classes = columns.get("rlnClassNumber", [0] * n)
        objects = [f"class {int(c)}" if int(c) else "" for c in classes]
    score = next((columns[c] for c in ("score", *SCORES) if c in columns), None)
    turns = np.tile(np.eye(3), (n, 1, 1))
    if n and set(ANGLES) <= columns.keys():
        turns = _turns(np.stack([np.asarray(columns[a], np.float64) for a in ANGLES], axis=1))
    scores = np.ones(n) if score is None else np.nan_to_num(np.asarray(score, np.float64))
    names = [Path(str(r)).name.partition(".")[0] for r in runs]
    return Listed(names, [str(o) for o in objects], centres, scores, turns, centred, in_pixels)


def _star(path: Path) -> dict[str, Sequence[Any]]:
    try:
        import starfile
    except ImportError as error:
        raise VolumeError(f"{path} needs the extra 'cryoet': {install_line('cryoet')}") from error
    blocks = starfile.read(path, always_dict=True)
    for name in ("particles", *blocks):
        block = blocks.get(name)
        if block is not None and hasattr(block, "columns") and any("Coordinate" in c for c in block.columns):
            return {column: block[column].tolist() for column in block.columns}
    raise VolumeError(f"{path} has no block with coordinates; RELION calls it data_particles")


def _csv(path: Path) -> dict[str, Sequence[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = [*reader]
    return {name.strip(): [row[name] for row in rows] for name in reader.fieldnames or ()}


def _as_csv(listed: Listed) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CHALLENGE)
    for n, (run, name, centre, score) in enumerate(
        zip(listed.runs, listed.objects, listed.centres, listed.scores, strict=True)
    ):
        writer.writerow([n, run, name, *(f"{v:.6g}" if abs(v) < 1 else f"{v:.4f}" for v in centre), f"{score:.6f}"])
    return text.getvalue()


def _numbers(values: Sequence[Any], name: str, path: str) -> NDArray[np.float64]:
    for n, value in enumerate(values):
        try:
            known = math.isfinite(float(value))
        except (TypeError, ValueError):
            known = False
        if not known:
            raise VolumeError(f"{path}: {name} of particle {n + 1} is {value!r:.40}, no finite number")
    return np.array([float(v) for v in values], np.float64)


def _angles(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    found = np.zeros((len(turns), 3))
    turned = ~np.isclose(turns, np.eye(3)).all(axis=(1, 2)) if len(turns) else np.zeros(0, np.bool_)
    if turned.any():
        found[turned] = Rotation.from_matrix(turns[turned]).inv().as_euler("ZYZ", degrees=True)
    return found


def _turns(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix())
