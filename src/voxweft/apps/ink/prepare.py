"""Step one: numbered layers to a surface volume in OME-Zarr, several layers at once."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from voxweft.apps.ink.names import check_note, prepared_at, require, write_note
from voxweft.apps.ink.options import InkPartOptions, LayerOptions, PictureOptions
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.job import n_cores
from voxweft.errors import PlanMismatchError, RequestError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.info import OutputSpec
from voxweft.image.protocols import Sink
from voxweft.stores import open_sink
from voxweft.stores.layers import AT_ONCE, LayersVolume
from voxweft.stores.url import absolute

PATH_NOTE = "surface_volume_zarr_path.txt"
CHUNK_YX, SHARD_CHUNKS = (256, 1024), 4
PER_PIXEL = 4  # bytes that a 16-bit layer takes while it is decoded, scaled and written


def prepare(
    layers: LayerOptions,
    part: InkPartOptions | None = None,
    where: PictureOptions | None = None,
    *,
    emit: Emit = silent,
) -> str:
    """Write the layers of a segment as a surface volume [layer, row, column] that records which layers it holds.

    Layers that are there from an earlier run are not read again.

    Returns
    -------
    str
        Where it lies; also left in ``surface_volume_zarr_path.txt``.

    Raises
    ------
    RequestError
        If layers are missing or do not fit each other, or another volume lies there; nothing was written. Of files on
        a server only the first is looked at before.
    RunError
        If a layer cannot be read or written; the same call continues.
    """
    part, where = part or InkPartOptions(), where or PictureOptions()
    check_note(where.runtime_dir, PATH_NOTE)
    require(None, layers)
    if not layers.s3_path:
        raise RequestError(
            "S3_PATH is missing: set it, or give the segment as INPUT; SURFACE_VOLUME_ZARR is written to"
        )
    url = prepared_at(layers, part)
    if not url.endswith(".zarr"):
        raise RequestError(f"SURFACE_VOLUME_ZARR {url!r} must end in .zarr")
    volume = LayersVolume(layers.s3_path, layers.start_layer, layers.end_layer)
    sink = open_sink(url)
    if part.overwrite:
        sink.remove()
    said = {
        "layers": [layers.start_layer, layers.end_layer],
        "source": absolute(volume.url),
        "files": volume.info.stamp,
        "shape": list(volume.info.shape_zyx),
        "scaling": "value >> 8" if volume.info.details["stored_as"] == "uint16" else "none",
    }
    _claim(sink, said)
    depth, height, width = volume.info.shape_zyx
    codec = "lz4" if where.use_zarr_compression else "none"
    chunk, shard = _units(height, width)
    sink.create(OutputSpec((depth, height, width), 1, "uint8", chunk, shard, codec, 1, "none"))
    done = {int(key.removeprefix("layers/")) for key in sink.records.keys("layers/")}
    todo = [z for z in range(depth) if z not in done]
    if todo:
        sink.set_attributes({"voxweft": said | {"complete": False}})
    begun = time.perf_counter()
    emit(Event("begin", data={"n_slabs": depth, "n_done": len(done), "unit": "layers"}))
    with ThreadPoolExecutor(_n_at_once(height * width), thread_name_prefix="voxweft-prepare") as pool:
        list(pool.map(lambda z: _copy(volume, sink, z, emit), todo))  # after an error no further layer is begun
    sink.set_attributes({"voxweft": said | {"complete": True}})
    write_note(where.runtime_dir, PATH_NOTE, absolute(url))
    emit(Event("done", "prepared", {"url": url, "n_layers": len(todo), "seconds": time.perf_counter() - begun}))
    return url


def _copy(volume: LayersVolume, sink: Sink, z: int, emit: Emit) -> None:
    """One layer, wholly."""
    _, height, width = volume.info.shape_zyx
    box = Box((z, 0, 0), (z + 1, height, width))
    sink.write(box, volume.read(box))
    sink.records.put(f"layers/{z}", b"")
    emit(Event("slab", data={"slab": z, "n_voxels": box.n_voxels}))


def _claim(sink: Sink, said: dict[str, Any]) -> None:
    """Write down what is prepared here, or check that it is the same as before."""
    mine = json.dumps(said, sort_keys=True).encode()
    if sink.exists() and sink.records.get("prepare.json") is None:
        raise RequestError(f"{sink.url} exists and voxweft ink prepare did not write it; choose another place")
    if not sink.exists():  # records without a volume say nothing
        sink.records.clear()
    if sink.records.create("prepare.json", mine):
        return
    stored = json.loads(sink.records.get("prepare.json") or b"{}")
    differ = {k: f"{k}: stored {stored.get(k)!r}, asked for {v!r}" for k, v in said.items() if stored.get(k) != v}
    if differ:
        what = "the layers changed since" if [*differ] == ["files"] else "; ".join(differ.values())
        raise PlanMismatchError(f"{sink.url} holds another surface volume: {what}.", "Give --overwrite.")


def _n_at_once(n_pixels: int) -> int:
    """As many layers as cores and free memory allow."""
    import psutil

    fitting = psutil.virtual_memory().available // 2 // (PER_PIXEL * n_pixels)
    return int(max(1, min(AT_ONCE, n_cores(), fitting)))


def _units(height: int, width: int) -> tuple[Zyx, Zyx]:
    """Chunk and shard: equal shares of a layer of up to 256 x 1024 pixels, and up to 4 x 4 of them."""
    chunk = [-(-n // -(-n // c)) for n, c in zip((height, width), CHUNK_YX, strict=True)]
    shard = [c * min(SHARD_CHUNKS, -(-n // c)) for n, c in zip((height, width), chunk, strict=True)]
    return (1, chunk[0], chunk[1]), (1, shard[0], shard[1])
