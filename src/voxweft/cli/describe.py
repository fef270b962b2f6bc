"""What ``voxweft info`` says of volumes, outputs and models: names and values in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import VolumeError, VoxweftError
from voxweft.image.axes import Select
from voxweft.image.explored import facts_of
from voxweft.image.info import VolumeInfo
from voxweft.image.place import IDENTITY
from voxweft.model.card import ModelCard
from voxweft.model.head import Head
from voxweft.shown import counted

AXES = "zyx"


def find_volume(path: str, level: int, select: Select) -> VolumeInfo:
    """What is known of a volume; of a folder of layers as ink sees them.

    Raises
    ------
    VolumeError
        If it is neither.
    """
    from voxweft.stores import open_volume
    from voxweft.stores.layers import LayersVolume, layers_there

    try:
        return open_volume(path, level=level, select=select).info
    except VolumeError as error:
        if not Path(path).is_dir():
            raise
        try:
            there = layers_there(path.rstrip("/"))
            return LayersVolume(path, there.start, there.stop).info
        except VoxweftError:
            text = f"{path} is a folder without a volume (zarr, TIFF files, DICOM), layers of ink, or a model"
            raise VolumeError(text) from error


def rows_of(found: VolumeInfo | ModelCard) -> dict[str, str]:
    """Names and values in words; those that say nothing are left out."""
    rows = _rows_of_model(found) if isinstance(found, ModelCard) else _rows_of_volume(found)
    for name, value in found.details.items():
        rows[f"{name} (of the file)" if rows.get(name) else name] = value
    return {name.replace("_", " "): text for name, value in rows.items() if (text := in_words(value))}


def in_words(value: Any) -> str:
    """A value without the marks of Python and JSON.

    >>> in_words({"scheme": "ct", "mean": -300.0, "std": None, "sizes": [64, 64]}), in_words((True, 0.5))
    ('scheme ct, mean -300, sizes 64 64', 'yes, 0.5')
    """
    value = _parsed(_plain(value))
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case float():
            text = f"{value:.6g}"
        case Mapping():
            pairs = ((str(name).replace("_", " "), in_words(one)) for name, one in value.items())
            text = ", ".join(f"{name} {said}" for name, said in pairs if said)
        case tuple() | list():
            nested = any(isinstance(one, (tuple, list, Mapping)) for one in map(_plain, value))
            numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in value)
            text = ("; " if nested else " " if numbers else ", ").join(filter(None, map(in_words, value)))
        case _:
            text = str(value)
    return text


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _parsed(value: Any) -> Any:
    """What a text holds that is JSON; anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(value)
    return value


def _rows_of_volume(info: VolumeInfo) -> dict[str, Any]:
    place = info.geometry
    facts = facts_of(info)
    if info.format == "layers":
        n, y, x = info.shape_zyx
        facts["size"] = f"{counted(n, 'layers')} of {y} x {x} pixels (rows x columns), for voxweft ink"
    rows: dict[str, Any] = {"path": info.url, **facts}
    rows["values"] = info.dtype + (", labels" if info.is_label else "")
    if not place.unit:
        known = set(place.voxel_size_zyx) != {1.0}
        rows["pixel size" if info.shape_zyx[0] == 1 else "voxel size"] = (
            f"{_by(place.voxel_size_zyx)}, of no unit" if known else "not known"
        )
    rows["origin"] = f"{in_words(place.origin_zyx)} {place.unit} (z y x)" if any(place.origin_zyx) else ""
    if place.direction != IDENTITY:
        steps = zip(AXES, zip(*place.direction, strict=True), strict=True)
        rows["direction"] = "; ".join(f"{axis} along {in_words(step)}" for axis, step in steps) + " (z y x)"
    rows["chunks"] = _by(info.chunk_zyx)
    if len(info.levels) > 1:
        rows["levels"] = f"{len(info.levels)}, this is {info.level}: " + ", ".join(map(_by, info.levels))
    rows["stored"] = _bytes(info.stored_bytes) if info.stored_bytes else ""
    return rows | {"notes": "\n".join(info.notes)} | _said_by_voxweft(info)


