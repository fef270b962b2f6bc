"""Tables of objects: rows of blocks joined, with what a person wants to know of each; csv and parquet."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.gather import Gathered
from voxweft.engine.op import Made, Op, Table, gather_op, joined
from voxweft.engine.output import Output
from voxweft.engine.stage import Gather, Stage
from voxweft.image.place import Geometry
from voxweft.ops.runs import merged, rows_of
from voxweft.runner.place import IN_MEMORY
from voxweft.stores.url import parent_and_name, records_at

CSV, PARQUET = "objects.csv", "objects.parquet"
OBJECTS = "objects"  # name of the stage
WIDE = 40  # bits of the number of an object, where its class stands before it
MEASURES = ("voxels", "start", "stop", "sum", "surface")


def object_files() -> tuple[str, ...]:
    """The files that can be written here: a parquet where pyarrow is installed."""
    return (CSV, PARQUET) if find_spec("pyarrow") else (CSV,)


def object_places(output: str, more: Sequence[str] = ()) -> dict[str, str]:
    """Where the files of an output lie, and ``more`` of them: beside it; nowhere for one in memory.

    >>> object_places("memory://"), object_places("cells.zarr")["objects.csv"]
    ({}, 'cells_objects.csv')
    """
    base = re.sub(r"\.(zarr|tiff?)$", "", output)
    return {} if output == IN_MEMORY else {name: f"{base}_{name}" for name in (*object_files(), *more)}


def object_stages(
    rows: str, geometry: Geometry, shape_zyx: Sequence[int], names: Mapping[int, str], sure: str = ""
) -> list[Stage]:
    """The stages that make the table of objects of a stage, and its files where they have a place.

    ``rows`` and ``sure`` as for :func:`join_objects`; ``names``: of the classes.
    """
    files = tuple(Output(name) for name in object_files())
    about = {
        "shape_zyx": list(shape_zyx),
        "voxel_size_zyx": list(geometry.voxel_size_zyx),
        "unit": geometry.unit,
        "names": {str(number): name for number, name in names.items()},
    }
    needs = (rows, sure) if sure else (rows,)
    return [
        Gather(OBJECTS, Op.of(join_objects, rows=rows, sure=sure), needs),
        Gather("list", Op.of(list_objects, **about), (OBJECTS,), files),
    ]


@gather_op
def join_objects(gathered: Gathered, *, rows: str, sure: str) -> Made:
    """Join the rows of all blocks of a stage to one an object.

    Rows have "class", "label" and the measures of :func:`voxweft.ops.objects.object_rows`. ``sure`` names a gather
    whose table says of pieces of objects ("class", "object") how sure they are, over how many voxels, and perhaps in
    which slice they lie; or "".
    """
    found = joined([table for _, table in gathered.tables(rows) if table])
    empty = np.zeros(0, np.int64)
    keys = [np.asarray(found.get(name, empty), np.int64) for name in ("class", "label")]
    sides = np.zeros((0, 3), np.int64)
    none = {name: sides if name in ("start", "stop", "sum") else empty for name in MEASURES}
    (of, label), table = merged(keys, {name: found[name] for name in MEASURES} if found else none)
    pieces = gathered.ledger.table(sure, 0) if sure else {}
    confidence, n_slices = mean_confidence(pieces, of, label), _n_slices(pieces, of, label)
    slices = np.where(n_slices > 0, n_slices, table["stop"][:, 0] - table["start"][:, 0])
    return Made(table={"class": of, "label": label, **table, "confidence": confidence, "slices": slices})


@gather_op
def list_objects(
    gathered: Gathered,
    *,
    shape_zyx: Sequence[int],
    voxel_size_zyx: Sequence[float],
    unit: str,
    names: Mapping[str, str],
) -> Made:
    """Write the table of objects for people, and for programs."""
    table = gathered.ledger.table(OBJECTS, 0)
    listed = _columns(table, shape_zyx, Geometry(tuple(voxel_size_zyx), unit), names)  # type: ignore[arg-type]
    for name, url in gathered.files.items():
        folder, file = parent_and_name(url)
        records_at(folder).put(file, _parquet(listed) if name == PARQUET else _csv(listed))
    return Made()


def _columns(
    table: Mapping[str, NDArray[Any]], shape: Sequence[int], geometry: Geometry, names: Mapping[str, str]
) -> dict[str, list[Any]]:
    """The table as a person reads it."""
    sizes, unit = geometry.voxel_size_zyx, geometry.unit
    n = table["voxels"]
    centre = table["sum"] / np.maximum(n, 1)[:, None]
    edge = ((table["start"] == 0) | (table["stop"] == np.array(shape))).any(axis=1)
    columns: dict[str, list[Any]] = {
        "id": table["label"].tolist(),
        "class": [names.get(str(one), str(one)) for one in table["class"].tolist()],
        "voxels": n.tolist(),
        f"volume_{_short(unit)}3" if unit else "volume": (n * float(np.prod(sizes))).tolist(),
    }
    for k, axis in enumerate("zyx"):
        columns[f"{axis}_start"] = table["start"][:, k].tolist()
        columns[f"{axis}_stop"] = table["stop"][:, k].tolist()
    for k, axis in enumerate("zyx"):
        columns[f"{axis}_centre"] = [round(value, 3) for value in centre[:, k].tolist()]
    columns["surface_voxels"] = table["surface"].tolist()
    columns["touches_border"] = edge.tolist()
    sure = table["confidence"].tolist()
    if np.isfinite(sure).any():
        columns["confidence"] = [round(value, 4) if math.isfinite(value) else None for value in sure]
    columns["slices"] = table["slices"].tolist()
    return columns


def _csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    data = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), data)
    return data.getvalue()


def mean_confidence(table: Table, of: NDArray[Any], label: NDArray[Any]) -> NDArray[np.float64]:
    """How sure objects are, by the table of a matching: the mean over the voxels of their pieces; NaN where unknown."""
    found = np.full(len(of), np.nan)
    if "confidence" not in table:
        return found
    known = np.isfinite(table["confidence"]) & (table["object"] > 0)
    n = table["voxels"][known].astype(np.float64)
    (keys,), sums = merged([_keys(table, known)], {"n": n, "sure": n * table["confidence"][known]})
    at, there = rows_of(keys, of << WIDE | label)
    found[there] = sums["sure"][at[there]] / sums["n"][at[there]]
    return found


def _n_slices(table: Table, of: NDArray[Any], label: NDArray[Any]) -> NDArray[np.int64]:
    """In how many slices objects lie; 0 where the table does not say."""
    found = np.zeros(len(of), np.int64)
    if "z" in table:
        known = table["object"] > 0
        (keys, _), _ = merged([_keys(table, known), table["z"][known]], {})
        keys, n = np.unique(keys, return_counts=True)
        at, there = rows_of(keys, of << WIDE | label)
        found[there] = n[at[there]]
    return found


def _keys(table: Table, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Class and object of rows as one number."""
    return np.asarray(table["class"][known] << WIDE | table["object"][known], np.int64)


def _short(unit: str) -> str:
    return {"nanometer": "nm", "micrometer": "um", "millimeter": "mm", "angstrom": "A"}.get(unit, unit)
