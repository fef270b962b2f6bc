"""Everything before the first slab: open, check, measure, plan."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from voxweft.apps.stored import STORED, open_stored
from voxweft.backends import reload
from voxweft.engine.budget import Budget
from voxweft.engine.calibrate import as_input, blocks, central_patch, choose_setting, tiling_probe
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.ledger import Ledger
from voxweft.engine.masking import mask_scale
from voxweft.engine.options import RunOptions, parse_bytes
from voxweft.engine.plan import Plan, make_plan, patch_for, schemes_for
from voxweft.engine.staged import TileLogits
from voxweft.errors import PlanMismatchError, RequestError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.info import VolumeInfo
from voxweft.image.protocols import Records, Volume
from voxweft.image.ref import VolumeRef, volume_ref
from voxweft.model.card import Normalization
from voxweft.model.protocols import Model, Predictor
from voxweft.model.ref import ModelRef, model_ref
from voxweft.ops.normalize import Statistics
from voxweft.stores import open_ref, open_volume

PROBE_FROM = 200  # forward passes; for fewer the probe would be more than a percent of the work
SPOT, FEW_VALUES, FLAT, ENOUGH = 24, 16, 0.9, 1000  # what labels look like: flat areas, few values
MASK_VOXELS = 1 << 24  # of a mask that is read whole for its fingerprint
USABLE = 0.8  # share of the memory left that buffers may fill; allocators and compression take some


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with everything opened: volume, model and perhaps its network made ready, or stored logits."""

    plan: Plan
    volume: Volume | None
    model: Model | None
    mask: Volume | None = None
    predictor: Predictor | None = None
    stored: TileLogits | None = None


def reopen(plan: Plan, predictor: Predictor | None = None) -> Prepared:
    """Open what a stored plan names; the model only where its network is not ready yet.

    Raises
    ------
    RequestError
        If another model lies at the path, or the same one with another card.
    """
    mask = open_volume(plan.mask) if plan.mask else None
    if plan.source.format in STORED:
        return Prepared(plan, None, None, mask, stored=open_stored(plan))
    if predictor:
        return Prepared(plan, open_input(plan), None, mask, predictor)
    return Prepared(plan, open_input(plan), reload(ModelRef(plan.card, plan.arguments)), mask)


def open_input(plan: Plan) -> Volume:
    """The volume that a plan was made for."""
    return open_ref(plan.source_ref or VolumeRef(plan.source.url, plan.source.level))


def devices_of(text: str) -> list[str]:
    """Device names from "auto", "cpu", "cuda" or "cuda:0,1".

    Raises
    ------
    RequestError
        If the device is unknown or not here.
    """
    import torch

    name, _, numbers = text.partition(":")
    if name == "auto":
        return ["cuda:0"] if torch.cuda.is_available() else ["cpu"]
    if name == "cpu" and not numbers:
        return ["cpu"]
    if name != "cuda" or not all(n.isdigit() for n in (numbers or "0").split(",")):
        raise RequestError(f"--device {text!r} is unknown; use auto, cpu, cuda or cuda:0,1")
    found = torch.cuda.device_count()
    wanted = [int(n) for n in (numbers or "0").split(",")]
    if max(wanted) >= found:
        raise RequestError(f"--device {text}: this machine has {found} CUDA device(s); use --device cpu or auto")
    return [f"cuda:{n}" for n in wanted]


def n_gpus() -> int:
    """CUDA devices of this machine."""
    import torch

    return int(torch.cuda.device_count())


def prepare(
    volume: Volume,
    model: Model,
    options: RunOptions,
    *,
    mask: Volume | None = None,
    records: Records | None = None,
    normalization: tuple[Normalization, ...] = (),
    n_workers: int = 1,
    emit: Emit = silent,
) -> Prepared:
    """Check the request and plan it, or adopt the plan that the output already holds.

    ``normalization``: in place of what model and options say, one scheme per channel or one for all.

    Raises
    ------
    RequestError
        All that is wrong with the request; nothing was written.
    """
    device = devices_of(options.device)[0]
    card = model.card
    asked = normalization or schemes_for(card, options)
    marked = ""
    if mask is not None:
        mask_scale(mask.info, volume.info.shape_zyx)
        marked = mask_fingerprint(mask)
    more: dict[str, Any] = {
        "mask_fingerprint": marked,
        "arguments": model_ref(model).arguments,
        "source_ref": volume_ref(volume),
    }
    draft = replace(make_plan(volume.info, card, options, normalization=asked), **more)
    patch, _ = patch_for(volume.info, card, options)
    _, voxels = central_patch(volume, patch)
    if not options.accept_labels:
        refuse_labels(volume, voxels)
    fingerprint = fingerprint_of(volume.info, voxels)
    if records is not None and (stored := Ledger(records).plan()):
        return adopt(
            Plan.from_json(stored),
            replace(draft, fingerprint=fingerprint),
            Prepared(draft, volume, model, mask),
            device,
        )
    schemes = measure_volume(volume, asked, emit)
    sample = as_input(voxels, patch, schemes, device)
    n_patches = draft.n_tiles(draft.region) * draft.n_views
    setting, predictor, trials = choose_setting(model, sample, options, n_patches, device)
    measured: dict[str, Any] = {"runtimes": trials}
    if n_patches >= PROBE_FROM:
        measured["tiling"] = tiling_probe(predictor, volume, setting, card, schemes)
    plan = make_plan(
        volume.info,
        card,
        options,
        fingerprint=fingerprint,
        normalization=schemes,
        setting=replace(setting, device=device.partition(":")[0]),
        budget=budget_for(options, device, n_workers),
        measured=measured,
    )
    plan = replace(plan, **more)
    return Prepared(plan, volume, model, mask, predictor)


