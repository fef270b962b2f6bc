"""Checkpoints hold what training left beside the weights: data are read, shells left, code refused unexecuted."""

from __future__ import annotations

import argparse
import collections
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from voxweft.backends.checkpoint import Left, read_checkpoint, weight_bytes
from voxweft.errors import ModelError

WEIGHTS = torch.arange(6.0)
DATA = [
    *(getattr(np, t)(1) for t in ("bool_", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")),
    np.str_("name"),
    np.dtype("int16"),
    np.arange(3.0),
    np.zeros((2, 2), np.int32),
    {1, 2},
    1j,
    torch.float16,
    collections.OrderedDict(a=1),
    collections.Counter("aab"),
]
SHELLS = [Path("results"), argparse.Namespace(lr=0.1)]


class Runs:
    """What no loader may execute."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def save(path: Path, content: Any, zipped: bool) -> Path:
    torch.save({"weights": WEIGHTS, "logging": [content]}, path, _use_new_zipfile_serialization=zipped)
    return path


def renamed(path: Path, old: bytes, new: bytes) -> None:
    """The pickle of a checkpoint with another name of the same length class, as another version wrote it."""
    with zipfile.ZipFile(path) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(name, data.replace(old, new))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", DATA, ids=lambda v: type(v).__name__)
def test_data_are_read_as_they_were(tmp_path: Path, value: Any, zipped: bool) -> None:
    found = read_checkpoint(save(tmp_path / "net.pth", value, zipped))
    assert torch.equal(found["weights"], WEIGHTS)
    assert type(found["logging"][0]) is type(value)
    assert np.array_equal(found["logging"][0], value) if isinstance(value, np.ndarray) else found["logging"][0] == value


def test_a_dictionary_with_defaults_is_a_dictionary(tmp_path: Path) -> None:
    value = collections.defaultdict(list, {"a": [1]})
    assert read_checkpoint(save(tmp_path / "net.pth", value, True))["logging"][0] == {"a": [1]}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", SHELLS, ids=lambda v: type(v).__name__)
def test_paths_and_settings_are_left(tmp_path: Path, value: Any, zipped: bool) -> None:
    found = read_checkpoint(save(tmp_path / "net.pth", value, zipped))
    assert torch.equal(found["weights"], WEIGHTS)
    assert isinstance(found["logging"][0], Left)


@pytest.mark.parametrize(
    ("value", "old", "new"),
    [
        (np.float64(0.5), b"numpy._core.multiarray", b"numpy.core.multiarray"),
        (np.arange(3.0), b"numpy._core.multiarray", b"numpy.core.multiarray"),
        (Path("x"), b"PosixPath", b"WindowsPath"),
        (Path("x"), b"pathlib\nPosixPath", b"a_trainer.of_nobody\nSettings"),
        (Path("x"), b"pathlib\nPosixPath", b"__main__\nConfig"),
    ],
)
def test_what_other_versions_and_packages_wrote(tmp_path: Path, value: Any, old: bytes, new: bytes) -> None:
    path = save(tmp_path / "net.pth", value, True)
    renamed(path, old, new)
    assert torch.equal(read_checkpoint(path)["weights"], WEIGHTS)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_with_its_place_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "net.pth", {"hook": Runs(tmp_path / "trace")}, zipped)
    with pytest.raises(ModelError, match=r"was executed\. It holds (posix|nt)\.mkdir at logging\.0\.hook") as caught:
        read_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "subprocess.Popen", "torch.hub.load", "numpy.load"])
def test_no_name_of_an_installed_package_becomes_a_shell(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "net.pth", Path("x"), True)
    renamed(path, b"pathlib\nPosixPath", name.rpartition(".")[0].encode() + b"\n" + name.rpartition(".")[2].encode())
    with pytest.raises(ModelError, match="was refused"):
        read_checkpoint(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("damage", [cut, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"\0" * 999)])
def test_a_damaged_file_is_a_line(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    path = save(tmp_path / "net.pth", 1, True)
    damage(path)
    with pytest.raises(ModelError, match=r"cannot be read|refused") as caught:
        read_checkpoint(path)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_weights_of_any_dtype_have_bytes(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    assert len(weight_bytes(tensor.T)) == 6 * tensor.element_size()
    assert weight_bytes(torch.tensor(1.0)).nbytes == 4
