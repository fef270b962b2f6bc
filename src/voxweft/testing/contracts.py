"""What every volume, sink, record store, model and launcher must do: inherit, give one object, run pytest.

class TestMyVolume(VolumeContract):
    array = np.arange(...)                      # what the volume holds, [C, Z, Y, X]
    def make(self, tmp_path): return MyVolume(...)
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.typing import NDArray

from voxweft.apps.run import run
from voxweft.engine.options import RunOptions
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import Geometry, OutputSpec
from voxweft.image.protocols import Records, Sink, Volume
from voxweft.model.protocols import ForwardSetting, Model
from voxweft.ops.halve import halve
from voxweft.runner.execution import Execution
from voxweft.stores import open_sink


def _check(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


class VolumeContract:
    """A volume that holds ``array`` [C, Z, Y, X]."""

    array: ClassVar[NDArray[Any]]

    @abstractmethod
    def make(self, tmp_path: Path) -> Volume:
        """A volume that holds ``array``."""

    def test_it_says_what_it_holds(self, tmp_path: Path) -> None:
        """Shape, channels and dtype are right."""
        info = self.make(tmp_path).info
        found = (info.n_channels, *info.shape_zyx, np.dtype(info.dtype))
        _check(found == (*self.array.shape, self.array.dtype), f"{found} is not what was stored")
        _check(info.levels[info.level] == info.shape_zyx, "the opened level has another shape than the volume")
        _check(min(info.chunk_zyx) >= 1, "a chunk without voxels")

    def test_any_box_reads_as_it_was_stored(self, tmp_path: Path) -> None:
        """Boxes inside, across chunks, of one voxel, and the whole."""
        volume = self.make(tmp_path)
        z, y, x = volume.info.shape_zyx
        boxes = [Box.of((z, y, x)), Box((z // 2, y // 3, x // 4), (z, y, x)), Box((z - 1, y - 1, 0), (z, y, 1))]
        for box in boxes:
            values = volume.read(box)
            _check(values.dtype == self.array.dtype, f"read gives {values.dtype}")
            _check(np.array_equal(values, self.array[(slice(None), *box.slices)]), f"wrong voxels in {box}")

    def test_threads_may_read_at_once(self, tmp_path: Path) -> None:
        """Eight threads read planes and get the right ones."""
        volume = self.make(tmp_path)
        z, y, x = volume.info.shape_zyx
        boxes = [Box((i % z, 0, 0), (i % z + 1, y, x)) for i in range(16)]
        with ThreadPoolExecutor(8) as pool:
            for box, values in zip(boxes, pool.map(volume.read, boxes), strict=True):
                _check(np.array_equal(values, self.array[(slice(None), *box.slices)]), f"wrong voxels in {box}")


class SinkContract:
    """A sink that can be opened again by :meth:`reopen`."""

    spec: ClassVar[OutputSpec] = OutputSpec(
        (37, 40, 70),
        2,
        "uint8",
        (16, 16, 16),
        (16, 32, 32),
        geometry=Geometry((4.0, 2.0, 1.0), "nanometer"),
        smallest=16,
    )

    @abstractmethod
    def make(self, tmp_path: Path) -> Sink:
        """A sink at a place where nothing is."""

    @abstractmethod
    def reopen(self, sink: Sink, tmp_path: Path) -> Sink:
        """Another object for the same place."""

    def _filled(self, sink: Sink) -> NDArray[Any]:
        spec = self.spec
        rng = np.random.default_rng(0)
        values = rng.integers(0, 255, (spec.n_channels, *spec.shape_zyx)).astype(spec.dtype)
        sink.create(spec)
        for cell in Box.of(spec.shape_zyx).cells(spec.shard_zyx):
            box = cell & Box.of(spec.shape_zyx)
            sink.write(box, values[(slice(None), *box.slices)])
        return values

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        """Shard by shard in, the whole out, from another object."""
        sink = self.make(tmp_path)
        _check(not sink.exists(), "something exists before create")
        values = self._filled(sink)
        again = self.reopen(sink, tmp_path)
        spec = again.open()
        _check(again.exists(), "nothing exists after create")
        _check((spec.shape_zyx, spec.dtype) == (self.spec.shape_zyx, self.spec.dtype), f"another spec: {spec}")
        _check(spec.geometry == self.spec.geometry, f"another geometry: {spec.geometry}")
        _check(np.array_equal(again.read(Box.of(spec.shape_zyx)), values), "other voxels came back")

    def test_create_again_keeps_what_is_there(self, tmp_path: Path) -> None:
        """A second worker's create is harmless."""
        sink = self.make(tmp_path)
        values = self._filled(sink)
        again = self.reopen(sink, tmp_path)
        again.create(self.spec)
        _check(np.array_equal(again.read(Box.of(self.spec.shape_zyx)), values), "create destroyed voxels")

    def test_many_may_create_at_once(self, tmp_path: Path) -> None:
        """Eight workers make the output at the same moment, and all of them can work with it."""
        first = self.make(tmp_path)
        sinks = [first, *(self.reopen(first, tmp_path) for _ in range(7))]
        ready = threading.Barrier(len(sinks))

        def create(sink: Sink) -> int:
            ready.wait()
            sink.create(self.spec)
            return sink.n_levels()

        with ThreadPoolExecutor(len(sinks)) as pool:
            levels = set(pool.map(create, sinks))
        _check(len(levels) == 1 and levels.pop() >= 1, "workers see different levels")

    def test_levels_are_written_and_read(self, tmp_path: Path) -> None:
        """Every level takes shards of its own and gives them back; a level that is not there is refused."""
        sink = self.make(tmp_path)
        values = self._filled(sink)
        _check(sink.n_levels() in (1, len(self.spec.level_shapes)), f"{sink.n_levels()} levels, not those of the spec")
        for level in range(1, sink.n_levels()):
            values, whole = halve(values, self.spec.pyramid), Box.of(sink.shape(level))
            cells = [cell & whole for cell in whole.cells(self.spec.shard_zyx)]
            n_files = [sink.write(cell, values[(slice(None), *cell.slices)], level) for cell in cells]
            if None not in n_files:
                _check(
                    sink.n_files(level) == sum(filter(None, n_files)),
                    f"level {level} has other files than were written",
                )
            _check(np.array_equal(sink.read(whole, level), values), f"level {level} has other voxels")
        try:
            sink.write(Box.of((1, 1, 1)), np.zeros((self.spec.n_channels, 1, 1, 1), self.spec.dtype), sink.n_levels())
        except RequestError:
            return
        _check(False, "a level that does not exist was written")

    def test_remove_leaves_nothing(self, tmp_path: Path) -> None:
        """Array, records and all."""
        sink = self.make(tmp_path)
        self._filled(sink)
        sink.records.put("plan.json", b"{}")
        sink.remove()
        again = self.reopen(sink, tmp_path)
        _check(not again.exists(), "the array is still there")
        _check(again.records.keys() == [], "records are still there")


