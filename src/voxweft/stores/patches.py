"""Per-patch logits on disk in the layout of the scroll pipeline: zarr v2, float16, one chunk a patch.

logits_part_3.zarr       [N, C, Z, Y, X] float16, chunks [1, C, Z, Y, X]; a skipped patch has no chunk
coordinates_part_3.zarr  [N, 3] int32: where each patch begins, z y x
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, RequestError, VolumeError, WriteError, first_line, write_error
from voxweft.geometry.box import Zyx
from voxweft.remote import remote_errors
from voxweft.stores.chunks import ChunkFiles
from voxweft.stores.url import children, unreadable, zarr_store

PART = re.compile(r"(logits|coordinates)_part_(\d+)\.zarr/?$")
COMPRESSORS = ("zstd", "lz4", "zlib", "none")


class ZarrPatches:
    """The patches of one part.

    Attributes
    ----------
    number
        Of the part.
    starts
        int32 [N, 3], z y x.
    attributes
        What the store says of itself: patch_size, overlap, part_id, num_parts, original_volume_shape, ...
    """

    def __init__(self, url: str, logits: Any, starts: NDArray[np.int32], files: ChunkFiles | None = None) -> None:
        self._url, self._logits, self.starts, self._files = url, logits, starts, files
        self.number = int(re.findall(r"_part_(\d+)", url)[-1])
        self.attributes: dict[str, Any] = dict(logits.attrs)
        self.n_classes: int = logits.shape[1]
        self.patch_zyx: Zyx = tuple(logits.shape[2:])

    @classmethod
    def create(
        cls,
        folder: str,
        part: int,
        starts: NDArray[np.int32],
        size: tuple[int, Zyx],
        attributes: Mapping[str, Any],
        compressor: tuple[str, int] = ("zstd", 3),
    ) -> ZarrPatches:
        """Make the two arrays of a part, or open those that an equal call made before; nothing is deleted.

        Parameters
        ----------
        folder
            Path or s3:// URL.
        part
            Its number.
        starts
            int32 [N, 3], z y x.
        size
            Classes and patch z y x.
        attributes
            Of both arrays.
        compressor
            Name (zstd, lz4, zlib, none) and level.
        """
        n_classes, patch = size
        url = f"{folder.rstrip('/')}/logits_part_{part}.zarr"
        common: dict[str, Any] = {"zarr_format": 2, "fill_value": 0}
        low = starts.min(axis=0) if len(starts) else np.zeros(3, int)
        high = (starts.max(axis=0) if len(starts) else np.zeros(3, int)) + patch
        bbox = {f"{a}_{end}": int(v[i]) for i, a in enumerate("zyx") for end, v in (("min", low), ("max", high))}
        try:
            places = _made(
                zarr_store(f"{folder.rstrip('/')}/coordinates_part_{part}.zarr", read_only=False),
                shape=starts.shape,
                chunks=(max(1, min(len(starts), 4096)), 3),
                dtype="int32",
                attributes={**attributes, "bbox": bbox},
                **common,
            )
            places[:] = starts
            logits = _made(
                zarr_store(url, read_only=False),
                shape=(len(starts), n_classes, *patch),
                chunks=(1, n_classes, *patch),
                dtype="float16",
                compressors=_codec(*compressor),
                attributes=dict(attributes),
                config={"write_empty_chunks": False},
                **common,
            )
        except OSError as error:
            raise write_error(url, error) from error
        except remote_errors() as error:
            raise WriteError(f"{url} cannot be written: {first_line(error)}") from error
        return cls(url, logits, starts)

    @staticmethod
    def numbers(folder: str) -> list[int]:
        """The parts that a folder holds, sorted."""
        found = {(m[1], int(m[2])) for name in children(folder) if (m := PART.match(name))}
        logits, places = ({n for kind, n in found if kind == k} for k in ("logits", "coordinates"))
        if lonely := sorted(logits ^ places):
            raise VolumeError(f"{folder}: part {lonely[0]} has only one of logits and coordinates; predict it again")
        return sorted(logits)

    @classmethod
    def open(cls, folder: str, part: int) -> ZarrPatches:
        """Open a part that voxweft or the reference wrote, to read it.

        Raises
        ------
        VolumeError
            If it is not there or not of this layout.
        """
        import zarr

        url = f"{folder.rstrip('/')}/logits_part_{part}.zarr"
        try:
            logits = zarr.open_array(zarr_store(url, read_only=True), mode="r")
            places = f"{folder.rstrip('/')}/coordinates_part_{part}.zarr"
            starts = np.asarray(zarr.open_array(zarr_store(places, read_only=True), mode="r")[:], np.int32)
        except unreadable() as error:
            raise VolumeError(f"{folder}: part {part} cannot be opened: {first_line(error)}") from error
        if logits.ndim != 5 or starts.shape != (logits.shape[0], 3):
            raise RequestError(f"{url} has the shape {logits.shape} and {len(starts)} coordinates; they do not fit")
        return cls(url, logits, starts, ChunkFiles(url))

    def check(self) -> None:
        """Look for chunks that were cut short; their sizes and headers tell.

        Raises
        ------
        VolumeError
            Naming the first.
        """
        codec = next(iter(self._logits.compressors), None)
        if self._files is None or (codec is not None and "blosc" not in str(codec).lower()):
            return
        broken = self._files.truncated(None if codec else 2 * math.prod(self._logits.shape[1:]))
        if broken:
            raise VolumeError(f"{broken} is cut short")

    def stored(self) -> set[int]:
        """Numbers of the patches whose logits are there."""
        return {index[0] for index in self._files.keys} if self._files else set()

    def stamps(self) -> bytes:
        """What changes when any chunk changes: sizes and times, or versions."""
        return self._files.stamps() if self._files else b""

    def write(self, index: int, logits: NDArray[np.float16]) -> None:
        """Write the logits [C, Z, Y, X] of a patch."""
        try:
            self._logits[index] = logits
        except OSError as error:
            raise write_error(f"{self._url} (patch {index})", error) from error
        except remote_errors() as error:
            raise WriteError(f"{self._url}: patch {index} cannot be written: {first_line(error)}") from error

    def read(self, index: int) -> NDArray[np.float16] | None:
        """The logits [C, Z, Y, X] of a patch, None where it was skipped."""
        if self._files and (index, 0, 0, 0, 0) not in self._files.keys:
            return None
        try:
            values = np.asarray(self._logits[index])
        except unreadable() as error:
            raise ReadError(f"{self._url}: patch {index} cannot be read ({first_line(error)}).") from error
        return values if values.any() else None


def _made(store: Any, **settings: Any) -> Any:
    import zarr
    from zarr.errors import ContainsArrayError

    try:
        return zarr.create_array(store, **settings)
    except ContainsArrayError:
        return zarr.open_array(store, mode="r+")


def _codec(name: str, level: int) -> Any:
    import numcodecs

    if name not in COMPRESSORS:
        raise RequestError(f"compressor {name!r} is unknown; use one of {', '.join(COMPRESSORS)}")
    return None if name == "none" else [numcodecs.Blosc(cname=name, clevel=level, shuffle=numcodecs.Blosc.SHUFFLE)]
