"""What a slab has so far, kept now and then, so that a stop loses minutes and not the slab.

    kept    sums of the weaver | which patches were skipped | planes of the slab that are final
    head    the layer, and how many of its patches are in the sums; written last: what it does not name does not count

Whoever begins with this slab goes on from there: the same additions in the same order, so the bits are the same.
"""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.commit import Commit
from voxweft.engine.finishing import SameGrid
from voxweft.engine.layers import PatchLayer
from voxweft.engine.slabs import SlabWriter
from voxweft.engine.stage import Sweep
from voxweft.engine.weave import Weaver
from voxweft.errors import VoxweftError

PIECE_BYTES = 1 << 26  # of a record
SHARE = 30  # times as long as keeping takes nothing is kept again
Array = NDArray[Any]


class Checkpoints:
    """Keeps the state of a sweep between two patches, and brings it back.

    Parameters
    ----------
    stage, commit
        What is swept; ``commit.checkpoint_s`` says how often its state is kept, 0: never.
    weaver, finish, writer
        Whose state it is.
    """

    def __init__(self, stage: Sweep, commit: Commit, weaver: Weaver, finish: SameGrid, writer: SlabWriter) -> None:
        self._stage, self._commit, self._ledger = stage, commit, commit.ledger
        self._weaver, self._finish, self._writer = weaver, finish, writer
        self._last, self._took_s = time.monotonic(), 0.0
        self._kept: dict[int, tuple[str, int]] = {}  # of a unit: name and number of pieces of what is kept
        self._has_warned = False

    @property
    def cursor(self) -> int:
        """The first plane that is not final."""
        return self._finish.cursor

    def look(self, layer: PatchLayer, n_tiles: int) -> None:
        """So many patches of a layer are in the sums; keep that if it is time."""
        waited = time.monotonic() - self._last
        if not 0 < self._commit.checkpoint_s <= waited or waited < SHARE * self._took_s or self._writer.unit is None:
            return
        begun = time.monotonic()
        try:
            self._keep(self._writer.unit, layer, n_tiles)
        except VoxweftError as error:  # the next one, or the slab itself, may still come through
            if not self._has_warned:
                self._commit.warn(f"what a slab has so far could not be kept, a stop now loses it: {error}")
            self._has_warned = True
        self._last = time.monotonic()
        self._took_s = self._last - begun

    def find(self, layers: Sequence[PatchLayer]) -> tuple[Sequence[PatchLayer], int]:
        """The layers that are left, and how many patches of the first are in the sums; state is brought back."""
        unit = self._writer.unit
        head = self._ledger.checkpoint(self._key(unit)) if unit is not None else None
        if unit is None or head is None:
            return layers, 0
        with suppress(VoxweftError, ValueError, KeyError, TypeError, IndexError):  # damaged: the slab begins anew
            told = json.loads(head)
            places = [n for n, layer in enumerate(layers) if [layer.one, layer.z_index] == told["layer"]]
            sums, slabs = self._weaver.sums(), self._writer.final(told["cursor"])
            if (
                told["generation"] == self._ledger.generation
                and places
                and told["shapes"] == [list(a.shape) for a in (sums, *slabs)]
            ):
                pieces = [self._ledger.checkpoint(f"{told['name']}/{n}") for n in range(len(told["crc"]))]
                if [zlib.crc32(piece or b"") for piece in pieces] == told["crc"]:
                    for part, piece in zip(_pieces((sums, *slabs)), pieces, strict=True):
                        part[...] = np.frombuffer(piece or b"", part.dtype).reshape(part.shape)
                    self._weaver.restore(told["base"], told["skips"])
                    self._finish.cursor = told["cursor"]
                    self._kept[unit] = (told["name"], len(pieces))
                    return layers[places[0] :], told["n_tiles"]
        return layers, 0

    def forget(self) -> None:
        """What is kept of slabs that are written is needed no more."""
        for unit in self._commit.written & self._kept.keys():
            name, n = self._kept.pop(unit)
            self._ledger.forget_checkpoint(self._key(unit), *(f"{name}/{k}" for k in range(n)))

    def _keep(self, unit: int, layer: PatchLayer, n_tiles: int) -> None:
        self._ledger.require_mine()
        cursor, name = self._finish.cursor, f"{self._key(unit)}-{uuid.uuid4().hex[:12]}"
        arrays = (self._weaver.sums(), *self._writer.final(cursor))
        crc = list[int]()
        for n, part in enumerate(_pieces(arrays)):
            data = part.tobytes()
            crc.append(zlib.crc32(data))
            self._ledger.put_checkpoint(f"{name}/{n}", data)
        base, skips = self._weaver.state()
        told = {"layer": [layer.one, layer.z_index], "n_tiles": n_tiles, "cursor": cursor, "base": base}
        told |= {"skips": skips, "shapes": [list(a.shape) for a in arrays], "name": name, "crc": crc}
        told["generation"] = self._ledger.generation
        self._ledger.put_checkpoint(self._key(unit), json.dumps(told).encode())
        before, n = self._kept.get(unit, ("", 0))
        self._kept[unit] = (name, len(crc))
        self._ledger.forget_checkpoint(*(f"{before}/{k}" for k in range(n)))

    def _key(self, unit: int | None) -> str:
        return f"{self._stage.name}/{unit:06d}"


def _pieces(arrays: Sequence[Array]) -> Iterator[Array]:
    """Arrays [C, Z, Y, X] in some planes at once, of one channel each."""
    for array in arrays:
        for channel in array:
            n = max(1, PIECE_BYTES // max(1, channel[:1].nbytes))
            for lo in range(0, len(channel), n):
                yield channel[lo : lo + n]
