"""A zarr array that knows where it holds nothing."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from voxweft.geometry.box import Box
from voxweft.image.ref import VolumeRef
from voxweft.image.stored import StoredBoxes
from voxweft.stores.chunks import ChunkFiles
from voxweft.stores.zarr import ZarrVolume

CZYX = 4  # axes of a merged array


class SparseVolume:
    """A zarr array [C, Z, Y, X], read box by box; boxes without any stored chunk need not be read."""

    def __init__(self, url: str) -> None:
        self._volume, self._files = ZarrVolume(url), ChunkFiles(url)
        self.info = self._volume.info
        plain = not self.info.details.get("shard_zyx") and all(len(index) == CZYX for index in self._files.keys)
        places = frozenset((z, y, x) for _, z, y, x in self._files.keys) if plain else frozenset()
        self._stored = StoredBoxes(self.info.chunk_zyx, places) if plain else None
        self.ref = VolumeRef(url, opener="sparse")

    def stamps(self) -> bytes:
        """What changes when any chunk changes."""
        return self._files.stamps()

    def holds(self, box: Box) -> bool:
        """Whether any chunk that meets a box is stored; True where that cannot be told."""
        return self._stored is None or self._stored.meets(box)

    def read(self, box: Box) -> NDArray[Any]:
        """The voxels of a box [C, Z, Y, X]."""
        return self._volume.read(box)
