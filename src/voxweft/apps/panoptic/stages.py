"""The stages of a panoptic job: slices -> tables -> matching -> [consensus] -> objects; arithmetic only.

image       Sweep(slices)      Blocks(tables) Gather(number)  Blocks(paint) Gather(objects)
stack       Sweep(slices)      Blocks(tables) Gather(match)   Blocks(paint) Gather(objects)
match       Blocks(slices)     the same from here
ortho       3 x (Sweep, Blocks(tables), Gather(match)) Blocks(shared) Gather(agree) Blocks(paint) Gather(objects)
consensus   the same from Blocks(shared)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from voxweft.apps.panoptic.codes import ObjectClass
from voxweft.apps.panoptic.options import PLANES, ObjectOptions, SliceOptions, StackOptions, VoteOptions
from voxweft.apps.panoptic.painting import paint_consensus, paint_slices, paint_stack
from voxweft.apps.panoptic.slices import SliceRules, existing_slices, slice_objects
from voxweft.apps.panoptic.tracking import match_slices, number_slices, slice_tables
from voxweft.apps.panoptic.voting import agree, shared_objects
from voxweft.engine.fields import parse_size
from voxweft.engine.op import Op
from voxweft.engine.output import Output, Source
from voxweft.engine.passes import Pass, SliceMap, Slices, Sweep
from voxweft.engine.stage import Blocks, Gather, Stage, level_stages
from voxweft.geometry.box import Box, Zyx
from voxweft.geometry.columns import Columns
from voxweft.geometry.tiling import AxisTiles, TileGrid
from voxweft.image.info import SMALL, OutputSpec, VolumeInfo
from voxweft.image.order import inverse, permute
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import COARSE
from voxweft.model.protocols import ForwardSetting
from voxweft.ops.activate import Finish
from voxweft.ops.matching import Rules
from voxweft.runner.exports import EXPORTS, write_export
from voxweft.runner.objects import object_stages

PAINT = "paint"
INNER: Zyx = (16, 64, 64)  # chunks of what is written on the way
SHARD_YX = 512
TABLE_YX = 1024
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """What all stages of a job share.

    Attributes
    ----------
    info
        The volume whose voxels are labelled.
    classes
        What is told apart.
    slab
        Slices that are written at once, of each plane.
    """

    info: VolumeInfo
    classes: tuple[ObjectClass, ...]
    slab: Mapping[str, int] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        """Of the classes."""
        return [one.number for one in self.classes]

    def listed(self) -> list[dict[str, Any]]:
        """The classes as plain values."""
        return [one.to_json() for one in self.classes]

    def shape(self, plane: str) -> Zyx:
        """Extent of the stack of a plane: slices, rows, columns."""
        return permute(self.info.shape_zyx, PLANES[plane])

    def slices_spec(self, plane: str) -> OutputSpec:
        """The array of coded slices, stored as the volume lies."""
        shape, depth = self.shape(plane), self.slab[plane]
        chunk = tuple(min(c, _up(n, 16)) for c, n in zip((min(INNER[0], depth), *INNER[1:]), shape, strict=True))
        sides = [min(SHARD_YX, _up(n, c)) for n, c in zip(shape[1:], chunk[1:], strict=True)]
        return OutputSpec(
            shape_zyx=shape,
            n_channels=1,
            dtype="uint32",
            chunk_zyx=(min(chunk[0], depth), chunk[1], chunk[2]),
            shard_zyx=(depth, sides[0], sides[1]),
            compressor="lz4",
            compression_level=1,
            pyramid="none",
            geometry=self.info.geometry.permuted(PLANES[plane]),
            order=inverse(PLANES[plane]),
            is_label=True,
        )

    def object_spec(self, options: ObjectOptions) -> OutputSpec:
        """The array of objects."""
        shape = self.info.shape_zyx
        asked = parse_size(options.chunk) or INNER
        z, y, x = (min(c, _up(n, 16)) for c, n in zip(asked, shape, strict=True))
        return OutputSpec(
            shape_zyx=shape,
            n_channels=1,
            dtype="uint32",
            chunk_zyx=(z, y, x),
            shard_zyx=(z, y, x),
            compressor=options.compressor,
            compression_level=options.compression_level,
            pyramid="nearest" if options.pyramid else "none",
            geometry=self.info.geometry,
            is_label=True,
            smallest=SMALL,
            by_size=True,
        )


def sweep_stage(
    frame: Frame, plane: str, source: tuple[str, VolumeInfo], card: ModelCard, how: tuple[SliceOptions, str]
) -> Sweep:
    """The slices of a plane through the network.

    ``source``: name and description of the volume as it is swept, slices first and made smaller. ``how``: the options,
    and the kind of device.
    """
    options, device = how
    name, seen = source
    rules = rules_of(options, frame.classes)
    n_semantic = card.all_heads[0].n_channels
    down = 1 if options.fine_boundaries else COARSE
    empty = (-20.0,) if n_semantic == 1 else (20.0, *(0.0,) * (n_semantic - 1))
    maps = (
        SliceMap(card.all_heads[0].name, n_semantic, up=options.image_downsampling, background=empty),
        SliceMap(card.all_heads[1].name, 1, down=down),
        SliceMap(card.all_heads[2].name, 2, down=down, background=(0.0, 0.0)),
    )
    spec = frame.slices_spec(plane)
    grid = slice_grid(seen.shape_zyx, card.divisor_zyx[1], options.tile_yx, options.shared)
    shape = spec.shape_zyx
    column = tuple(_up(n, s) for n, s in zip(shape[1:], spec.shard_zyx[1:], strict=True))
    shown = Finish("multiclass", "labels", max(2, n_semantic), "softmax")
    return Sweep(
        name=_named("slices", plane, frame),
        source=name,
        info=seen,
        passes=(Pass(0, grid, ForwardSetting("torch", device, "fp32", 1, grid.patch), card.normalization),),
        window="gaussian",
        sigma_scale=8.0,
        finish=shown,
        outputs=(Output(_named("slices", plane, frame).replace("-", "_"), spec),),
        region=Box.of(shape),
        columns=Columns(shape, Box.of(shape), (column[0], column[1]), spec.shard_zyx[0]),
        plane_block=max(1, min(seen.chunk_zyx[0], spec.shard_zyx[0])),
        slices=Slices(
            Op.of(slice_objects, **asdict(rules)),
            maps,
            context=rules.median // 2,
            from_first=rules.mode == "recursive" and rules.median > 1,
        ),
    )


def rules_of(options: SliceOptions, classes: Sequence[ObjectClass]) -> SliceRules:
    """How maps become objects, from the options and the classes that are told apart."""
    median, mode = (options.median_filter_size, options.median) if isinstance(options, StackOptions) else (1, "plain")
    return SliceRules(
        things=tuple(one.number for one in classes if one.is_thing),
        confidence=options.segmentation_confidence_threshold,
        centre=options.center_confidence_threshold,
        distance=options.centers_min_distance,
        median=median,
        mode="recursive" if mode == "recursive" else "plain",
        stuff_area=options.stuff_area,
        scale=options.image_downsampling,
        fine=options.fine_boundaries,
        holes=options.fill_holes,
    )


def slice_grid(shape: Zyx, divisor: int, tile_yx: tuple[int, int] | None, overlap: float) -> TileGrid:
    """The patches of slices: whole ones, or tiles that begin where the maps have pixels too.

    >>> slice_grid((5, 700, 900), 32, None, 0.25).patch, slice_grid((5, 700, 900), 32, (256, 256), 0.25).axes[1].starts
    ((1, 704, 928), (0, 192, 384, 448))
    """
    unit = math.lcm(divisor, COARSE)
    axes = [AxisTiles(shape[0], 1, 1, "snap")]
    for n, tile in zip(shape[1:], tile_yx or shape[1:], strict=True):
        extent = _up(n, unit)
        size = min(extent, _up(tile, unit))
        step = min(size, max(unit, int(size * (1 - overlap)) // unit * unit))
        axes.append(AxisTiles(extent, size, step, "snap"))
    return TileGrid((axes[0], axes[1], axes[2]))


def existing_stage(frame: Frame, plane: str, source: tuple[str, VolumeInfo], divisor: int, split: bool) -> Blocks:
    """Slices of labels that exist, as codes."""
    spec, shape = frame.slices_spec(plane), frame.shape(plane)
    block = (spec.shard_zyx[0], *(_up(n, s) for n, s in zip(shape[1:], spec.shard_zyx[1:], strict=True)))
    return Blocks(
        name="slices",
        op=Op.of(existing_slices, divisor=divisor, things=frame.numbers, split=split),
        sources=(Source(source[0], order=PLANES[plane]),),
        outputs=(Output("slices", spec),),
        shape_zyx=shape,
        region=Box.of(shape),
        block_zyx=block,  # type: ignore[arg-type]
        noun="slabs",
    )


def matching_stages(
    frame: Frame, plane: str, options: StackOptions | None, divisor: int = 0, *, sure: bool = True
) -> list[Stage]:
    """Tables of the slices of a plane, and their objects: of the whole stack, or without options of each slice."""
    slices, tables, match = (_named(name, plane, frame) for name in ("slices", "tables", "match"))
    shape = frame.shape(plane)
    reach = (options.max_gap if options else 0) + 1
    depth = frame.slab[plane]
    block = (depth, *(min(TABLE_YX, n) for n in shape[1:]))
    common: dict[str, Any] = {
        "tables": tables,
        "slices": slices if sure else "",
        "n_slices": shape[0],
        "classes": frame.listed(),
    }
    if options is None:
        op = Op.of(number_slices, divisor=divisor, **common)
    else:
        rules = asdict(Rules(options.merge_iou, options.merge_ioa, options.max_gap, options.max_iou_jump))
        op = Op.of(match_slices, rules=rules, min_size=options.min_size, min_extent=options.min_extent, **common)
    return [
        Blocks(
            name=tables,
            op=Op.of(slice_tables, reach=reach),
            sources=(Source(slices, halo_zyx=(reach, 0, 0)),),
            outputs=(),
            shape_zyx=shape,
            region=Box.of(shape),
            block_zyx=block,  # type: ignore[arg-type]
            at_once=AT_ONCE,
            needs=(slices,),
        ),
        Gather(match, op, (slices, tables)),
    ]


def stack_stages(frame: Frame, plane: str, options: ObjectOptions, how: StackOptions, divisor: int) -> list[Stage]:
    """The objects of one stack."""
    stacks = {"orders": [inverse(PLANES[plane])], "matched": ["match"], "classes": frame.numbers}
    op = Op.of(paint_stack, stacks=stacks, divisor=divisor, change=[how.erode_labels, how.dilate_labels])
    halo = 1 + how.erode_labels + how.dilate_labels
    source = Source("slices", halo_zyx=_around(halo), order=inverse(PLANES[plane]))
    return _painted(frame, options, op, (source,), ("slices", "match"), "match")


def slice_stages(frame: Frame, plane: str, options: ObjectOptions) -> list[Stage]:
    """The objects of slices by themselves."""
    op = Op.of(paint_slices, order=inverse(PLANES[plane]), matched="match", classes=frame.numbers)
    source = Source("slices", halo_zyx=_around(1), order=inverse(PLANES[plane]))
    return _painted(frame, options, op, (source,), ("slices", "match"), "match", one_array=True)


def consensus_stages(
    frame: Frame,
    options: ObjectOptions,
    how: tuple[StackOptions, VoteOptions],
    stacks: Sequence[tuple[str, str]],
    divisor: tuple[int, int],
) -> list[Stage]:
    """The objects on which stacks agree.

    ``stacks``: a plane and the name of its slices; of stacks that exist "" and the name of the input. ``divisor``: of
    the result, and of stacks that exist.
    """
    stack_options, votes = how
    orders = [inverse(PLANES[plane]) if plane else (0, 1, 2) for plane, _ in stacks]
    matched = [f"match-{plane}" if plane else "" for plane, _ in stacks]
    needs = tuple(name for plane, name in stacks if plane) + tuple(name for name in matched if name)
    tables = tuple(name for name in matched if name)
    common = {"orders": orders, "matched": matched, "classes": frame.numbers, "divisor": divisor[1]}
    spec, shape = frame.object_spec(options), frame.info.shape_zyx
    sources = tuple(Source(name, order=order) for (_, name), order in zip(stacks, orders, strict=True))
    rules = {
        "voxel": votes.voxel_vote_threshold,
        "cluster_iou": votes.cluster_iou,
        "one_view": votes.permit_detections_in_1_stack,
    }
    change = [stack_options.erode_labels, stack_options.dilate_labels]
    op = Op.of(paint_consensus, stacks=common, agreed="agree", divisor=divisor[0], change=change)
    halo = _around(1 + stack_options.erode_labels + stack_options.dilate_labels)
    return [
        Blocks(
            name="shared",
            op=Op.of(shared_objects, stacks=common),
            sources=sources,
            outputs=(),
            shape_zyx=shape,
            region=Box.of(shape),
            block_zyx=spec.chunk_zyx,
            at_once=AT_ONCE,
            needs=needs,
            tables=tables,
        ),
        Gather(
            "agree",
            Op.of(
                agree,
                shared="shared",
                matched=matched,
                n_stacks=len(stacks),
                classes=frame.listed(),
                votes=rules,
                min_size=stack_options.min_size,
                min_extent=stack_options.min_extent,
            ),
            ("shared", *needs),
        ),
        *_painted(
            frame,
            options,
            op,
            tuple(replace(source, halo_zyx=halo) for source in sources),
            (*needs, "agree"),
            "agree",
            tables=(*tables, "agree"),
        ),
    ]


def plane_stage(frame: Frame, plane: str, options: ObjectOptions, divisor: int) -> Blocks:
    """The objects of one of several planes, beside the result."""
    spec = replace(frame.object_spec(options), pyramid="none")
    slices, match = _named("slices", plane, frame), _named("match", plane, frame)
    stacks = {"orders": [inverse(PLANES[plane])], "matched": [match], "classes": frame.numbers}
    op = Op.of(paint_stack, stacks=stacks, divisor=divisor, change=[0, 0], only_one=True)
    return Blocks(
        name=f"paint-{plane}",
        op=op,
        sources=(Source(slices, halo_zyx=_around(1), order=inverse(PLANES[plane])),),
        outputs=(Output(plane, spec),),
        shape_zyx=spec.shape_zyx,
        region=Box.of(spec.shape_zyx),
        block_zyx=spec.shard_zyx,
        at_once=AT_ONCE,
        needs=(slices, match),
        tables=(match,),
    )


def _painted(
    frame: Frame,
    options: ObjectOptions,
    op: Op,
    sources: tuple[Source, ...],
    needs: tuple[str, ...],
    sure: str,
    *,
    one_array: bool = False,
    tables: tuple[str, ...] = (),
) -> list[Stage]:
    """The pass that writes objects, their table, and the resolution levels of the result."""
    spec = frame.object_spec(options)
    several = len(frame.classes) > 1 and not one_array
    main = Output(spec=spec)
    beside = [Output(one.name.replace(" ", "_"), replace(spec, pyramid="none")) for one in frame.classes]
    paint = Blocks(
        name=PAINT,
        op=op,
        sources=sources,
        outputs=(main, *beside) if several else (main,),
        shape_zyx=spec.shape_zyx,
        region=Box.of(spec.shape_zyx),
        block_zyx=spec.shard_zyx,
        at_once=AT_ONCE,
        needs=needs,
        tables=tables or tuple(name for name in needs if name.startswith("match")),
    )
    place = frame.info.geometry
    named = {one.number: one.name for one in frame.classes}
    stages: list[Stage] = [paint, *object_stages(PAINT, place, spec.shape_zyx, named, sure)]
    for name, file in EXPORTS.items():  # where they are asked for, perhaps by a later call
        export = Op.of(write_export, source=PAINT, voxel_size_zyx=list(place.voxel_size_zyx), unit=place.unit)
        stages.append(Gather(name, export, (PAINT,), (Output(file),)))
    return [*stages, *level_stages(main, Box.of(spec.shape_zyx), PAINT)]


def normalization_for(
    card: ModelCard, dtype_range: tuple[float, float], grey: tuple[float, float] | None
) -> Normalization:
    """What the network's mean and spread are for an image: fractions of its largest value, or of a range of grey."""
    own = card.normalization[0]
    if own.mean is None or own.std is None:
        return own
    low, high = grey or dtype_range
    width = high - low
    mean, std = low + own.mean * width, own.std * width
    return Normalization("ct", mean, std, low, high) if grey else Normalization("global_zscore", mean, std)


def _named(stage: str, plane: str, frame: Frame) -> str:
    return stage if len(frame.slab) == 1 else f"{stage}-{plane}"


def _around(n: int) -> Zyx:
    return (n, n, n)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
