"""OME-Zarr 0.4 on zarr v2, as copick's programs read it; made as a whole, so that nobody finds half of one.

URL/.zgroup, .zattrs     written last: before them it is no group
URL/0, 1, ...            [Z, Y, X] or [C, Z, Y, X], chunks of 256^3, Blosc lz4, "/" between the numbers of a chunk
"""

from __future__ import annotations

import itertools
import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import WriteError, first_line, write_error
from voxweft.geometry.box import Box, Zyx
from voxweft.ops.halve import halve
from voxweft.remote import is_remote, remote_errors
from voxweft.stores.durable import sync
from voxweft.stores.url import local_path, records_at, remove, zarr_store

CHUNK = 256
Read = Callable[[Box], NDArray[Any]]
"""The voxels [C, Z, Y, X] of a box."""


def write_group(
    url: str,
    read: Read,
    *,
    shape_zyx: Zyx,
    dtype: str,
    voxel_size: float,
    n_channels: int = 1,
    n_levels: int = 1,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a group as a whole, in place of what may lie there.

    Parameters
    ----------
    url
        A path or an s3:// URL. On a file system the group is made beside it and renamed.
    read
        Where voxels come from; asked for one chunk after the other.
    shape_zyx, dtype, n_channels
        Of the first level; several channels make it [C, Z, Y, X].
    voxel_size
        Angstrom.
    n_levels
        Resolution levels, each half of the one before by means.
    attributes
        More than the metadata of OME.

    Raises
    ------
    WriteError
        If it cannot be written; what lay there is still there, on a file system.
    """
    here = not is_remote(url)
    target = str(local_path(url)) if here else url
    place = str(Path(target).with_name(f".{uuid.uuid4().hex}.tmp")) if here else target
    shapes = [tuple(-(-n // 2**level) for n in shape_zyx) for level in range(n_levels)]
    try:
        if not here:
            remove(url)
        arrays: list[Any] = []
        for level, shape in enumerate(shapes):
            arrays.append(_array(place, str(level), (n_channels, *shape) if n_channels > 1 else shape, dtype))
            _fill(arrays[level], read if not level else _halved(arrays[level - 1]), shape, n_channels)
        about = {**_metadata(url, voxel_size, n_levels, n_channels), **(attributes or {})}
        records = records_at(place)
        records.put(".zattrs", json.dumps(about, indent=4).encode())
        records.put(".zgroup", json.dumps({"zarr_format": 2}, indent=4).encode())
        if here:
            _into_place(Path(place), Path(target))
    except OSError as error:
        raise write_error(url, error) from error
    except remote_errors() as error:
        raise WriteError(f"{url} cannot be written: {first_line(error)}") from error
    finally:
        if here:
            shutil.rmtree(place, ignore_errors=True)


def _into_place(made: Path, target: Path) -> None:
    """Rename a folder over another one, if there is one."""
    old = made.with_name(f".{uuid.uuid4().hex}.tmp")
    if target.exists():
        target.rename(old)
    made.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _array(url: str, name: str, shape: Sequence[int], dtype: str) -> Any:
    import numcodecs
    import zarr

    channels = (1,) * (len(shape) - 3)
    return zarr.create_array(
        zarr_store(f"{url}/{name}", read_only=False),
        shape=tuple(shape),
        chunks=(*channels, CHUNK, CHUNK, CHUNK),
        dtype=dtype,
        compressors=numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE),
        fill_value=0,
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
        config={"write_empty_chunks": False},
    )


def _fill(array: Any, read: Read, shape: Sequence[int], n_channels: int) -> None:
    whole = Box.of((shape[0], shape[1], shape[2]))
    for cell in whole.cells((CHUNK, CHUNK, CHUNK)):
        box = cell & whole
        values = read(box)
        if n_channels == 1:
            array[box.slices] = values[0]
            continue
        for channel, one in enumerate(values):
            array[(channel, *box.slices)] = one


def _halved(finer: Any) -> Read:
    """A level that is half of another one."""

    def read(box: Box) -> NDArray[Any]:
        ends = zip(box.start, box.stop, finer.shape[-3:], strict=True)
        place = tuple(slice(2 * a, min(2 * b, n)) for a, b, n in ends)
        values = np.asarray(finer[(..., *place)])
        return halve(values if values.ndim == 4 else values[None], "mean")

    return read


def _metadata(url: str, voxel_size: float, n_levels: int, n_channels: int) -> dict[str, Any]:
    many = n_channels > 1
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if many else []
    axes += [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    levels = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*([1.0] * many), *itertools.repeat(voxel_size * 2**level, 3)]}
            ],
        }
        for level in range(n_levels)
    ]
    name = url.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    return {"multiscales": [{"version": "0.4", "name": name, "axes": axes, "datasets": levels}]}