class RecordsContract:
    """Records where none are."""

    @abstractmethod
    def make(self, tmp_path: Path) -> Records:
        """Empty records; called again it gives another object for the same place."""

    def test_put_get_keys_clear(self, tmp_path: Path) -> None:
        """What was put is there for another object, until it is cleared."""
        records = self.make(tmp_path)
        _check(records.get("a/b.json") is None, "a record that nobody put")
        for key in ("a/b.json", "a/c.json", "d.json"):
            records.put(key, key.encode())
        again = self.make(tmp_path)
        _check(again.keys() == ["a/b.json", "a/c.json", "d.json"], f"keys: {again.keys()}")
        _check(again.keys("a/") == ["a/b.json", "a/c.json"], "keys of a folder")
        _check(again.get("a/c.json") == b"a/c.json", "another record came back")
        again.put("d.json", b"new")
        _check(records.get("d.json") == b"new", "a record was not replaced")
        again.remove("d.json")
        again.remove("never.json")
        _check(records.get("d.json") is None, "a removed record is still there")
        again.clear()
        _check(records.keys() == [], "clear left records")

    def test_only_one_can_create(self, tmp_path: Path) -> None:
        """Of sixteen that create the same record at once one wins, and its bytes stay."""
        places = [self.make(tmp_path) for _ in range(16)]
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda i: places[i].create("plan.json", b"%d" % i * 1000), range(16)))
        _check(sum(won) == 1, f"{sum(won)} creators won")
        _check(places[0].get("plan.json") == b"%d" % won.index(True) * 1000, "the winner's record is not there")


