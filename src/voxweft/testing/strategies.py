"""Hypothesis strategies of what stages are made of; needs hypothesis.

>>> from hypothesis import given
>>> @given(volumes(max_side=8))
... def test_a_volume_is_read_as_it_is(array):
...     assert array.ndim == 4
>>> test_a_volume_is_read_as_it_is()
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.tiling import FITS, AxisTiles
from voxweft.image.place import Geometry, Matrix


def shapes(max_side: int = 24, min_side: int = 1) -> st.SearchStrategy[Zyx]:
    """Voxels z y x."""
    side = st.integers(min_side, max_side)
    return st.tuples(side, side, side)


@st.composite
def boxes_in(draw: st.DrawFn, shape: Zyx) -> Box:
    """Boxes of at least one voxel inside a shape."""
    start = tuple(draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


def boxes() -> st.SearchStrategy[Box]:
    """Boxes anywhere, empty ones too."""
    spans = st.tuples(st.integers(-20, 60), st.integers(0, 40)).map(lambda t: (t[0], t[0] + t[1]))
    return st.tuples(spans, spans, spans).map(lambda s: Box(*zip(*s, strict=True)))


@st.composite
def axis_tiles(draw: st.DrawFn, max_extent: int = 300, max_size: int = 40) -> AxisTiles:
    """Windows over an axis, with any step up to their size."""
    size = draw(st.integers(1, max_size))
    extent, step = draw(st.integers(size, max_extent)), draw(st.floats(1, size))
    return AxisTiles(extent, size, step, draw(st.sampled_from(FITS)))


@st.composite
def volumes(
    draw: st.DrawFn,
    dtypes: Sequence[str] = ("uint8", "int16", "float32"),
    channels: int = 1,
    max_side: int = 40,
    min_side: int = 5,
) -> NDArray[Any]:
    """Noise [C, Z, Y, X] of 1 to 249, of some a corner all 0."""
    shape = draw(shapes(max_side, min_side))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    array = rng.integers(1, 250, (channels, *shape)).astype(draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        array[:, : shape[0] // 2 + 1, : shape[1] // 2 + 1] = 0
    return array


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Voxel sizes, origins and oblique directions, in micrometres."""
    sizes, places = (st.tuples(*[st.floats(*limits)] * 3) for limits in ((0.1, 50), (-1000, 1000)))
    angles = draw(st.tuples(*[st.floats(-3, 3)] * 3))
    return Geometry(draw(sizes), "micrometer", draw(places), _turned(angles))


def _turned(angles: tuple[float, float, float]) -> Matrix:
    """A direction matrix, turned about each axis."""
    matrix = np.eye(3)
    for (a, b), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return tuple(map(tuple, matrix.tolist()))  # type: ignore[return-value]


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 1 << 31, (1 << 63) - 1, 10**30, -0.5, 1e308, float("nan"), float("inf"),
    "", "z", "0", "../..", "/dev/zero", "\x1b[31mred\r\x85\n", "€" * 500, "float64", "nested", [], {}, [None], [[[]]],
    [1 << 62] * 3, {"a": 1}, {"name": []},
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """A JSON document in which one to ``most`` values were replaced, left out, doubled or wrapped in a list."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        places = [*_places(document)]
        if not places:
            break
        inside, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("replace", "leave out", "double", "wrap")))
        match change:
            case "replace":
                inside[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            case "leave out":
                del inside[key]
            case "double" if isinstance(inside, list):
                inside.insert(key, copy.deepcopy(inside[key]))
            case _:
                inside[key] = [inside[key]]
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a document, as what it lies in and its key there."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes that were cut, that have something behind them, or that differ in one byte."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    match draw(st.sampled_from(("cut", "append", "flip"))):
        case "cut":
            return data[:at]
        case "append":
            return data + draw(st.binary(min_size=1, max_size=16))
        case _:
            return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :] if data else b"\0"
