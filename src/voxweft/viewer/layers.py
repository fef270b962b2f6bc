"""Finding what there is to show of an output.

image            what the result was made from, as far as it is still there
probability      a layer for each class
labels           with names and colours
uncertainty      where OUTPUT_uncertainty.zarr lies beside it
points           picks
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.naming import FOREGROUND
from voxweft.engine.plan import Plan
from voxweft.engine.stage import Sweep
from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import RequestError, VoxweftError, first_line
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.sampling import spread_points
from voxweft.image.colours import BACKGROUND, NEUTRAL, has_background, of_classes, of_objects, palette
from voxweft.image.info import VolumeInfo
from voxweft.image.place import Geometry
from voxweft.image.protocols import Volume
from voxweft.image.ref import VolumeRef
from voxweft.image.units import METERS
from voxweft.image.views import Stack, ViewedVolume
from voxweft.remote import is_remote, without_secrets
from voxweft.runner.records import read_plan
from voxweft.stores import open_ref, open_volume
from voxweft.stores.attributes import attributes_of
from voxweft.stores.url import local_path
from voxweft.viewer.shown import IMAGE, KINDS, LABELS, PROBABILITY, Layer, Points, Shown
from voxweft.viewer.subject import Subject

MOST_CHANNELS, MOST_NAMES = 16, 20_000
LOOKED_AT, SIDE = 24, 48  # boxes for the contrast, and their sides in voxels
OBJECT_FILES = (".nii", ".nii.gz", ".mha", ".nrrd")  # that hold labels where they are of uint8
OF_OBJECTS = ("uint32", "int32", "uint64", "int64")  # dtypes of labels that are numbers of objects, and not of classes


def layers_of(output: str, image: str = "", points: Sequence[str] = (), kind: str = "") -> Shown:
    """What there is to see of an output, the finest level of which is opened and sampled for its contrast.

    Parameters
    ----------
    output
        What voxweft wrote, or any volume: a path, s3:// or http(s)://.
    image
        What it was made from; "": as its plan says, where that is still there.
    points
        Files of picks: .csv (x, y, z in Angstrom), .star, or the .json of copick; none: of a segmentation in a copick
        project those of the same user and session.
    kind
        What the output holds: "image", "probability", "labels" or "uncertainty"; "": as it says itself.

    Raises
    ------
    VoxweftError
        If the output, or an image or picks that were asked for, cannot be opened.

    Examples
    --------
    >>> layers_of("nowhere.zarr")
    Traceback (most recent call last):
    voxweft.errors.VolumeError: nowhere.zarr: nothing lies there
    """
    if kind and kind not in KINDS:
        raise RequestError(f"--as {kind!r} is unknown; use one of {', '.join(KINDS)}")
    output, notes = output.rstrip("/"), list[str]()
    levels = _levels(output)
    said, plan = _said(output), _plan(output)
    results = _results(output, levels, said, plan, kind)
    tomogram, picked = _copick(output)
    below = _image(image or tomogram, plan, notes)
    if below and (whole := _aligned(below, levels[0], notes)):
        results = [*_channels("image", IMAGE, whole, ()), *results]
    if unsure := _beside(output):
        results += [replace(layer, visible=False) for layer in _channels(UNCERTAINTY, UNCERTAINTY, unsure, ())]
    info = levels[0].info
    picks = tuple(one for path in points or picked for one in _points(path, info, notes))
    colours = palette(len(picks) + 1)
    picks = tuple(replace(one, colour=_hex(colours[n])) for n, one in enumerate(picks, start=1))
    for volume in {id(layer.levels[0]): layer.levels[0] for layer in results}.values():
        if link := leaving(volume, Box.of(volume.info.chunk_zyx) & Box.of(volume.info.shape_zyx)):
            notes.append(f"{link} and maybe more are links out of the store; a browser is not shown what they lead to")
    report = "" if is_remote(output) else f"{output.removeprefix('file://')}.voxweft/report.html"
    if report and not is_own_file(Path(report)):
        report = ""
    return Shown(without_secrets(output), info.geometry, info.shape_zyx, tuple(results), picks, tuple(notes), report)


def is_own_file(path: Path) -> bool:
    """Whether a file is there and, if it is a link, lies in the same folder all the same."""
    return path.is_file() and path.resolve().is_relative_to(path.parent.resolve())


def _levels(source: str, ref: VolumeRef | None = None) -> tuple[Volume, ...]:
    """A volume with its coarser levels."""
    first = open_ref(ref) if ref else open_volume(source)
    if ref and (ref.views or ref.opener or ref.arguments):
        return (first,)
    url = ref.url if ref else source
    later = range(first.info.level + 1, len(first.info.levels))
    return (first, *(open_volume(url, level=level) for level in later))


def leaving(volume: Any, box: Box) -> Path | None:
    """A chunk of a box of a local zarr that is a link to outside of the store; None where there is none."""
    if isinstance(volume, Stack):
        return next(filter(None, (leaving(one, box) for one in volume.volumes)), None)
    if isinstance(volume, ViewedVolume):
        return leaving(volume.base, volume.view.reach(box, volume.base.info.shape_zyx))
    files = getattr(volume, "files", None)
    if files is None or is_remote(volume.info.url):
        return None
    root = local_path(volume.info.url).resolve()
    return next((file for file in files(box) if not file.resolve().is_relative_to(root)), None)


def _said(output: str) -> Mapping[str, Any]:
    """The attributes of a zarr; of anything else none."""
    try:
        return attributes_of(output)
    except VoxweftError:
        return {}


def _plan(output: str) -> Plan | None:
    try:
        return read_plan(output)
    except (VoxweftError, OSError):
        return None


def _image(image: str, plan: Plan | None, notes: list[str]) -> tuple[Volume, ...]:
    """What a result was made from; a note where it is gone."""
    if image:
        return _levels(image.rstrip("/"))
    found = plan and (plan.image or next(iter(plan.inputs), None))
    if not found or not isinstance(found.ref, VolumeRef):
        return ()
    try:
        return _levels("", found.ref)
    except (VoxweftError, OSError) as error:
        notes.append(f"its image is not shown: {without_secrets(first_line(error))}; give it with --image")
        return ()


def _aligned(image: tuple[Volume, ...], output: Volume, notes: list[str]) -> tuple[Volume, ...]:
    """The image on the grid of the output; where it has no voxel size, or another unit, by its voxels."""
    seen, made = image[0].info, output.info
    known = {seen.geometry.unit, made.geometry.unit} <= METERS.keys() or seen.geometry.unit == made.geometry.unit
    if known and seen.geometry.direction == made.geometry.direction:
        return image
    if seen.shape_zyx != made.shape_zyx:
        notes.append(
            f"the image is {seen.shape_zyx} voxels, the result {made.shape_zyx}, and no size says how they lie"
        )
    return tuple(_Placed(one, _scaled(made.geometry, seen.shape_zyx, one.info.shape_zyx)) for one in image)


def _scaled(place: Geometry, fine: Zyx, coarse: Zyx) -> Geometry:
    z, y, x = (max(1, round(a / b)) for a, b in zip(fine, coarse, strict=True))
    return place.coarser((z, y, x))


class _Placed:
    """A volume at another place."""

    def __init__(self, base: Volume, geometry: Geometry) -> None:
        self.info, self.read = replace(base.info, geometry=geometry), base.read
        self.files = getattr(base, "files", None)


def _beside(output: str) -> tuple[Volume, ...]:
    """The uncertainty of an output."""
    stem, dot, _ = output.rpartition(".zarr")
    with suppress(VoxweftError, OSError):
        return _levels(f"{stem}_{UNCERTAINTY}.zarr") if dot else ()
    return ()


def _results(
    output: str, levels: tuple[Volume, ...], said: Mapping[str, Any], plan: Plan | None, kind: str
) -> list[Layer]:
    """The layers of the output itself."""
    kind = kind or _kind(output, levels[0], plan)
    named = dict[int, str]()
    with suppress(VoxweftError):
        named = dict(Subject.of(plan).named) if plan else {}
    title = output.rpartition("/")[2].removesuffix(".zarr")
    if kind == LABELS:
        names, colours = _names(output, said, levels[0], named)
        return [Layer(title, LABELS, levels, names=names, colours=colours)]
    with suppress(KeyError, TypeError, AttributeError):
        named = {n: str(c["label"]) for n, c in enumerate(said.get("ome", said)["omero"]["channels"])}
    return _channels(title, kind, levels, tuple(named.values()))


def _kind(output: str, volume: Volume, plan: Plan | None) -> str:
    """What an output holds, by what it says itself, by its plan, or else by its values' type."""
    info, finish = volume.info, next((s.finish for s in plan.stages if isinstance(s, Sweep)), None) if plan else None
    if info.is_label or info.dtype in OF_OBJECTS or _is_copick(output):
        return LABELS
    if output.endswith(f"_{UNCERTAINTY}.zarr"):
        return UNCERTAINTY
    if finish is None:
        return LABELS if info.dtype == "uint8" and output.lower().endswith(OBJECT_FILES) else IMAGE
    if finish.output in (LABELS, "mask"):
        return LABELS if info.n_channels == 1 else PROBABILITY
    return PROBABILITY if finish.output.startswith("probability") else IMAGE


