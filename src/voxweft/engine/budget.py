"""How much memory a sweep needs, and the widest column that fits."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from voxweft.engine.stage import Pass
from voxweft.errors import RequestError
from voxweft.geometry.box import Zyx
from voxweft.geometry.regrid import Regrid
from voxweft.image.info import VolumeInfo
from voxweft.ops.activate import Finish

SHARD_CHUNKS = 4
PLANES = 32  # that are read at once
MANY = 32  # channels; of volumes with so many fewer planes are read at once
VIEWS_BYTES = 1 << 28  # logits that may wait for their sum; above, a lane does all views of a patch


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that the buffers of a sweep may take on the host and on the device (equal where they are one)."""

    host_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of a sweep's buffers. All depend on the column's cross-section, none on the depth of the volume."""

    accumulator_bytes: int
    input_bytes: int
    output_bytes: int
    batch_bytes: int

    @property
    def total_bytes(self) -> int:
        """Their sum."""
        return self.accumulator_bytes + self.input_bytes + self.output_bytes + self.batch_bytes


@dataclass(frozen=True, slots=True)
class Survey:
    """What the mask of a sparse sweep touches.

    Attributes
    ----------
    n_patches, n_chunks, n_cells
        Patches that run, chunks of the input that they read, chunks of the output that are written.
    live
        Of each layer of patches the cells (y, x) that are woven at the same time.
    """

    n_patches: int = 0
    n_chunks: int = 0
    n_cells: int = 0
    live: tuple[frozenset[tuple[int, int]], ...] = ()

    def n_live(self, rows: int, columns: int) -> int:
        """The most cells that are woven at the same time in a column of so many rows and columns of cells."""
        counts = (Counter((y // rows, x // columns) for y, x in layer) for layer in self.live)
        return max((max(count.values()) for count in counts if count), default=0)


@dataclass(frozen=True, slots=True)
class Division:
    """How the output is divided: column and shard in voxels, planes read at once, bytes, notes."""

    column_yx: tuple[int, int]
    shard_zyx: Zyx
    plane_block: int
    buffers: Buffers
    notes: tuple[str, ...] = ()


def buffers_for(
    source: VolumeInfo,
    passes: Sequence[Pass],
    finishes: Sequence[Finish],
    division: tuple[tuple[int, int], Zyx, int],
    n_lanes: int = 1,
    regrid: Regrid | None = None,
) -> Buffers:
    """Bytes of the buffers of a column.

        accumulator  4 B  x n_accumulated x patch_z                       x column
        input   itemsize  x n_inputs x (patch_z + 2 plane blocks)         x (column + halo)
        output  itemsize  x n_channels x 2 slabs (one being written)      x column, of all outputs
                itemsize  x 4 shards (the one being compressed, and its pieces)
        batch        4 B  x (inputs + 2 outputs) x patch x batch size x slots, of all passes

    ``division`` is (column_yx, shard_zyx, plane_block), of the outputs; ``regrid`` says how these lie over the source,
    and needs two planes of logits more. ``n_lanes`` forward passes run at once, with two slots each.
    """
    column_yx, shard, plane_block = division
    pz, py, px = (max(one.grid.patch[a] for one in passes) for a in range(3))
    _, ny, nx = source.shape_zyx
    _, ny_out, nx_out = regrid.shape_out if regrid else source.shape_zyx
    area_out = min(column_yx[0], ny_out) * min(column_yx[1], nx_out)
    cy, cx = (
        min(-(-column_yx[0] * ny // ny_out) + bool(regrid), ny),
        min(-(-column_yx[1] * nx // nx_out) + bool(regrid), nx),
    )
    area, area_in = cy * cx, min(cy + 2 * py, ny) * min(cx + 2 * px, nx)
    finish, depth = finishes[0], pz + 2 * bool(regrid)
    voxels = min(1 << 18, (1 << 22) // max(1, finish.n_accumulated))
    strip = 4 * (3 * finish.n_accumulated + sum(f.n_channels for f in finishes)) * voxels  # temporaries of finishing
    n_bytes = sum(np.dtype(f.dtype).itemsize * f.n_channels for f in finishes)
    views = sum(_views_bytes(one, finish.n_classes, n_lanes) for one in passes)
    slots = sum(math.prod(one.grid.patch) * one.setting.batch_size for one in passes) * 2 * n_lanes
    return Buffers(
        accumulator_bytes=4 * finish.n_accumulated * depth * area + strip,
        input_bytes=np.dtype(source.dtype).itemsize * source.n_channels * (pz + 2 * plane_block) * area_in,
        output_bytes=n_bytes * 2 * shard[0] * area_out + np.dtype(finish.dtype).itemsize * 4 * math.prod(shard),
        batch_bytes=4 * (source.n_channels + 2 * finish.n_classes) * slots + views,
    )


def _views_bytes(one: Pass, n_classes: int, n_lanes: int) -> int:
    """Bytes of the logits of the views of patches, where each is a task of its own."""
    n_bytes = 4 * n_classes * math.prod(one.grid.patch) * one.setting.batch_size * 2 * n_lanes * len(one.views)
    return n_bytes if len(one.views) > 1 and n_bytes <= VIEWS_BYTES else 0


def choose_column(
    source: VolumeInfo,
    passes: Sequence[Pass],
    finishes: Sequence[Finish],
    chunk: Zyx,
    budget: Budget | None,
    n_lanes: int = 1,
    regrid: Regrid | None = None,
) -> Division:
    """The widest column of whole chunks that the budget allows; the whole plane where it fits.

    Raises
    ------
    RequestError
        If not even a column of one chunk fits.
    """
    chunk_z = source.chunk_zyx[0]
    plane_block = chunk_z * max(1, round(PLANES / chunk_z))
    if source.n_channels >= MANY:  # of which a plane is large, and a network takes its time
        plane_block = min(plane_block, max(PLANES, max(one.grid.patch[0] for one in passes) // 4))
    allowed = min(budget.host_bytes, budget.device_bytes) if budget else math.inf
    smallest = math.inf
    shape = regrid.box_out.stop if regrid else source.shape_zyx
    for planes in sorted({plane_block, min(plane_block, PLANES)}, reverse=True):
        fitting = []
        for column_yx in _cross_sections(shape, chunk):
            division = (column_yx, shard_for(column_yx, chunk), planes)
            buffers = buffers_for(source, passes, finishes, division, n_lanes, regrid)
            smallest = min(smallest, buffers.total_bytes)
            if buffers.total_bytes <= allowed:
                fitting.append((_waste(shape, passes, column_yx), column_yx, buffers))
        if fitting:
            _, column_yx, buffers = min(fitting, key=lambda f: f[0])
            note = f"memory is short: each input chunk is decoded {math.ceil(chunk_z / planes)} times"
            notes = (note,) if planes < min(chunk_z, plane_block) else ()
            return Division(column_yx, shard_for(column_yx, chunk), planes, buffers, notes)
    raise RequestError(
        f"the smallest column needs {smallest / 1e9:.2f} GB of buffers, {max(allowed, 0) / 1e9:.2f} GB are allowed; "
        "raise --memory, or use a smaller --chunk or --patch-size"
    )


def sparse_column(
    source: VolumeInfo,
    passes: Sequence[Pass],
    finishes: Sequence[Finish],
    chunk: Zyx,
    budget: Budget | None,
    seen: Survey,
) -> Division:
    """The widest column of a sparse sweep that the budget allows, in chunks without shards.

    The buffers follow the cells that are woven at the same time, of which the survey knows.

    Raises
    ------
    RequestError
        If not even a column of one chunk fits.
    """
    allowed = min(budget.host_bytes, budget.device_bytes) if budget else math.inf
    plane_block = source.chunk_zyx[0]
    one = buffers_for(source, passes, finishes, (chunk[1:], chunk, plane_block))
    each = one.accumulator_bytes + one.input_bytes + one.output_bytes
    n_rows, n_columns = (-(-n // c) for n, c in zip(source.shape_zyx[1:], chunk[1:], strict=True))
    for rows, columns in _halved(n_rows, n_columns):
        n_live = max(1, seen.n_live(rows, columns))
        if one.batch_bytes + n_live * each <= allowed:
            buffers = Buffers(
                n_live * one.accumulator_bytes, n_live * one.input_bytes, n_live * one.output_bytes, one.batch_bytes
            )
            return Division((rows * chunk[1], columns * chunk[2]), chunk, plane_block, buffers)
    raise RequestError(
        f"the smallest column needs {(one.batch_bytes + each) / 1e9:.2f} GB of buffers, "
        f"{max(allowed, 0) / 1e9:.2f} GB are allowed; raise --memory, or use a smaller --chunk or --patch-size"
    )


def _halved(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """A cross-section, and its longer side halved again and again."""
    yield rows, columns
    while rows * columns > 1:
        rows, columns = (-(-rows // 2), columns) if rows >= columns else (rows, -(-columns // 2))
        yield rows, columns


def _cross_sections(shape: Zyx, chunk: Zyx) -> Iterator[tuple[int, int]]:
    """Columns in equal shares from the whole plane down to one chunk; whole shards where they are longer than one."""
    sides = []
    for extent, c in zip(shape[1:], chunk[1:], strict=True):
        n = math.ceil(extent / c)
        shares = {math.ceil(n / k) for k in range(1, n + 1)}
        whole = {m if m <= SHARD_CHUNKS else -(-m // SHARD_CHUNKS) * SHARD_CHUNKS for m in shares}
        sides.append([m * c for m in sorted(whole, reverse=True)])
    return itertools.product(*sides)  # type: ignore[return-value]


def _waste(shape: Zyx, passes: Sequence[Pass], column_yx: tuple[int, int]) -> float:
    """Patches computed in all columns, roughly: every border adds a patch to the extent of an axis."""
    patch = [max(one.grid.patch[a] for one in passes) for a in range(3)]
    share = [n + (math.ceil(n / c) - 1) * p for n, c, p in zip(shape[1:], column_yx, patch[1:], strict=True)]
    return share[0] * share[1]


def shard_for(column_yx: tuple[int, int], chunk: Zyx) -> Zyx:
    """One chunk deep, up to 4 x 4 chunks wide, and never across two columns."""
    y, x = (c * min(size // c, SHARD_CHUNKS) for size, c in zip(column_yx, chunk[1:], strict=True))
    return chunk[0], y, x
