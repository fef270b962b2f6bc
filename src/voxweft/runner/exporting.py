"""Results in files of other programs: TIFF, HDF5, NIfTI, MRC; written from the OME-Zarr, band by band."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.part import State
from voxweft.engine.plan import Plan
from voxweft.errors import RequestError, VoxweftError, write_error
from voxweft.image.axes import Select
from voxweft.image.protocols import Sink
from voxweft.runner.execution import Execution
from voxweft.stores import open_sink, open_volume
from voxweft.stores.durable import sync, sync_folders
from voxweft.stores.file_formats import ending_of, format_of
from voxweft.stores.outgoing import OTHERS, Outgoing
from voxweft.stores.url import local_path, parent_and_name

RECORD = "file.json"


@dataclass(frozen=True, slots=True)
class _Asked:
    level: int = 0
    channel: int | None = None


def export(
    output: str,
    file: str,
    *,
    level: int = 0,
    channel: int | None = None,
    overwrite: bool = False,
    emit: Emit = silent,
) -> str:
    """Write a result, or any volume, into a file of another format.

    The ending of ``file`` says which: ``.tif`` (OME-TIFF; a BigTIFF beyond 4 GB), ``.h5`` (dataset ``data``), ``.nii``
    and ``.nii.gz``, ``.mrc``. Voxel size and place go with it. Values keep their dtype, or take the smallest that the
    format has and that holds all of them. The file gets its name when it is whole.

    Parameters
    ----------
    output
        URL or path of an OME-Zarr [Z, Y, X] or [C, Z, Y, X] that is complete, or of any volume.
    file
        Path to write.
    level, channel
        Which resolution level, 0 being the finest; which channel alone. None: all channels.
    overwrite
        Whether a file that is there is replaced.
    emit
        Told of the planes that are written.

    Returns
    -------
    str
        The path.

    Raises
    ------
    RequestError
        If the format cannot hold it, the result is not complete, or the file is there.

    Examples
    --------
    >>> import tempfile, numpy, voxweft
    >>> image, folder = numpy.random.default_rng(0).random((40, 40, 40)), tempfile.mkdtemp()
    >>> report = voxweft.run(image, f"{folder}/out.zarr", "fake://null?patch=16,16,16")
    >>> file = voxweft.export(f"{folder}/out.zarr", f"{folder}/out.tif")
    >>> voxweft.open_volume(file).info.shape_zyx
    (40, 40, 40)
    """
    path = local_path(file)
    format_of(file)
    if path.exists() and not overwrite:
        raise RequestError(f"{file} is there; choose another name, or give --overwrite")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"{file}: there is no folder {path.parent}")
    _require_complete(output, level)
    _write(output, path, _Asked(level, channel), emit)
    return file


def require_free(sink: Sink, execution: Execution) -> None:
    """Refuse, before a run begins, a file that is there and is another's, and one without a folder."""
    if not (file := file_of(sink)):
        return
    path = local_path(file)
    if not path.absolute().parent.is_dir():
        raise RequestError(f"{file}: there is no folder {path.parent}")
    if path.exists() and not execution.overwrite and not _is_ours(sink, path):
        raise RequestError(f"{file} is there, and is not of this run; choose another OUTPUT, or give --overwrite")


def write_file(sink: Sink | None, emit: Emit) -> str:
    """Write the file that was asked for in place of an OME-Zarr, unless it is there; "" where none was."""
    if sink is None or not (file := file_of(sink)):
        return ""
    path = local_path(file)
    if not _is_ours(sink, path):
        _write(sink.url, path, _Asked(), emit)
        sink.records.put(RECORD, json.dumps(_stamp(path)).encode())
    return file


def file_of(sink: Sink | None) -> str:
    """The file that a sink is to end in; "" for none."""
    return str(getattr(sink, "file", ""))