def _channels(title: str, kind: str, levels: tuple[Volume, ...], names: tuple[str, ...]) -> list[Layer]:
    """A layer a channel; of classes all but the background are shown, of an image the first."""
    n = min(levels[0].info.n_channels, MOST_CHANNELS)
    names, made = (*names, *[""] * n)[:n], list[Layer]()
    for c, rgb in enumerate(of_classes(names)):
        background = c == 0 and n > 1 and has_background(names)
        name = title if n == 1 else f"{title}: {names[c] or f'channel {c}'}"
        low, high = contrast(levels, c) if kind == IMAGE else (0.0, _top(levels[0].info.dtype))
        shown = c == 0 if kind == IMAGE else not background
        made.append(Layer(name, kind, levels, c, low, high, _hex(NEUTRAL if background else rgb), visible=shown))
    return made


def _hex(rgb: Iterable[Any]) -> str:
    return f"#{bytes(int(v) for v in rgb).hex()}"


def _top(dtype: str) -> float:
    return float(np.iinfo(dtype).max) if np.dtype(dtype).kind in "ui" else 1.0


def _names(
    output: str, said: Mapping[str, Any], volume: Volume, classes: Mapping[int, str]
) -> tuple[dict[int, str], dict[int, str]]:
    """Names and colours of labels: as the array says, as its table of objects does, or those of the model's classes."""
    names, colours = dict[int, str](), dict[int, str]()
    with suppress(KeyError, TypeError, ValueError, AttributeError):  # others write it too
        label = said.get("ome", said).get("image-label") or {}
        for row in label.get("properties") or ():
            if word := next((row[k] for k in ("name", "label", "class", "class_name") if row.get(k)), ""):
                names[int(row["label-value"])] = str(word)
        for row in label.get("colors") or ():
            colours[int(row["label-value"])] = _hex(row["rgba"][:3])
    many = volume.info.dtype in OF_OBJECTS
    if not names:
        names = _objects(output) if many else dict(classes)
    if not (names or many) and _is_mask(volume):
        names = {0: BACKGROUND, 255: FOREGROUND}
    values = [*names][:MOST_NAMES]
    rgb = of_objects(np.array(values, np.int64)) if many else of_classes([names[value] for value in values])
    own = {value: _hex(c) for value, c in zip(values, rgb, strict=True)} | colours
    return {v: names[v] for v in values if v}, {v: c for v, c in own.items() if v}


