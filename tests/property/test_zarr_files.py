"""Files of zarr arrays that voxweft packs and reads by itself: what zarr would write, and what zarr would read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.codecs import BytesCodec as Bytes

from voxweft import open_volume
from voxweft.errors import ReadError
from voxweft.geometry.box import Box
from voxweft.image.info import OutputSpec
from voxweft.stores.ome_zarr import OmeZarrSink

SHAPE = (20, 33, 41)
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def holes(seed: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Voxels of which many blocks are 0; of floats some are -0.0 and NaN, which are not."""
    rng = np.random.default_rng(seed)
    cells = rng.random([-(-n // 8) for n in shape]) < 0.5
    there = np.kron(cells, np.ones((8,) * len(shape), bool))[tuple(slice(0, n) for n in shape)]
    values = np.where(there, rng.integers(0, 100, shape), 0).astype(dtype)
    if values.dtype.kind == "f":
        values[..., :5, :5, :5], values[..., -1, -1, -1] = -0.0, np.nan
    return values


@few
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    chunk=st.tuples(*[st.sampled_from([4, 8, 16])] * 3),
    many=st.tuples(*[st.integers(1, 5)] * 3),
    dtype=st.sampled_from(["uint8", "uint16", "float16", "float32"]),
    compressor=st.sampled_from(["zstd", "none", "lz4"]),
    n_channels=st.sampled_from([1, 2]),
)
def test_shards_are_the_bytes_that_zarr_writes(
    tmp_path_factory: Any,
    seed: int,
    shape: Any,
    chunk: Any,
    many: Any,
    dtype: str,
    compressor: str,
    n_channels: int,
) -> None:
    root = tmp_path_factory.mktemp("shards")
    shard = tuple(c * k for c, k in zip(chunk, many, strict=True))
    values = holes(seed, (n_channels, *shape), dtype)
    spec = OutputSpec(shape, n_channels, dtype, chunk_zyx=chunk, shard_zyx=shard, pyramid="none", compressor=compressor)
    sink = OmeZarrSink(str(root / "ours.zarr"))
    sink.create(spec)
    sink.write(Box.of(shape), np.ones_like(values))  # what lies there already must leave no trace
    sink.write(Box.of(shape), values)
    assert np.array_equal(sink.read(Box.of(shape)), values, equal_nan=dtype.startswith("f"))

    OmeZarrSink(str(root / "zarr.zarr")).create(spec)
    target = zarr.open_group(str(root / "zarr.zarr"))["0"].with_config({"write_empty_chunks": False})
    target[...] = values if n_channels > 1 else values[0]

    def files(name: str) -> dict[str, bytes]:
        found = (root / name).rglob("c/**/*")
        return {str(path.relative_to(root / name)): path.read_bytes() for path in found if path.is_file()}

    assert files("ours.zarr") == files("zarr.zarr")


KINDS: dict[str, dict[str, Any]] = {
    "v3 plain": {"compressors": None},
    "v3 zstd": {"compressors": ZstdCodec(level=1)},
    "v3 zstd, checksum": {"compressors": ZstdCodec(level=1, checksum=True)},
    "v3 blosc": {"compressors": BloscCodec(cname="lz4", typesize=2, shuffle="shuffle")},
    "v3 gzip": {"compressors": GzipCodec(level=1)},
    "v3 two": {"compressors": [BloscCodec(typesize=2), ZstdCodec()]},
    "v3 transposed": {"filters": [TransposeCodec(order=(2, 0, 1))], "compressors": ZstdCodec()},
    "v3 sharded": {"shards": (16, 32, 32), "compressors": ZstdCodec()},
    "v3 big endian": {"serializer": Bytes(endian="big"), "compressors": ZstdCodec()},
    "v3 shards of its own": {"serializer": ShardingCodec(chunk_shape=(8, 8, 8)), "compressors": None},
    "v2 plain": {"zarr_format": 2, "compressors": None},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(1)},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd", 1, numcodecs.Blosc.BITSHUFFLE)},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(1)},
    "v2 filter": {"zarr_format": 2, "filters": [numcodecs.Delta("<u2")], "compressors": numcodecs.Zstd(1)},
    "v2 Fortran": {"zarr_format": 2, "order": "F", "compressors": numcodecs.Zstd(1)},
    "v2 dots": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "."}, "compressors": None},
    "v2 big endian": {"zarr_format": 2, "dtype": ">u2", "compressors": numcodecs.Zstd(1)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fill", [0, 7])
def test_a_volume_is_what_zarr_reads(tmp_path: Path, kind: str, fill: int) -> None:
    asked = {"shape": SHAPE, "chunks": (8, 16, 16), "dtype": "uint16", "fill_value": fill} | KINDS[kind]
    array = zarr.create_array(str(tmp_path / "in.zarr"), **asked)
    values = holes(3, SHAPE, "uint16")
    array[:, :17, :] = values[:, :17]  # the other chunks are not stored
    wanted = zarr.open_array(str(tmp_path / "in.zarr"), mode="r")[:]
    volume = open_volume(tmp_path / "in.zarr")
    for box in (Box.of(SHAPE), Box((3, 5, 7), (4, 33, 40)), Box((8, 16, 16), (16, 32, 32)), Box((2, 2, 2), (2, 9, 9))):
        assert np.array_equal(volume.read(box)[0], wanted[box.slices])


@pytest.mark.parametrize("kind", ["v3 zstd", "v3 blosc", "v3 plain", "v2 blosc"])
def test_a_damaged_chunk_is_named(tmp_path: Path, kind: str) -> None:
    asked = {"shape": SHAPE, "chunks": (8, 16, 16), "dtype": "uint16"} | KINDS[kind]
    zarr.create_array(str(tmp_path / "in.zarr"), **asked)[:] = 5
    files = sorted(path for path in (tmp_path / "in.zarr").rglob("*") if path.is_file() and "1" in path.name[-1:])
    for damage in (files[0].read_bytes()[:-3], b"nonsense"):
        files[0].write_bytes(damage)
        with pytest.raises(ReadError, match="cannot be read"):
            open_volume(tmp_path / "in.zarr").read(Box.of(SHAPE))