def adopt(stored: Plan, asked: Plan, opened: Prepared, device: str) -> Prepared:
    """Follow a stored plan, or refuse with the difference."""
    stored.require_same_request(asked)
    kind = device.partition(":")[0]
    if stored.setting.device != kind:
        raise PlanMismatchError(
            f"the stored plan runs on {stored.setting.device}, this machine would use {kind}; the bits would differ.",
            f"Give --device {stored.setting.device}, or --overwrite to begin anew.",
        )
    return replace(opened, plan=stored)


def budget_for(options: RunOptions, device: str, n_workers: int = 1) -> Budget:
    """What the buffers of one of so many processes may take: of --memory, or of half of what is free."""
    import psutil

    own = psutil.Process().memory_info().rss
    asked = parse_bytes(options.memory) if options.memory else None
    if asked is not None:
        asked //= n_workers
    if asked is not None and asked <= own:
        each = f" in each of {n_workers} processes" if n_workers > 1 else ""
        raise RequestError(
            f"--memory {options.memory}: Python, the runtime and the model alone take {own / 1e9:.2f} GB{each}",
            "Allow more.",
        )
    host = round(USABLE * (asked - own)) if asked is not None else psutil.virtual_memory().available // 2 // n_workers
    if device == "cpu":
        return Budget(host, host)
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return Budget(host, min(free // 2, asked or free))


def fingerprint_of(info: VolumeInfo, voxels: np.ndarray[Any, Any]) -> str:
    """sha256 of shape, dtype, the state of the files where it is known, and the central patch."""
    digest = hashlib.sha256(f"{info.shape_zyx} {info.n_channels} {info.dtype} {info.stamp}".encode())
    digest.update(np.ascontiguousarray(voxels).tobytes())
    return digest.hexdigest()


def mask_fingerprint(mask: Volume) -> str:
    """sha256 of a mask: of all its voxels up to 2^24, else of its middle and eight spots."""
    whole = Box.of(mask.info.shape_zyx)
    if whole.n_voxels <= MASK_VOXELS:
        boxes: list[Box] = list(blocks(mask.info.shape_zyx, mask.info.chunk_zyx))
    else:
        boxes = [central_patch(mask, mask.info.chunk_zyx)[0], *_spots(mask.info)]
    digest = hashlib.sha256(f"{mask.info.shape_zyx} {mask.info.dtype} {mask.info.stamp}".encode())
    for box in boxes:
        digest.update(np.ascontiguousarray(mask.read(box)).tobytes())
    return digest.hexdigest()


def refuse_labels(volume: Volume, voxels: np.ndarray[Any, Any]) -> None:
    """Refuse label volumes: said so by their metadata, or flat pieces of few values.

    Raises
    ------
    VolumeError
        With the reason and the way to run anyway.
    """
    advice = "Give the image itself, or --accept-labels to run all the same."
    if volume.info.is_label:
        raise VolumeError(f"{volume.info.url} holds labels, not an image (its metadata says so).", advice)
    if voxels.dtype.kind not in "iu" or voxels.shape[-1] < 2:
        return
    pieces = [voxels, *(volume.read(box) for box in _spots(volume.info))]
    values = np.unique(np.concatenate([np.unique(p) for p in pieces]))
    pairs = [(p[..., :-1] == p[..., 1:], (p[..., :-1] != 0) | (p[..., 1:] != 0)) for p in pieces]
    same, inside = (np.concatenate([p[k].ravel() for p in pairs]) for k in (0, 1))
    flat = float(same[inside].mean()) if inside.sum() > ENOUGH else 0.0
    few = len(values) <= FEW_VALUES and same.mean() > FLAT and inside.any()
    if len(values) > 1 and (flat > FLAT or few):
        raise VolumeError(
            f"{volume.info.url} looks like labels, not like an image: {same.mean():.0%} of neighbouring voxels are "
            f"equal in the places looked at, with {len(values)} different values.",
            advice,
        )


def _spots(info: VolumeInfo) -> Iterator[Box]:
    """Eight small boxes, each in one chunk, at about a quarter and three quarters of each axis."""
    for corner in itertools.product((1, 3), repeat=3):
        sides = zip(info.shape_zyx, info.chunk_zyx, corner, strict=True)
        spans = [((a := n * q // 4 // c * c), min(n, a + min(c, SPOT))) for n, c, q in sides]
        (z, y, x), (z1, y1, x1) = zip(*spans, strict=True)
        yield Box((z, y, x), (z1, y1, x1))


def measure_volume(
    volume: Volume, schemes: tuple[Normalization, ...], emit: Emit = silent
) -> tuple[Normalization, ...]:
    """Fill in the numbers that a scheme takes from the whole volume, by one streaming pass."""
    if not any(s.needs_statistics for s in schemes):
        return schemes
    info = volume.info
    statistics = Statistics(info.n_channels)
    todo = list(blocks(info.shape_zyx, info.chunk_zyx))
    for n, box in enumerate(todo, start=1):
        statistics.add(volume.read(box))
        emit(Event("statistics", "measuring the volume", {"done": n, "total": len(todo)}))
    full = schemes * info.n_channels if len(schemes) == 1 else schemes
    return tuple(statistics.filled(scheme, c) for c, scheme in enumerate(full))
