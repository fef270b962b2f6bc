"""A sweep that visits only what its mask touches: time, bytes and memory follow the mask, not the volume.

    y,x plane            cell: a chunk of the output; # of the mask; + patches that meet it; = chunks of the input

    +----+----+----+----+
    |    |  +=+==+ |    |     a weaver for each column of cells that holds anything of the mask and that a patch meets
    |    |  |#|##| |    |
    +----+--+#+##+-+----+     chunks of the input: each read once, when the first patch needs it
    |    |  |#|  | |    |
    +----+--+=+==+-+----+     nothing is written outside active cells

The same patches run as in a sweep of the whole column under the same mask, and every voxel is made of the same products
in the same order: the bits are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.budget import Survey
from voxweft.engine.cells import Cell, CellMask
from voxweft.engine.commit import Commit
from voxweft.engine.device import Stored
from voxweft.engine.finishing import SameGrid
from voxweft.engine.finishing_device import OnDevice
from voxweft.engine.layers import PatchLayer, layer_heads
from voxweft.engine.reader import Held, finite
from voxweft.engine.slabs import SlabWriter
from voxweft.engine.stage import Sweep
from voxweft.engine.weave import Weaver, Weights
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.tiling import Tile
from voxweft.image.protocols import Volume

if TYPE_CHECKING:
    import torch

READERS = 4
SMALL = 32  # voxels an axis: smaller chunks are read several at once


def sparse_layers(stage: Sweep, box: Box, mask: CellMask, reader: ChunkReader) -> Iterator[PatchLayer]:
    """The layers of all passes that meet a box, with the patches that meet active cells.

    Chunks of the layer after the one that is given are read meanwhile.
    """
    whole = Box.of(stage.info.shape_zyx)
    before: PatchLayer | None = None
    for head in layer_heads(stage, box):
        mask.load(head.planes[1])
        layer = _filled(stage, head, box, mask)
        reader.want(tile.box & whole for tile in layer.tiles)
        if before is not None:
            yield before
        before = layer
    if before is not None:
        yield before


def survey(stage: Sweep, volume: Volume) -> Survey:
    """Look through the mask of a sparse sweep, before it is run."""
    mask = CellMask(volume, stage.info.shape_zyx, stage.spec.chunk_zyx, stage.region)
    n_patches, written, chunks, live = 0, set[tuple[int, Cell]](), set[Zyx](), list[frozenset[Cell]]()
    whole, depth = Box.of(stage.info.shape_zyx), mask.cell_zyx[0]
    for head in layer_heads(stage, stage.region):
        mask.need(*head.planes)
        layer = _filled(stage, head, stage.region, mask)
        n_patches += len(layer.tiles)
        for tile in layer.tiles:
            chunks.update((tile.box & whole).indices(stage.info.chunk_zyx))
        lo, hi = max(head.planes[0], stage.region.start[0]), min(head.planes[1], stage.region.stop[0])
        live.append(frozenset(mask.active(lo, hi)))
        for row in range(lo // depth, -(-hi // depth)):
            written.update((row, cell) for cell in mask.active(row * depth, row * depth + 1))
    return Survey(n_patches, len(chunks), len(written), tuple(live))


def _filled(stage: Sweep, head: PatchLayer, box: Box, mask: CellMask) -> PatchLayer:
    """A layer with the patches that meet the mask."""
    indices = sorted(_touching(stage, head, box, mask))
    tiles = (stage.passes[head.one].grid.tile((head.z_index, y, x)) for y, x in indices)
    return head.with_tiles(tuple(tile for tile in tiles if not mask.misses(tile.box & box)))


def _touching(stage: Sweep, head: PatchLayer, box: Box, mask: CellMask) -> set[tuple[int, int]]:
    """Indices y, x of the patches of a layer that meet active cells."""
    grid, (lo, hi) = stage.passes[head.one].grid, head.planes
    active = mask.active(max(lo, box.start[0]), min(hi, box.stop[0]))
    spans: dict[tuple[int, int], range] = {}
    for axis in (1, 2):
        size, origin = mask.cell_zyx[axis], grid.origin[axis]
        for n in {cell[axis - 1] for cell in active}:
            spans[axis, n] = grid.axes[axis].touching(n * size - origin, (n + 1) * size - origin)
    return {pair for y, x in active for pair in itertools.product(spans[1, y], spans[2, x])}


class CellWeaver:
    """A weaver for each column of cells that a patch meets and that holds anything of the mask there.

    Parameters
    ----------
    sweep
        Its passes, and what is accumulated.
    mask
        What is active.
    device
        Where the sums lie.
    """

    def __init__(self, sweep: Sweep, mask: CellMask, device: str) -> None:
        self._sweep, self._mask, self.device = sweep, mask, device
        self._weights = Weights(sweep, device)
        self._layers: dict[tuple[int, int], set[tuple[int, int]]] = {}  # pass and z index of live layers: what ran
        self._now = (0, 0)
        self._last: dict[Cell, int] = {}  # the plane after the last patch of a cell
        self.cells: dict[Cell, Weaver] = {}

    def begin_layer(self, one: int, z_index: int) -> None:
        """Make room for a patch layer of pass ``one``; cells that no patch reaches any more are left."""
        start, _ = self._planes((one, z_index))
        self._layers = {key: ran for key, ran in self._layers.items() if self._planes(key)[1] > start}
        self._now = (one, z_index)
        self._layers[self._now] = set()
        for cell in [cell for cell, last in self._last.items() if last <= start]:
            del self.cells[cell], self._last[cell]
        for weaver in self.cells.values():
            weaver.begin_layer(one, z_index)

    def add(self, one: int, tile: Tile, logits: torch.Tensor) -> None:
        """Add the weighted logits [n_classes, *patch] of a patch of the current layer."""
        weavers = [self._weaver(cell, tile) for cell in self._meeting(tile)]
        for channel, product in enumerate(self._weights.products(one, tile, logits)):
            for weaver in weavers:
                weaver.put(one, channel, tile, product)
        self._layers[self._now].add(tile.index[1:])

    def skip(self, one: int, tile: Tile) -> None:
        """A patch that did not run is known by not having been added."""

    def end_layer(self) -> None:
        """Tell the weavers which patches of the current layer did not run."""
        for cell, weaver in self.cells.items():
            self._note_skipped(cell, weaver, self._now)

    def _weaver(self, cell: Cell, tile: Tile) -> Weaver:
        self._last[cell] = max(self._last.get(cell, 0), tile.box.stop[0])
        if cell not in self.cells:
            weaver = self.cells[cell] = Weaver(self._sweep, self._mask.area(cell), self.device, self._weights)
            for key in self._layers:  # the earlier ones ran elsewhere only
                weaver.begin_layer(*key)
                if key != self._now:
                    self._note_skipped(cell, weaver, key)
        return self.cells[cell]

    def _meeting(self, tile: Tile) -> Iterator[Cell]:
        """The active cells that a patch meets, within its planes."""
        (lo, *start), (hi, *stop) = tile.box.start, tile.box.stop
        ys, xs = (range(a // n, -(-b // n)) for a, b, n in zip(start, stop, self._mask.cell_zyx[1:], strict=True))
        for cell in itertools.product(ys, xs):
            if next(self._mask.spans(cell, lo, hi), None):
                yield cell

    def _note_skipped(self, cell: Cell, weaver: Weaver, key: tuple[int, int]) -> None:
        grid, ran = self._sweep.passes[key[0]].grid, self._layers[key]
        _, ys, xs = grid.touching(self._mask.area(cell))
        for y, x in itertools.product(ys, xs):
            if (y, x) not in ran:
                weaver.skip(key[0], grid.tile((key[1], y, x)))

    def _planes(self, key: tuple[int, int]) -> tuple[int, int]:
        grid = self._sweep.passes[key[0]].grid
        start = grid.axes[0].start(key[1]) + grid.origin[0]
        return start, start + grid.patch[0]


class CellFinishing:
    """Finishes the planes of active cells as they become final."""

    def __init__(self, stage: Sweep, box: Box, weaver: CellWeaver, mask: CellMask, writer: CellWriter) -> None:
        self._stage, self._weaver, self._mask, self._writer = stage, weaver, mask, writer
        self._cursor = box.start[0]
        self._kind = SameGrid if weaver.device == "cpu" else OnDevice

    def end(self) -> None:
        """Nothing is left."""

    def to(self, end: int) -> None:
        """Cell by cell, and slab by slab."""
        self._weaver.end_layer()
        depth = self._mask.cell_zyx[0]
        while self._cursor < end:
            stop = min(end, (self._cursor // depth + 1) * depth)
            made = []
            for cell, weaver in sorted(self._weaver.cells.items()):
                made.append(self._kind(self._stage, self._mask.area(cell), weaver, self._mask, self._writer))
                for lo, hi in self._mask.spans(cell, self._cursor, stop):
                    made[-1].planes(lo, hi)
            for finish in made:
                finish.end()
            self._writer.advance(stop)
            self._cursor = stop


class CellWriter(SlabWriter):
    """Collects the finished planes of cells; of a slab only its cells are written, and only those that got any."""

    def __init__(self, stage: Sweep, units: range, commit: Commit, cell_zyx: Zyx) -> None:
        self._cell = cell_zyx
        self._pieces: dict[Cell, tuple[Box, tuple[NDArray[Any], ...]]] = {}
        super().__init__(stage, units, commit)

    def put(self, z: int, y: int, values: Sequence[NDArray[Any]], box: Box) -> None:
        """Place a strip [C, 1, rows, width], one an output, whose row 0 is row ``y`` of the box of a cell."""
        cell = (box.start[1] // self._cell[1], box.start[2] // self._cell[2])
        if cell not in self._pieces:
            self._pieces[cell] = self._new(cell)
        (z0, y0, x0), buffers = self._pieces[cell][0].start, self._pieces[cell][1]
        row, left = box.start[1] + y - y0, box.start[2] - x0
        for buffer, strip in zip(buffers, values, strict=True):
            buffer[:, z - z0, row : row + strip.shape[2], left : left + strip.shape[3]] = strip[:, 0]

    def _new(self, cell: Cell) -> tuple[Box, tuple[NDArray[Any], ...]]:
        (z0, _, _), (z1, y1, x1) = self._box.start, self._box.stop
        y, x = (n * size for n, size in zip(cell, self._cell[1:], strict=True))
        box = Box((z0, y, x), (z1, min(y1, y + self._cell[1]), min(x1, x + self._cell[2])))
        return box, tuple(np.zeros((spec.n_channels, *box.shape), spec.dtype) for spec in self._specs)

    def _make_room(self) -> None:
        """Nothing: cells make their own."""

    def _written(self, unit: int, record: dict[str, Any]) -> Future[None]:
        pieces, self._pieces = [piece for _, piece in sorted(self._pieces.items())], {}
        return self._thread.submit(self._commit.sparse, unit, pieces, record=record)


class ChunkReader(Held):
    """Chunks of a volume, each read once, by threads, and dropped when the last patch has used it.

    Parameters
    ----------
    volume
        Where to read.
    own
        The voxels whose non-finite values this reader counts.
    device
        Where the voxels are to lie.
    """

    def __init__(self, volume: Volume, own: Box, device: str) -> None:
        super().__init__(device)
        self._volume, self._own = volume, own
        self._stores: Callable[[Box], bool] = getattr(volume, "stores", lambda _: True)
        self._size: Zyx = tuple(n * -(-SMALL // n) for n in volume.info.chunk_zyx)  # type: ignore[assignment]
        self._chunks: dict[Zyx, Future[Stored]] = {}
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="voxweft-read")
        self.n_nonfinite = 0
        self.bytes_read = 0

    def __exit__(self, *_exc: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def want(self, boxes: Iterator[Box]) -> None:
        """Begin to read the chunks of boxes inside the volume."""
        for box in boxes:
            for index in box.indices(self._size):
                if index not in self._chunks:
                    self._chunks[index] = self._threads.submit(self._read, index)

    def need(self, lo: int, _hi: int) -> None:
        """Drop what lies before plane ``lo``."""
        for index in [index for index in self._chunks if (index[0] + 1) * self._size[0] <= lo]:
            del self._chunks[index]

    def _pieces(self, box: Box) -> Iterator[tuple[Box, Box, Stored]]:
        for index in box.indices(self._size):
            chunk = self._chunk(index)
            yield chunk & box, chunk, self._chunks[index].result()

    def _chunk(self, index: Zyx) -> Box:
        start = tuple(i * n for i, n in zip(index, self._size, strict=True))
        stop = tuple(a + n for a, n in zip(start, self._size, strict=True))
        return Box(start, stop) & Box.of(self._volume.info.shape_zyx)  # type: ignore[arg-type]

    def _read(self, index: Zyx) -> Stored:
        box = self._chunk(index)
        array, n_wrong = finite(self._volume.read(box), box, self._own)
        if self._stores(box):  # what is not stored is read from nowhere
            self.bytes_read += array.nbytes
        self.n_nonfinite += n_wrong
        return Stored(array, self._device)