def _said_by_voxweft(info: VolumeInfo) -> dict[str, str]:
    """What an output says of its making, and what its values mean."""
    from voxweft.stores.attributes import attributes_of

    if "arr" not in info.format.lower():
        return {}
    said = attributes_of(info.url)
    rows = {}
    if isinstance(told := said.get(UNCERTAINTY), Mapping):
        scale, largest = told.get("scale") or 1, told.get("largest")
        rows["meaning"] = (
            f"{told.get('measure')} of {told.get('of')}, stored times {1 / scale:.0f}, so 0 to {in_words(largest)} "
            f"({told.get('formula')}); 0: {told.get('zero', 'certain')}"
        )
    if isinstance(made := said.get("voxweft"), Mapping):
        rows["made by"] = f"voxweft {made.get('version')}, {made.get('started_at')}"
        rows["command"] = str(made.get("command") or "")
        rows["plan"] = str(made.get("plan_digest") or "")
    return rows


def _rows_of_model(card: ModelCard) -> dict[str, Any]:
    plain = {f.name: f.default for f in fields(ModelCard)}
    voxels = "pixels (rows x columns)" if _is_flat(card) else "voxels (z y x)"
    patch = f"{_by(_plane(card, card.patch_zyx))} {voxels}" if card.patch_zyx else "any size"
    rows: dict[str, Any] = {
        "path": card.path,
        "format": card.format,
        "network": "2-D, applied to slices" if card.n_dimensions == 2 else "",
        "patch": patch + (", no other" if card.fixed_patch else ""),
        "multiple_of": _by(_plane(card, card.divisor_zyx)) if max(card.divisor_zyx) > 1 else "",
        "input": f"{counted(card.n_inputs, 'channels')}, {card.input_dtype}",
        "output": ": ".join(filter(None, (counted(card.n_classes, "channels"), ", ".join(card.class_names)))),
        "activation": card.activation,
        "heads": ", ".join(map(_head, card.heads)),
        "normalization": "; ".join(_scheme(asdict(one)) for one in card.normalization),
        "mirroring": f"along {' '.join(AXES[axis] for axis in card.mirror_axes)}" if card.mirror_axes else "none",
        "voxel_size": f"{_by(card.spacing_zyx)} {card.spacing_unit}" if card.spacing_zyx else "",
        "sha256": card.digest,
    }
    told = {"n_dimensions", "patch_zyx", "fixed_patch", "divisor_zyx", "n_inputs", "input_dtype", "n_classes"}
    told |= {"class_names", "mirror_axes", "spacing_zyx", "spacing_unit", "digest", "details", "attributes", "separate"}
    contract = {k: v for k, v in asdict(card.contract).items() if v} if card.contract else {}
    more = {f.name: getattr(card, f.name) for f in fields(card) if f.name not in told | {"contract", "notes", *rows}}
    sizes = {name: _by(_plane(card, size)) for name, size in more.items() if name.endswith("_zyx") and size}
    rows |= {name: value for name, value in (more | sizes).items() if value != plain[name] or name == "n_folds"}
    rows = {name.removesuffix("_zyx").removeprefix("n_"): value for name, value in rows.items()}
    return rows | {"contract": contract, "notes": "\n".join(card.notes)}


def _is_flat(card: ModelCard) -> bool:
    """Whether it takes images: 2-D networks, whose z is one voxel, and those of ink, whose layers are channels."""
    return 1 in card.patch_zyx[:2] if card.patch_zyx else card.n_dimensions == 2


def _plane(card: ModelCard, zyx: tuple[int, ...]) -> tuple[int, ...]:
    """Rows and columns of a size for images."""
    if not _is_flat(card):
        return zyx
    return zyx[1:] if card.n_dimensions == 2 or (card.patch_zyx and card.patch_zyx[0] == 1) else (zyx[0], zyx[2])


def _head(head: Head) -> str:
    scale = f" at 1 / {_by(head.scale_zyx)}" if max(head.scale_zyx) > 1 else ""
    return f"{head.name} ({head.activation} of {head.n_channels}{scale})"


def _scheme(one: Mapping[str, Any]) -> str:
    numbers = in_words({name: value for name, value in one.items() if name != "scheme"})
    return f"{one['scheme']} ({numbers})" if numbers else str(one["scheme"])


def _by(sizes: Iterable[float]) -> str:
    return " x ".join(f"{n:.6g}" for n in sizes)


def _bytes(n: int) -> str:
    size, unit = next(((s, u) for s, u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if n >= s), (1e3, "kB"))
    return f"{n / size:.2f} {unit}"
