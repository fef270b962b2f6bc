"""What an ONNX file says of its graph: the operations that end it, and files that its weights lie in.

onnxruntime tells neither, and the package onnx is not needed for anything else; so the few fields are read from the
protobuf directly. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto names their numbers:

    ModelProto.graph 7 -> GraphProto.node 1 (NodeProto: input 1, output 2, op_type 4, attribute 5: name 1, i 3)
                                    .initializer 5 (TensorProto.external_data 13: key 1, value 2)
                                    .output 12 (name 1)
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from voxweft.errors import ModelError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, "memoryview | int"]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """Names of the graph's outputs with the operation and axis (None where it says none) that makes each; files."""

    endings: dict[str, tuple[str, int | None]]
    files: tuple[Path, ...]
    digest: str


def read_onnx(path: Path) -> OnnxFile:
    """Read it.

    Raises
    ------
    ModelError
        If it is damaged, or names a file outside its folder.
    """
    try:
        with path.open("rb") as file:  # the map ends with the last view of it
            return _read(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), path)
    except (ValueError, LookupError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as ONNX: it is damaged") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(data: memoryview, path: Path) -> OnnxFile:
    made, outputs, locations = dict[str, tuple[str, int | None]](), list[str](), set[str]()
    for graph in _messages(data, 7):
        for node in _messages(graph, 1):
            axes = [_axis(a) for a in _messages(node, 5) if _texts(a, 1) == ["axis"]]
            operation = "".join(_texts(node, 4))
            made |= dict.fromkeys(_texts(node, 2), (operation, axes[0] if axes else None))
        outputs += [name for one in _messages(graph, 12) for name in _texts(one, 1)]
        for tensor in _messages(graph, 5):
            entries = [(_texts(e, 1), _texts(e, 2)) for e in _messages(tensor, 13)]
            locations |= {value[0] for key, value in entries if key == ["location"] and value}
    files = tuple(_inside(path, name) for name in sorted(locations))
    digest = hashlib.sha256(data)
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return OnnxFile({name: made.get(name, ("", None)) for name in outputs}, files, digest.hexdigest())


def _inside(path: Path, name: str) -> Path:
    place = path.parent / name
    if Path(name).is_absolute() or not place.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(f"{path} wants weights from {name!r}, outside its folder; it was refused")
    if not place.is_file():
        raise ModelError(f"{path} has its weights in {name!r}, which is not there")
    return place


def _axis(attribute: memoryview) -> int | None:
    found = [value for number, value in _fields(attribute) if number == 3 and isinstance(value, int)]
    return found[0] - (1 << 64) * (found[0] >> 63) if found else None


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    return (value for n, value in _fields(data) if n == number and isinstance(value, memoryview))


def _texts(data: memoryview, number: int) -> list[str]:
    return [bytes(value).decode() for value in _messages(data, number)]


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message: number and value."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length, at = _varint(data, at) if kind == BYTES else ({FIXED64: 8, FIXED32: 4}[kind], at)
        if at + length > len(data):
            raise ValueError("cut short")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
