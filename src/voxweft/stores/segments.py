"""What a surface makes of a volume: the chunks that it touches, and the volume flattened along it."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.protocols import Volume
from voxweft.image.ref import VolumeRef, volume_ref
from voxweft.ops.surface import between, corner_cells, values_at, with_halo
from voxweft.stores.mesh import Mesh
from voxweft.stores.pixel_map import PixelMap
from voxweft.stores.surface import Surface, Survey, survey
from voxweft.stores.tifxyz import Tifxyz
from voxweft.stores.url import children

INTERPOLATIONS = ("linear", "nearest")
CACHE_BYTES, LOCAL_BYTES = 1 << 27, 1 << 27  # of chunks that are kept; of those that are put side by side
FETCHED_AT_ONCE = 8
TILE = 128  # pixels a side that are sampled at once
Arguments = dict[str, str | int | float | bool]


def open_segment(url: str) -> Surface:
    """Open a segment: a tifxyz folder, an obj, a ppm, or a folder with one of the last two.

    Raises
    ------
    VolumeError
        If there is none.
    """
    url = url.rstrip("/")
    kind = {".obj": Mesh, ".ppm": PixelMap}.get(url[-4:].lower())
    if kind:
        return kind(url)
    if url.startswith("http"):  # which has no listing
        return Tifxyz(url)
    names = children(url)
    if {"x.tif", "y.tif", "z.tif"} & set(names):
        return Tifxyz(url)
    for suffix, opener in ((".ppm", PixelMap), (".obj", Mesh)):
        found = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
        if len(found) == 1:
            return opener(f"{url}/{found[0]}")
    raise VolumeError(
        f"{url} is no segment: give a tifxyz folder (x.tif, y.tif, z.tif), an .obj with texture coordinates or a .ppm"
    )


class SurfaceMask:
    """Where patches are to be computed: 1 in chunks that a surface touches and in those near to them, uint8.

    A voxel of the mask is a chunk.

    Parameters
    ----------
    url
        Of the segment.
    level, chunk, shape
        Of the volume: resolution level, its chunk "z,y,x" and extent "z,y,x" in voxels.
    halo
        Chunks around those that are touched.
    """

    def __init__(self, url: str, level: int, chunk: str, shape: str, halo: int = 1) -> None:
        self.surface, self._level, self._halo = open_segment(url), level, halo
        self._shape, asked = _three(shape), _three(chunk)
        self._chunk: Zyx = tuple(map(min, asked, self._shape))  # type: ignore[assignment]
        z, y, x = (math.ceil(n / c) for n, c in zip(self._shape, self._chunk, strict=True))
        arguments: Arguments = {"level": level, "chunk": chunk, "shape": shape, "halo": halo}
        self.ref = VolumeRef(url, opener="surface-mask", arguments=arguments)
        self._lock = threading.Lock()
        self._survey: Survey | None = None
        self._cells = np.zeros(0, np.bool_)
        self.info = VolumeInfo(
            url=url,
            format="surface mask",
            shape_zyx=(z, y, x),
            dtype="uint8",
            chunk_zyx=(min(64, z), min(256, y), min(256, x)),
            levels=((z, y, x),),
            details={"scale_zyx": self._chunk},
        )

    @property
    def survey(self) -> Survey:
        """The chunks that the surface meets; it is read when they are first asked for."""
        with self._lock:
            if self._survey is None:
                self._survey = survey(self.surface, self._level, self._chunk, self._shape)
            return self._survey

    @property
    def cells(self) -> NDArray[np.bool_]:
        """Those and the ones around them, bool [Z, Y, X]."""
        if not self._cells.size:
            self._cells = with_halo(self.survey.cells, self._halo)
        return self._cells

    def read(self, box: Box) -> NDArray[np.uint8]:
        """A box [1, Z, Y, X] of it."""
        return self.cells[box.slices].astype(np.uint8)[np.newaxis]


class Flattened:
    """A volume seen along a surface: [layer, row, column].

        layer d    at  point + (d - (depth - 1) / 2) * step * normal,   in voxels of the level that is read

    Layers are numbered in the direction of :func:`~voxweft.ops.surface.grid_normals`, or of the normals of a ppm. 0
    where the surface has no point, and outside the volume. Points and normals of a coarse grid are interpolated
    between its points, from the first one on. Only chunks that are touched are read, and a few are kept.

    Parameters
    ----------
    url
        Of the segment.
    volume
        What is sampled.
    level
        Resolution level of the volume.
    depth, step
        Layers, and their distance in voxels.
    spacing
        Distance of rows and of columns, in voxels.
    interpolation
        "linear" (of the eight nearest voxels) or "nearest".
    exact
        Whether values between voxels are float32, and not rounded to what the volume holds.

    Raises
    ------
    RequestError
        If depth, step or spacing is not positive, or the interpolation is unknown.
    """

    def __init__(
        self,
        url: str,
        volume: Volume,
        *,
        level: int = 0,
        depth: int = 16,
        step: float = 1.0,
        spacing: float = 1.0,
        interpolation: str = "linear",
        exact: bool = False,
    ) -> None:
        if depth < 1 or not 0 < step < math.inf or not 0 < spacing < math.inf or interpolation not in INTERPOLATIONS:
            raise RequestError(
                f"{depth} layers, {step} apart, of pixels of {spacing} voxels, {interpolation}: cannot be"
            )
        self.surface, self._chunks = open_segment(url), _Chunks(volume)
        self._level, self._depth, self._step, self._nearest = level, depth, step, interpolation == "nearest"
        info, seen = self.surface.info, volume.info
        self._per_pixel = [s * spacing * 2**level for s in info.scale]  # points of the grid
        rows, columns = (max(1, round(n / p)) for n, p in zip(info.shape, self._per_pixel, strict=True))
        asked: Arguments = {
            "level": level,
            "depth": depth,
            "step": step,
            "spacing": spacing,
            "interpolation": interpolation,
            "exact": exact,
        }
        self.ref = VolumeRef(url, opener="flattened", arguments=asked, volumes=(volume_ref(volume),))
        size = math.prod(seen.geometry.voxel_size_zyx) ** (1 / 3)
        self.info = VolumeInfo(
            url=seen.url,
            format=f"flattened {seen.format}",
            shape_zyx=(depth, rows, columns),
            dtype="float32" if exact else seen.dtype,
            n_channels=seen.n_channels,
            chunk_zyx=(depth, min(TILE, rows), min(TILE, columns)),
            geometry=Geometry((size * step, size * spacing, size * spacing), seen.geometry.unit),
            levels=((depth, rows, columns),),
            stamp=f"{info.stamp} {seen.stamp}".strip(),
        )

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]; tile by tile, so that no more is held than a tile needs."""
        out = np.zeros((self.info.n_channels, *box.shape), self.info.dtype)
        for cell in box.cells((self._depth, TILE, TILE)):
            part = cell & box
            out[(slice(None), *part.shift(box.start, -1).slices)] = self._tile(part)
        return out

    def _tile(self, box: Box) -> NDArray[Any]:
        (z, y, x), (z1, y1, x1) = box.start, box.stop
        points, normals = self._grid((y, y1), (x, x1))
        away = (np.arange(z, z1) - (self._depth - 1) / 2) * self._step
        centre = (points.astype(np.float64) + 0.5) / 2**self._level - 0.5  # of a voxel, not its corner
        places = centre[:, np.newaxis] + away[:, np.newaxis, np.newaxis] * normals[:, np.newaxis].astype(np.float64)
        values = np.zeros((self.info.n_channels, *box.shape), np.float32)
        self._sample(places, values)
        return values.astype(self.info.dtype) if self._is_float else np.rint(values).astype(self.info.dtype)

    @property
    def _is_float(self) -> bool:
        return np.dtype(self.info.dtype).kind == "f"

    def _grid(self, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Points and unit normals of pixels [3, Y, X]."""
        at, window = [], list[int]()
        for (a, b), per, n in zip((rows, columns), self._per_pixel, self.surface.info.shape, strict=True):
            where = np.arange(a, b) * per
            first, last = (min(n - 1, int(k)) for k in (where[0], math.ceil(where[-1])))
            at.append(where - first)
            window += [first, last + 1]
        points, normals = (between(read(*window), *at) for read in (self.surface.points, self.surface.normals))
        length = np.sqrt((normals * normals).sum(axis=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            return points, normals / length

    def _sample(self, places: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Values [C, Z, Y, X] at places [3, Z, Y, X]; halves of them where they touch too much at once."""
        shape = self._chunks.volume.info.shape_zyx
        with np.errstate(invalid="ignore"):
            good = ((places >= -0.5) & (places < np.array(shape).reshape(3, 1, 1, 1) - 0.5)).all(axis=0)
        if not good.any():
            return
        inside = places[:, good]
        first, needed = corner_cells(inside, shape, self._chunks.size)
        if needed.size * self._chunks.n_bytes > LOCAL_BYTES and good.size > 1:
            axis = int(np.argmax(good.shape))
            for part in np.array_split(np.arange(good.shape[axis]), 2):
                index = (slice(None), *(slice(part[0], part[-1] + 1) if a == axis else slice(None) for a in range(3)))
                self._sample(places[index], out[index])
            return
        local, start = self._chunks.side_by_side(first, needed)
        out[:, good] = values_at(local, inside - np.array(start)[:, np.newaxis], nearest=self._nearest)


class _Chunks:
    """The chunks of a volume, several fetched at once, the last ones kept."""

    def __init__(self, volume: Volume) -> None:
        self.volume, info = volume, volume.info
        z, y, x = (min(max(1, c), n) for c, n in zip(info.chunk_zyx, info.shape_zyx, strict=True))
        self.size: Zyx = (z, y, x)
        self.n_bytes = 4 * info.n_channels * math.prod(self.size)  # of float32, as they are put side by side
        self._lock, self._kept = threading.Lock(), OrderedDict[Zyx, NDArray[Any]]()

    def side_by_side(self, first: Zyx, needed: NDArray[np.bool_]) -> tuple[NDArray[np.float32], Zyx]:
        """Those that are needed as one array [C, Z, Y, X] of the volume, and where it begins; 0 where none is."""
        whole, size = Box.of(self.volume.info.shape_zyx), self.size
        z, y, x = (a * s for a, s in zip(first, size, strict=True))
        stop = tuple((a + n) * s for a, n, s in zip(first, needed.shape, size, strict=True))
        box = Box((z, y, x), stop) & whole
        local = np.zeros((self.volume.info.n_channels, *box.shape), np.float32)
        indices = [tuple(a + int(n) for a, n in zip(first, at, strict=True)) for at in np.argwhere(needed)]
        for index, values in zip(indices, self._read(indices), strict=True):
            place = self._box(index).shift(box.start, -1)
            local[(slice(None), *place.slices)] = values
        return local, box.start

    def _box(self, index: Sequence[int]) -> Box:
        z, y, x = (i * s for i, s in zip(index, self.size, strict=True))
        return Box((z, y, x), (z + self.size[0], y + self.size[1], x + self.size[2])) & Box.of(
            self.volume.info.shape_zyx
        )

    def _read(self, indices: Sequence[Any]) -> list[NDArray[Any]]:
        with self._lock:
            known = {index: self._kept[index] for index in indices if index in self._kept}
        absent = [index for index in indices if index not in known]
        with ThreadPoolExecutor(FETCHED_AT_ONCE, thread_name_prefix="voxweft-chunk") as pool:
            known |= dict(zip(absent, pool.map(lambda i: self.volume.read(self._box(i)), absent), strict=True))
        with self._lock:
            for index in indices:
                self._kept[index] = known[index]
                self._kept.move_to_end(index)
            while len(self._kept) > 1 and sum(v.nbytes for v in self._kept.values()) > CACHE_BYTES:
                self._kept.popitem(last=False)
        return [known[index] for index in indices]


def _three(text: str) -> Zyx:
    z, y, x = (int(n) for n in text.split(","))
    return z, y, x