def _is_mask(volume: Volume) -> bool:
    return volume.info.dtype == "uint8" and {*np.unique(_sampled((volume,), 0))} <= {0, 255}


def _objects(output: str) -> dict[int, str]:
    """Objects of a table beside an output, OUTPUT_objects.csv: "class number"."""
    path = Path(f"{output.removesuffix('.zarr')}_objects.csv".removeprefix("file://"))
    if is_remote(output) or not path.is_file():
        return {}
    with path.open(newline="") as file, suppress(KeyError, ValueError):
        rows = zip(range(MOST_NAMES), csv.DictReader(file), strict=False)
        return {int(r["id"]): f"{r.get('class', '')} {r['id']}".strip() for _, r in rows}
    return {}


def contrast(levels: tuple[Volume, ...], channel: int = 0) -> tuple[float, float]:
    """The 1st and 99.7th percentile of a channel, from its coarsest level where that is small, or from a few boxes.

    Examples
    --------
    >>> ramp = open_volume(np.arange(1000, dtype=np.uint16).reshape(10, 10, 10))
    >>> contrast((ramp,))
    (9.99, 996.003)
    """
    values = _sampled(levels, channel).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(np.round(v, 3)) for v in np.percentile(values, (1, 99.7)))
    return (low, high) if high > low else (float(values.min()), float(max(values.max(), values.min() + 1)))


