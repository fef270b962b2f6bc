"""Where things lie: the model behind a key, the layers, the unfinished result, the picture."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from voxweft.apps.ink.options import (
    OUTPUT_SUFFIXES,
    UNSET,
    InkModelOptions,
    InkPartOptions,
    LayerOptions,
    PictureOptions,
)
from voxweft.apps.ink.surface import is_zarr
from voxweft.engine.plan import VOLUME
from voxweft.errors import RequestError, VolumeError, write_error
from voxweft.runner.tables import read_toml
from voxweft.stores.attributes import attributes_of
from voxweft.stores.url import absolute, children, local_path, records_at

PREDICTIONS = "predictions"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def require(model: InkModelOptions | None, layers: LayerOptions, *, source: bool = True) -> None:
    """Refuse a request that leaves out what has no default; all that is missing is named at once.

    Raises
    ------
    RequestError
        With the environment variable and the option of each.
    """
    missing = []
    start, end = layers.start_layer, layers.end_layer
    if model is not None and not model.model:
        missing.append("MODEL is missing: set the environment variable MODEL, or give --model")
    if source and not (layers.s3_path or layers.surface_volume_zarr):
        missing.append("S3_PATH is missing: set it (or SURFACE_VOLUME_ZARR), or give the segment as INPUT")
    if start == UNSET and end != UNSET:
        missing.append("START_LAYER is missing: set it, or give --start-layer, or leave END_LAYER out too")
    for name, value in (("START_LAYER", start), ("END_LAYER", end)):
        if value < 0 and value != UNSET:
            missing.append(f"{name} {value} is negative; layers are counted by the numbers in their names")
    if not missing and UNSET not in (start, end) and end <= start:
        missing.append(f"START_LAYER {start} to END_LAYER {end} holds no layer; the end is exclusive")
    if missing:
        raise RequestError(*missing)


def names_of(model: str) -> tuple[str, ...]:
    """The models of an ensemble, which commas divide; a path that is there may hold a comma itself.

    >>> names_of("one.ckpt, two.ckpt"), names_of("one.ckpt")
    (('one.ckpt', 'two.ckpt'), ('one.ckpt',))
    """
    if "," not in model or local_path(model).exists():
        return (model,)
    return tuple(name.strip() for name in model.split(",") if name.strip())


def find_models(options: InkModelOptions) -> tuple[str, ...]:
    """The paths or URLs of the models."""
    found = tuple(find_model(replace(options, model=name)) for name in names_of(options.model))
    if len({*found}) < len(found):
        raise RequestError(f"--model {options.model}: one of them is named twice")
    return found


def find_model(options: InkModelOptions) -> str:
    """The path or URL of a model: what lies there, s3:// or hf:// as it is, a key of the table, or a repository."""
    name = options.model
    if name.startswith(("s3://", "hf://")) or local_path(name).exists():
        return name
    table = read_table(options.models)
    if name in table:
        return table[name]
    if HUB_ID.fullmatch(name):
        return f"hf://{name}"
    raise RequestError(
        f"MODEL {name!r} is no file, no repository (owner/name) and no key of the table: {', '.join(sorted(table))}",
        "Give --models FILE for another table.",
    )


def read_table(path: str) -> dict[str, str]:
    """Keys and places of models from a TOML file: ``key = "hf://owner/name"``."""
    table = read_toml("--models", path, "voxweft.apps.ink/models.toml")
    if wrong := [k for k, v in table.items() if not isinstance(v, str)]:
        raise RequestError(f'--models {path}: {wrong[0]} must be a text, such as "hf://owner/name"')
    return table


def base_name(model: str, layers: LayerOptions) -> str:
    """``prediction_<MODEL>_<START>_<END>``.

    >>> base_name("hf://owner/timesformer.ckpt", LayerOptions(start_layer=0, end_layer=26))
    'prediction_timesformer_00_26'
    >>> base_name("one.ckpt,two.pt", LayerOptions(start_layer=0, end_layer=26))
    'prediction_one+two_00_26'
    """
    label = "+".join(map(_label, names_of(model)))
    return f"prediction_{label}_{layers.start_layer:02d}_{layers.end_layer:02d}"


def _label(model: str) -> str:
    name = model.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", re.sub(r"\.(ckpt|safetensors|pth|pt|bin)$", "", name))


def with_ending(place: str, ending: str) -> str:
    """A place whose name ends in something more, before its suffix.

    >>> with_ending("a/out.png", "_reverse"), with_ending("s3://b/out", "_known"), with_ending("", "_x")
    ('a/out_reverse.png', 's3://b/out_known', '')
    """
    suffix = next((s for s in OUTPUT_SUFFIXES if place.endswith(s)), "")
    return place and f"{place.removesuffix(suffix)}{ending}{suffix}"