def require_held(sink: Sink | None, plan: Plan) -> None:
    """Refuse, before a run begins, what a file surely, or perhaps, cannot hold."""
    if not (file := file_of(sink)):
        return
    spec = next(o.spec for s in plan.stages for o in s.outputs if o.spec and not o.name)
    found, ending = format_of(file), ending_of(file)
    if spec.n_channels > 1 and not found.channels:
        raise RequestError(f"{file}: a {ending} holds one channel, not {spec.n_channels}; {OTHERS}")
    dtypes = found.load()[1]
    if spec.is_label and spec.dtype not in ("uint8", "uint16") and dtypes and spec.dtype not in dtypes:
        raise RequestError(
            f"{file}: a {ending} does not hold {spec.dtype} labels; {OTHERS},",
            "or write a .zarr and try voxweft export, which looks how large they are.",
        )


def _require_complete(output: str, level: int) -> None:
    """Refuse a result of a run that has not ended."""
    output = output.rstrip("/")
    if not output.endswith(".zarr") or output.startswith(("http://", "https://")):
        return
    ledger, name = _made_by(output)
    if (stored := ledger.plan()) is None or ledger.report().get("status") == State.COMPLETE:
        return
    stages = [
        stage
        for stage in Plan.from_json(stored).stages
        if any(one.spec and one.name == name and one.level <= level for one in stage.outputs)
    ]
    if not stages:
        return
    if missing := sum(s.n_units - len(ledger.done(s.name)) for s in stages):
        raise RequestError(f"{output} is not complete, {missing} {stages[0].noun} are missing; run its command again")


def _made_by(output: str) -> tuple[Ledger, str]:
    """The ledger of the run that made an output, and the output's name: "", or NAME of X_NAME.zarr beside X.zarr."""
    own, name = Ledger(open_sink(output).records), parent_and_name(output)[1].removesuffix(".zarr")
    beside = (at for at, letter in enumerate(name) if letter == "_" and own.plan() is None)
    for at in beside:
        ledger = Ledger(open_sink(f"{output.removesuffix(f'{name[at:]}.zarr')}.zarr").records)
        if ledger.plan() is not None:
            return ledger, name[at + 1 :]
    return own, ""


def _write(url: str, path: Path, asked: _Asked, emit: Emit) -> None:
    """Write under a temporary name beside it, and give it its own when it is whole and on the disk."""
    found = format_of(str(path))
    write, dtypes = found.load()
    image = _outgoing(url, asked, lambda done, n: emit(Event("progress", f"write {path.name}", _counts(done, n))))
    if len(image.channels) > 1 and not found.channels:
        raise RequestError(f"a {ending_of(path.name)} holds one channel; choose one of the {len(image.channels)}")
    image = image.fitting(dtypes, f"a {ending_of(path.name)}")
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp{ending_of(path.name)}")
    try:
        write(temporary, image)
        sync(temporary)
        temporary.replace(path)
        sync_folders(path, path.absolute().parent)
    except OSError as error:
        raise write_error(str(path), error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _counts(done: int, n: int) -> dict[str, int]:
    return {"n_done": done, "n_units": n}


def _outgoing(url: str, asked: _Asked, told: Callable[[int, int], None]) -> Outgoing:
    """The volume, its channels one by one, with what it says of itself."""
    whole = open_volume(url, level=asked.level)
    n = whole.info.n_channels
    if asked.channel is not None and not 0 <= asked.channel < n:
        raise RequestError(f"--channel {asked.channel}: {url} has {n}, from 0 on")
    wanted = range(n) if asked.channel is None else [asked.channel]
    volumes = [whole] if n == 1 else [open_volume(url, level=asked.level, select=Select(channel=k)) for k in wanted]
    name = parent_and_name(url.rstrip("/"))[1].removesuffix(".zarr")
    names: tuple[tuple[int, str], ...] = ()
    with suppress(VoxweftError):  # of other programs
        names = open_sink(url).open().named
    if n > 1:
        known = dict(names)
        names = tuple((k, known.get(k, f"channel {k}")) for k in wanted)
    return Outgoing(tuple(volumes), "", name, names, told)


def _is_ours(sink: Sink, path: Path) -> bool:
    """Whether this run wrote the file; one that was moved or copied with its records still is."""
    stored = sink.records.get(RECORD)
    return path.exists() and stored is not None and json.loads(stored) == _stamp(path)


def _stamp(path: Path) -> dict[str, Any]:
    return {"file": path.name, "size": path.stat().st_size}