class ModelContract:
    """A model that takes patches of ``patch_zyx``."""

    patch_zyx: ClassVar[tuple[int, int, int]] = (16, 16, 16)

    @abstractmethod
    def make(self, tmp_path: Path) -> Model:
        """The model."""

    def test_every_runtime_gives_the_same_logits(self, tmp_path: Path) -> None:
        """Shape and dtype as promised, the runtimes agree, and threads do not disturb each other."""
        import torch

        model = self.make(tmp_path)
        card = model.card
        torch.manual_seed(0)
        batches = [torch.randn(1, card.n_inputs, *self.patch_zyx) for _ in range(4)]
        first: list[torch.Tensor] = []
        for runtime in model.runtimes("cpu"):
            predictor = model.open(ForwardSetting(runtime, "cpu", "fp32", 1, self.patch_zyx, n_lanes=2))
            with ThreadPoolExecutor(2) as pool:
                found = [out.detach() for out in pool.map(predictor, batches)]
            _check(all(o.shape == (1, card.n_classes, *self.patch_zyx) for o in found), f"{runtime}: wrong shape")
            _check(all(o.dtype == torch.float32 for o in found), f"{runtime}: not float32")
            first = first or found
            difference = max(float((a - b).abs().max()) for a, b in zip(first, found, strict=True))
            _check(difference < 1e-2, f"{runtime} differs from {model.runtimes('cpu')[0]} by {difference}")

    def test_the_card_is_complete(self, tmp_path: Path) -> None:
        """A digest of the weights, and counts that can be."""
        card = self.make(tmp_path).card
        _check(len(card.digest) == 64, "the digest is no sha256")
        _check(min(card.n_inputs, card.n_classes) >= 1, "a model without inputs or classes")
        _check(len(card.class_names) in (0, card.n_classes), "names for other classes")


class LauncherContract:
    """A launcher: a context with an executor of two workers."""

    @abstractmethod
    def make(self) -> AbstractContextManager[Executor]:
        """The context."""

    def test_calls_get_their_own_results(self) -> None:
        """Twenty calls, handed over at once."""
        with self.make() as executor:
            futures = [executor.submit(pow, n, 2) for n in range(20)]
            _check([f.result(60) for f in futures] == [n * n for n in range(20)], "results were mixed up")

    def test_an_error_comes_back_as_it_was(self) -> None:
        """Type and words; and the executor goes on."""
        with self.make() as executor:
            error = executor.submit(_fail, "nothing lies there").exception(60)
            _check(isinstance(error, RequestError) and str(error) == "nothing lies there", f"{error!r} came back")
            _check(executor.submit(pow, 3, 2).result(60) == 9, "no call after one that failed")

    def test_parts_give_the_bits_of_one_process(self, tmp_path: Path) -> None:
        """A run on it, in several parts, writes what a serial run writes."""
        image = np.random.default_rng(0).integers(0, 255, (100, 40, 40), dtype=np.uint8)
        source, results = str(tmp_path / "in.zarr"), []
        zarr.create_array(source, shape=image.shape, chunks=(16, 40, 40), dtype="uint8")[:] = image
        options = RunOptions(chunk="16,32,32", runtime="torch")
        with self.make() as executor:
            for name, where in (("serial", "serial"), ("parts", executor)):
                execution = Execution(where, workers=2, num_parts=4 if name == "parts" else 0)
                run(source, str(tmp_path / f"{name}.zarr"), "fake://blur?patch=16,16,16", options, execution=execution)
                sink = open_sink(str(tmp_path / f"{name}.zarr"))
                sink.open()
                results.append(sink.read(Box.of(image.shape)))
        _check(np.array_equal(results[0], results[1]), "parts wrote other voxels than one process")


def _fail(text: str) -> None:
    raise RequestError(text)