def source_of(layers: LayerOptions) -> str:
    """What is read."""
    return (layers.surface_volume_zarr or layers.s3_path).rstrip("/")


def unfinished(name: str, source: str, part: InkPartOptions, asked: Sequence[object] = ()) -> str:
    """The OME-Zarr that is written before there is a picture.

    The parts of a surface share one; a run by itself has one for all that it asks for, so that another never meets it.
    """
    own = f"whole-{_digest(f'{absolute(source)} {asked}')}" if asked else _digest(absolute(source))
    return f"{part.zarr_output_dir.rstrip('/')}/{name}-{own}.zarr"


def find_unfinished(name: str, layers: LayerOptions, part: InkPartOptions) -> str:
    """The unfinished result that ``reduce`` is to join.

    Raises
    ------
    RequestError
        If there is none, or several and it is not clear which.
    """
    folder = part.zarr_output_dir.rstrip("/")
    found = [n for n in children(folder) if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]+\.zarr", n)]
    if sources := [s.rstrip("/") for s in (layers.surface_volume_zarr, layers.s3_path) if s]:
        found = [n for n in found if not _made_from(f"{folder}/{n}").isdisjoint(absolute(s) for s in sources)]
    if len(found) == 1:
        return f"{folder}/{found[0]}"
    if found:
        raise RequestError(f"{folder} holds several results: {', '.join(found)}; give the right one as INPUT")
    raise RequestError(
        f"{folder} holds no result of {name} for {' or '.join(sources) or 'any segment'}; "
        "run voxweft ink infer first, with the same MODEL, layers and ZARR_OUTPUT_DIR"
    )


def _made_from(zarr: str) -> set[str]:
    """What the stored plan of a result reads: the segment, or a surface volume and the segment it was prepared from."""
    plan = json.loads(records_at(f"{zarr}.voxweft").get("plan.json") or b"{}")
    url = next((str(one["ref"]["url"]) for one in plan.get("inputs", ()) if one["name"] == VOLUME), "")
    sources = {absolute(url)}
    with suppress(VolumeError):  # a surface volume that is gone tells nothing
        if is_zarr(url):
            sources.add(attributes_of(url).get("voxweft", {}).get("source", ""))
    return sources


def prepared_at(layers: LayerOptions, part: InkPartOptions) -> str:
    """Where ``prepare`` writes: SURFACE_VOLUME_ZARR, or a place among the unfinished results."""
    if layers.surface_volume_zarr and layers.s3_path:
        return layers.surface_volume_zarr.rstrip("/")
    source = layers.s3_path.rstrip("/")
    window = f"{layers.start_layer:02d}_{layers.end_layer:02d}" if layers.end_layer != UNSET else "all"
    return f"{part.zarr_output_dir.rstrip('/')}/surface_{window}-{_digest(absolute(source))}.zarr"


def picture_at(name: str, layers: LayerOptions, picture_options: PictureOptions) -> str:
    """Where the picture goes: as asked, else ``predictions/`` in the segment, still without a suffix.

    Raises
    ------
    RequestError
        If the segment cannot be written to.
    """
    if picture_options.output_path:
        return picture_options.output_path
    segment = layers.s3_path.rstrip("/")
    if not segment or is_zarr(segment):
        segment = source_of(layers).rpartition("/")[0] or "."
    if segment.startswith(("http://", "https://")):
        raise RequestError(f"{segment} is read-only; say with --output-path where the picture is to go")
    return f"{segment}/{PREDICTIONS}/{name}"


def check_note(folder: str, name: str) -> None:
    """Refuse, before the work, a folder for notes that cannot be written to; remove the note of an earlier run.

    Raises
    ------
    RequestError
        Naming the file.
    """
    if not folder:  # then none is wanted
        return
    if not writable(Path(folder) / name):
        raise RequestError(f"{folder}/{name} cannot be written; give another --runtime-dir (RUNTIME_DIR)")
    (Path(folder) / name).unlink(missing_ok=True)


def writable(path: Path) -> bool:
    """Whether a file can be made at a path, together with the folders that it needs; nothing is made."""
    path = path.absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    fits = there.is_dir() if there != path else path.is_file() or path.suffix == ".zarr"
    return os.access(there, os.W_OK) and fits


def write_note(folder: str, name: str, text: str) -> None:
    """Leave a line for a workflow engine."""
    if not folder:
        return
    path = Path(folder) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise write_error(str(path), error) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
