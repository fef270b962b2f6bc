"""The arrays of the scroll pipeline: one plain zarr v2 array [C, Z, Y, X], a chunk a class, no resolution levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import ReadError, RequestError, VolumeError, WriteError, first_line, write_error
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.remote import remote_errors
from voxweft.stores.chunks import ChunkFiles
from voxweft.stores.url import records_at, remove, unreadable, zarr_store


class Zarr2Sink:
    """``merged.zarr``, or ``final.zarr`` as vesuvius 0.2.4 writes it; its records lie in ``<url>.voxweft/``.

    Chunks of nothing but 0 are not written.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.records = records_at(f"{self.url}.voxweft")
        self._array: Any = None
        self.guard: Callable[[], None] = lambda: None  # raises where this output is another run's by now

    def exists(self) -> bool:
        """Whether an array lies there."""
        return self._find("r") is not None

    def create(self, spec: OutputSpec) -> None:
        """Make the array, or open the one of an equal spec."""
        import numcodecs
        import zarr
        from zarr.errors import ContainsArrayError

        codec = numcodecs.Blosc(cname="zstd", clevel=spec.compression_level, shuffle=numcodecs.Blosc.SHUFFLE)
        try:
            zarr.create_array(
                zarr_store(self.url, read_only=False),
                shape=(spec.n_channels, *spec.shape_zyx),
                chunks=(1, *spec.chunk_zyx),
                dtype=spec.dtype,
                compressors=[codec] if spec.compression_level else None,
                fill_value=0,
                zarr_format=2,
            )
        except ContainsArrayError:
            pass
        except OSError as error:
            raise write_error(self.url, error) from error
        except remote_errors() as error:
            raise WriteError(f"{self.url} cannot be written: {first_line(error)}") from error
        self.open()

    def open(self) -> OutputSpec:
        """Open what is there."""
        self._array = self._find("r+")
        if self._array is None or self._array.ndim != 4:
            raise VolumeError(f"{self.url}: no zarr array [C, Z, Y, X] lies there")
        shape, chunks = self._array.shape, self._array.chunks
        return OutputSpec(
            shape_zyx=shape[1:],
            n_channels=shape[0],
            dtype=self._array.dtype.name,
            chunk_zyx=chunks[1:],
            shard_zyx=chunks[1:],
            pyramid="none",
            layout="vesuvius",
        )

    def write(self, box: Box, array: NDArray[Any], level: int = 0) -> int:
        """Write [C, Z, Y, X] at a box that begins and ends with chunks, or with the array; there is only level 0."""
        if level:
            raise RequestError(f"{self.url} has one resolution; level {level} cannot be written")
        try:
            for channel, values in enumerate(array):
                self.guard()
                self._array[(channel, *box.slices)] = values
            cells = [(cell & box).shift(box.start, -1).slices for cell in box.cells(self._array.chunks[1:])]
            return sum(bool(values[cell].any()) for values in array for cell in cells)
        except OSError as error:
            raise write_error(self.url, error) from error
        except remote_errors() as error:
            raise WriteError(f"{self.url} cannot be written: {first_line(error)}") from error

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """A box [C, Z, Y, X]; there is only level 0."""
        try:
            return np.asarray(self._array[(slice(None), *box.slices)])
        except unreadable() as error:
            raise ReadError(f"{self.url}: box {box} cannot be read ({first_line(error)})") from error

    def shape(self, level: int = 0) -> Zyx:
        """Extent z y x."""
        z, y, x = self._array.shape[1:]
        return z, y, x

    def n_levels(self) -> int:
        """One."""
        return 1

    def n_files(self, _level: int = 0) -> int:
        """How many chunks are stored."""
        return len(ChunkFiles(self.url).keys)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge attributes of the array."""
        import zarr

        zarr.open_array(zarr_store(self.url, read_only=False), mode="r+").attrs.update(dict(attributes))

    def remove(self) -> None:
        """Delete what voxweft wrote, and the records; anything else is refused."""
        if self.exists():
            if self.records.get("plan.json") is None:
                raise RequestError(f"{self.url} was not written by voxweft and is not deleted; remove it yourself")
            self.records.remove("plan.json")  # from here on those who still write are refused
            remove(self.url)
        self.records.clear()

    def _find(self, mode: Literal["r", "r+"]) -> Any:
        import zarr

        try:  # a store that may be written to makes its folder as soon as it is opened
            return zarr.open_array(zarr_store(self.url, read_only=mode == "r"), mode=mode)
        except (FileNotFoundError, ValueError, OSError):
            return None
