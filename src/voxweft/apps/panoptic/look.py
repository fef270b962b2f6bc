"""What is looked at before a job is planned: the image, its grey values and voxel size, and what suits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from voxweft.apps.panoptic.codes import ObjectClass
from voxweft.apps.panoptic.options import PLANES, ExistingOptions, ImageOptions, SliceOptions, StackOptions
from voxweft.apps.panoptic.stages import Frame, slice_grid
from voxweft.engine.budget import Budget
from voxweft.engine.masking import mask_scale
from voxweft.errors import ModelError, RequestError, VolumeError
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.regrid import Regrid
from voxweft.image.info import VolumeInfo
from voxweft.image.order import permute
from voxweft.image.protocols import Volume
from voxweft.image.resampled import Resample
from voxweft.image.units import METERS
from voxweft.image.views import Crop, Permute
from voxweft.model.card import ModelCard
from voxweft.stores import open_volume

PIXEL_BYTES = 1500  # of a slice in a network, about
SMALLEST_TILE, TILE = 512 * 512, 2048
SLABS = (64, 32, 16, 8, 4, 2, 1)
SHARE = 8  # of the memory that one slab may take
ISOTROPIC = 1.5
DIM = 0.1  # of the dtype's range: images that use less are not what a network expects


def open_image(source: Any, options: ImageOptions) -> Volume:
    """The grey values, or the box of them that is wanted.

    Raises
    ------
    VolumeError
        If it is no image of grey values.
    """
    flat = isinstance(source, np.ndarray) and source.ndim == 2
    volume = open_volume(source[None] if flat else source, level=options.level)
    info = volume.info
    if info.n_channels != 1:
        raise VolumeError(f"{info.url} has {info.n_channels} channels; a panoptic network takes one, grey values")
    if not min(info.shape_zyx):
        raise VolumeError(f"{info.url} is empty: its shape is {info.shape_zyx}")
    if np.dtype(info.dtype).kind not in "iuf":
        raise VolumeError(f"{info.url} holds {info.dtype} values; grey values are integers or floats")
    return Crop(Box.parse(options.roi, info.shape_zyx)).of(volume) if options.roi else volume


def open_labels(source: Any, options: ExistingOptions) -> Volume:
    """A stack of labels that exists."""
    volume = open_volume(source, level=options.level)
    info = volume.info
    if np.dtype(info.dtype).kind not in "iu":
        raise VolumeError(f"{info.url} holds {info.dtype} values; labels are integers")
    if info.n_channels != 1 or not min(info.shape_zyx):
        raise VolumeError(f"{info.url} has {info.n_channels} channel(s) of {info.shape_zyx} voxels; give one of labels")
    return volume


def open_mask(options: ImageOptions, base: Volume, plane: str) -> Volume:
    """The mask of a plane, on the grid of the result or coarser by a whole factor."""
    mask: Volume = open_volume(options.mask)
    if options.roi:
        whole = tuple(mask.info.shape_zyx)
        box = Box.parse(options.roi, whole)  # type: ignore[arg-type]
        if box.shape != base.info.shape_zyx:
            raise RequestError(
                f"--mask {options.mask} has {whole} voxels; with --roi it must be as large as the volume"
            )
        mask = Crop(box).of(mask)
    mask_scale(mask.info, base.info.shape_zyx)
    return Permute(PLANES[plane]).of(mask)


def as_swept(base: Volume, plane: str, scale: int) -> Volume:
    """Slices first, and made smaller."""
    seen = Permute(PLANES[plane]).of(base) if plane != "xy" else base
    if scale == 1:
        return seen
    n, height, width = seen.info.shape_zyx
    smaller: Zyx = (n, -(-height // scale), -(-width // scale))
    return Resample(Regrid.of(seen.info.shape_zyx, smaller, 1), dtype=seen.info.dtype).of(seen)


def frame_of(info: VolumeInfo, classes: tuple[ObjectClass, ...], planes: Sequence[str], budget: Budget) -> Frame:
    """What all stages share: the volume, its classes, and how many slices are written at once."""
    if not classes:
        raise ModelError("the model names no classes beside the background")
    slabs = {}
    for plane in planes:
        n, height, width = permute(info.shape_zyx, PLANES[plane])
        wanted = budget.host_bytes // SHARE // (4 * height * width)
        slabs[plane] = next((d for d in SLABS if d <= max(1, wanted) and d < 2 * n), 1)
    return Frame(info, classes, slabs)


def planes_at_once(info: VolumeInfo, plane: str, wanted: int, budget: Budget) -> int:
    """Slices that are read at once: a layer of chunks, so that each is decoded once, where there is memory for it."""
    depth = permute(info.chunk_zyx, PLANES[plane])[0]
    _, height, width = permute(info.shape_zyx, PLANES[plane])
    most = max(1, budget.host_bytes // SHARE // (np.dtype(info.dtype).itemsize * height * width))
    return min(depth if depth > 1 else wanted, most)


def tiled(options: SliceOptions, seen: VolumeInfo, card: ModelCard, budget: Budget) -> tuple[Any, list[str]]:
    """The options with a tile where a slice is too large for the network at once, and a word about it."""
    _, height, width = seen.shape_zyx
    limit = max(SMALLEST_TILE, budget.device_bytes // PIXEL_BYTES)
    if options.tile_yx or height * width <= limit:
        return options, []
    side = TILE
    while side * side > limit:
        side //= 2
    grid = slice_grid(seen.shape_zyx, card.divisor_zyx[1], (side, side), options.shared)
    note = f"slices of {height} x {width} pixels are tiled: {grid.axes[1].count} x {grid.axes[2].count} of {side}"
    return replace(options, patch_size=f"{side},{side}"), [note]


def median_for(options: SliceOptions, divided: bool, info: VolumeInfo, planes: Sequence[str]) -> tuple[str, list[str]]:
    """Which median, and what to note of the slices."""
    if not isinstance(options, StackOptions):
        return "plain", []
    notes, size = [], options.median_filter_size
    mode = options.median
    if mode == "auto":
        mode = "plain" if divided else "recursive"
    if divided and size > 1:
        why = "the same in any division" if mode == "plain" else "each part begins with the first slice, which costs"
        notes.append(f"the median of {size} slices is {mode}: {why}")
    sizes, unit = info.geometry.voxel_size_zyx, info.geometry.unit
    nm = METERS[unit] / METERS["nanometer"] if unit in METERS else None
    for plane in planes:
        n = permute(info.shape_zyx, PLANES[plane])[0]
        step = permute(sizes, PLANES[plane])[0] * nm if nm else 0.0
        if n < size:
            notes.append(f"{plane}: {n} slices are fewer than the median of {size} takes; they stay as they are")
        if step > 20 and size > 3:
            notes.append(f"{plane}: slices are {step:g} nm apart; a median of {size} is wide for that, 3 is usual")
        if 0 < step < 10 and size < 7:
            notes.append(f"{plane}: slices are {step:g} nm apart; a median of 7 or 9 is usual there")
    if len(planes) > 1 and max(sizes) / min(sizes) > ISOTROPIC:
        notes.append(
            f"voxels are {max(sizes) / min(sizes):.1f} times as long as wide: slices of xz and yz will look unlike "
            "those of xy, and stack may do better than ortho"
        )
    return mode, notes


def grey_range(
    info: VolumeInfo, samples: np.ndarray[Any, Any], options: ImageOptions
) -> tuple[tuple[float, float], list[str]]:
    """Black and white of an image: 0 and the largest value of its dtype, and a word where it uses little of that."""
    dtype = np.dtype(info.dtype)
    finite = samples[np.isfinite(samples)] if dtype.kind == "f" else samples
    top, bottom = (float(finite.max(initial=0)), float(finite.min(initial=0))) if finite.size else (0.0, 0.0)
    if dtype.kind == "f":
        white = 1.0 if top <= 1 else 255.0
        found = [f"float values are taken as 0 to {white:g}; --intensity-range says otherwise"]
    else:
        white, found = float(np.iinfo(dtype).max), []
    if options.grey:
        return (0.0, white), []
    if bottom < 0 or top > white or top < DIM * white:
        found = [
            f"grey values are {bottom:g} to {top:g} where looked at, of {dtype.name} up to {white:g}: the network "
            f"expects most of the range, and may find nothing. Give --intensity-range {bottom:g},{top:g}"
        ]
    return (0.0, white), found
