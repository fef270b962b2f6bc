"""Files of ``torch.save``: tensors and what training leaves beside them, without running any code.

Trainers put numbers of numpy, paths, enumerations and settings beside the weights. What is harmless is read: numpy's
scalars, dtypes and arrays under the names of numpy 1 and 2, Python's plain containers. Objects of paths, settings and
training libraries, and of modules that are not installed here, become empty shells (:class:`Left`). Everything else is
refused, with its name and its place in the file.
"""

from __future__ import annotations

import collections
import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from voxweft.errors import ModelError, first_line

LEFT = (  # modules whose objects are not needed for a prediction: what a checkpoint has of them stays empty
    "argparse", "batchgenerators", "batchgeneratorsv2", "lightning", "lightning_fabric", "lightning_utilities", "monai",
    "nnunetv2", "omegaconf", "pathlib", "pytorch_lightning", "torchmetrics", "types",
)  # fmt: skip
PLAIN = (  # functions and classes that only hold data
    bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple,
    collections.Counter, collections.OrderedDict,
)  # fmt: skip
SAVE_AGAIN = "A checkpoint needs weights only: save it again with torch.save of plain tensors and numbers."
LEGACY_PICKLES = 4  # of a file of torch.save before 1.6: a magic number, a version, the machine, the content


class Left:
    """An object of training that nobody needs, without its content."""

    def __new__(cls, *_arguments: Any, **_more: Any) -> Left:
        """Whatever it was made of."""
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_more: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...

    def __setitem__(self, _key: Any, _value: Any) -> None: ...

    def append(self, _value: Any) -> None:
        """Nothing."""

    def extend(self, _values: Any) -> None:
        """Nothing."""


def read_checkpoint(path: Path, *, trust_code: bool = False, hint: str = SAVE_AGAIN) -> Any:
    """The content of a file of ``torch.save``, its tensors on the CPU; nothing in it is executed.

    Parameters
    ----------
    path
        The file.
    trust_code
        Load pickles that hold anything at all, which may run any code.
    hint
        What to do where it is refused.

    Raises
    ------
    ModelError
        If it is damaged, or holds what is neither data nor may be left.
    """
    left = [_named(Left, name) for name in sorted(set(_shells(path)[1])) if _may_be_left(name.partition(".")[0])]
    try:
        with torch.serialization.safe_globals([*_harmless(), *left]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of another protocol
            mapped = zipfile.is_zipfile(path)  # optimiser states, two thirds of many checkpoints, stay on the disk
            return torch.load(path, map_location="cpu", weights_only=not trust_code, mmap=mapped)
    except pickle.UnpicklingError as error:
        if trust_code:
            raise ModelError(f"{path} cannot be read: {first_line(error)}") from error
        raise ModelError(
            f"{path} wants to run code when loaded and was refused; nothing was executed. {_refused(path, error)}",
            hint,
        ) from error
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{path} needs Python code that is not here: {first_line(error)}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error


def _may_be_left(module: str) -> bool:
    return module in LEFT or module == "__main__" or find_spec(module) is None


def mentions(path: Path, *words: str) -> bool:
    """Whether all of some words are in the pickle of a zip file of torch.save; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if Path(n).name == "data.pkl"), "")
            text = archive.read(name) if name else b""
    except (OSError, zipfile.BadZipFile):
        return False
    return all(word.encode() in text for word in words)


def weight_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor of any dtype, for its digest."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _named(thing: Any, name: str) -> Any:
    """A class or function that torch takes for the one of a name."""
    module, _, own = name.rpartition(".")
    if thing is Left:
        return type(own, (Left,), {"__module__": module, "__qualname__": own})

    def call(*arguments: Any) -> Any:
        return thing(*arguments)

    call.__module__, call.__name__, call.__qualname__ = module, own, own
    return call


def _harmless() -> list[Any]:
    """What may be called, under all its names."""
    core = getattr(np, "_core", None) or np.core
    numbers = {t for t in np.sctypeDict.values() if not issubclass(t, (np.void, np.object_))}
    dtypes = {type(np.dtype(t)) for t in numbers} | {np.dtype, np.ndarray}
    found = [*PLAIN, *dtypes, *numbers, core.multiarray.scalar]
    found += [_named(lambda *_: {}, "collections.defaultdict"), _named(lambda *_: [], "collections.deque")]
    for old, new in (("scalar", core.multiarray.scalar), ("_reconstruct", _array)):
        found += [_named(new, f"numpy.{core}.multiarray.{old}") for core in ("core", "_core")]
    return found + [_named(thing, f"__builtin__.{thing.__name__}") for thing in PLAIN if thing.__module__ == "builtins"]


def _array(_kind: type, shape: tuple[int, ...], dtype: Any) -> Any:
    """What numpy fills afterwards."""
    return np.ndarray.__new__(np.ndarray, shape, dtype)


class _Shells(pickle.Unpickler):
    """Reads a pickle with an empty shell for every object; nothing of what it names is looked up, let alone called."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.names: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        """A shell with the name."""
        self.names.append(f"{module}.{name}")
        if name in ("OrderedDict", "dict", "defaultdict") and module in ("collections", "builtins", "__builtin__"):
            return _Dictionary
        return _named(Left, self.names[-1])

    def persistent_load(self, _pid: Any) -> None:
        """No storage."""


class _Dictionary(dict[Any, Any]):
    def __init__(self, *_arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, _state: Any) -> None: ...


def _shells(path: Path) -> tuple[Any, list[str]]:
    """The content as shells, as far as it can be read, and the names in it."""
    content, names = None, list[str]()
    with contextlib.suppress(Exception), contextlib.ExitStack() as stack:  # what is damaged torch will tell
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        mapped = zipfile.is_zipfile(path)
        if mapped:
            archive = stack.enter_context(zipfile.ZipFile(file))
            file = stack.enter_context(archive.open(next(n for n in archive.namelist() if Path(n).name == "data.pkl")))
        for _ in range(1 if mapped else LEGACY_PICKLES):
            reader = _Shells(file)
            reader.names = names
            content = reader.load()
    return content, names


def _refused(path: Path, error: Exception) -> str:
    """What was refused, and where it lies."""
    line = next((line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line), "")
    name = next((word.strip("`'\",") for word in line.split() if "." in word.strip("`'\",.")), "").rstrip(".")
    place = next((at for at, kind in _places(_shells(path)[0]) if kind == name), "")
    if not name:
        return "It was pickled in a way that torch reads only where code may run."
    return f"It holds {name} at {place}." if place else f"It holds {name}."


def _places(content: Any, at: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, str]]:
    """Where the shells lie, and of which class they were."""
    seen = set() if seen is None else seen
    if id(content) in seen:
        return
    seen.add(id(content))
    if isinstance(content, Left):
        yield at, f"{type(content).__module__}.{type(content).__qualname__}"
    items: Any = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    for key, value in items:
        yield from _places(value, f"{at}.{key}" if at else str(key), seen)