def _sampled(levels: tuple[Volume, ...], channel: int) -> NDArray[Any]:
    """Values of a channel: all of a small level, else boxes spread over it; chunks that are not stored read as 0."""
    volume, whole = levels[-1], Box.of(levels[-1].info.shape_zyx)
    if math.prod(whole.shape) <= 2 << 20:
        return np.asarray(volume.read(whole)[channel].ravel())
    found = []
    for point in spread_points(whole, LOOKED_AT):
        start = tuple(max(0, min(p, n - SIDE)) for p, n in zip(point, whole.stop, strict=True))
        box = Box(start, tuple(a + SIDE for a in start)) & whole  # type: ignore[arg-type]
        found.append(volume.read(box)[channel].ravel())
    values = np.concatenate(found)
    return values[values != 0] if values.any() else values


def _copick(output: str) -> tuple[str, list[str]]:
    """The only tomogram and the picks that belong to a segmentation in a copick project, as its files are called.

    Segmentations/SPACING_USER_SESSION_NAME.zarr  Picks/USER_SESSION_OBJECT.json  VoxelSpacingSPACING/NAME.zarr
    """
    path, words = Path(output).absolute(), output.rpartition("/")[2].split("_")
    if not _is_copick(output) or len(words) < 4:
        return "", []
    run = path.parent.parent
    seen = [p for p in run.glob(f"VoxelSpacing{words[0]}/*.zarr") if not p.name.endswith("_features.zarr")]
    return str(seen[0]) if len(seen) == 1 else "", sorted(map(str, run.glob(f"Picks/{words[1]}_{words[2]}_*.json")))


def _is_copick(output: str) -> bool:
    return not is_remote(output) and Path(output).absolute().parent.name == "Segmentations"


def _points(path: str, info: VolumeInfo, notes: list[str]) -> tuple[Points, ...]:
    """Picks of a file, a layer for each object."""
    from voxweft.stores.copick_files import read_picks
    from voxweft.stores.particle_lists import read_list

    if path.endswith(".json"):
        try:
            data = Path(path).read_bytes()
            xyz = np.asarray(read_picks(data, path).centres, np.float64)
            name = str(json.loads(data).get("pickable_object_name") or "picks")
        except (OSError, ValueError) as error:
            raise RequestError(f"--points {path} cannot be read: {first_line(error)}") from error
        names, pixels = np.array([name] * len(xyz)), False
    else:
        listed = read_list(path)
        names, xyz, pixels = np.array(listed.objects), listed.centres, listed.in_pixels
        if listed.centred:
            raise RequestError(f"--points {path} counts from the middle; voxweft particles convert makes a .csv of it")
    zyx, place = xyz[:, ::-1], info.geometry
    if not pixels:
        ratio = METERS["angstrom"] / METERS[place.unit] if place.unit in METERS else 1.0
        zyx = zyx * ratio / np.array(place.voxel_size_zyx)
    inside = ((zyx >= 0) & (zyx < np.array(info.shape_zyx))).all(axis=1)
    if not inside.all():
        notes.append(f"{int((~inside).sum())} of {inside.size} points lie outside and are not shown")
    kinds = sorted({*names.tolist()})
    return tuple(Points(kind or "picks", zyx[inside & (names == kind)]) for kind in kinds)
