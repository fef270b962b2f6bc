"""What may be asked of panoptic segmentation, under the names of empanada's windows and of its engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from voxweft.engine.fields import Options, like, option, parse_bytes, size_problems, unknown
from voxweft.engine.options import RegionOptions, RuntimeOptions, StorageOptions
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.order import Order
from voxweft.ops.median import require_odd

PLANES: dict[str, Order] = {"xy": (0, 1, 2), "xz": (1, 0, 2), "yz": (2, 0, 1)}
"""The axes of the volume in the order of a stack of such slices."""
SCALES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class ImageOptions(Options):
    """What is read."""

    title: ClassVar[str] = "Image"

    level: int = like(RegionOptions, "level")
    roi: str = option("", "Only this box of the volume, z0:z1,y0:y1,x0:x1; the result is as large as it.")
    mask: str = option("", "Volume that says where objects may be: not 0.")
    intensity_range: str = option("", "Grey values LOW,HIGH that are taken as black and white; default: the dtype's.")
    accept_labels: bool = option(False, "Run on a volume that looks like labels, not like an image.", decides=False)

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = []
        if self.roi:
            try:
                Box.parse(self.roi, (1 << 40,) * 3)
            except RequestError as error:
                found.append(str(error).replace("--bbox", "--roi"))
        if self.intensity_range and self.grey is None:
            found.append(f"--intensity-range {self.intensity_range!r} is no range; write LOW,HIGH, for example 0,4095")
        return found

    @property
    def grey(self) -> tuple[float, float] | None:
        """The grey values of black and white; None for those of the dtype."""
        try:
            low, high = (float(part) for part in self.intensity_range.split(","))
        except ValueError:
            return None
        return (low, high) if low < high and high - low < float("inf") else None


@dataclass(frozen=True)
class SliceOptions(Options):
    """How slices become objects."""

    title: ClassVar[str] = "Slices"

    image_downsampling: int = option(1, "Make images smaller by 1, 2, 4 ... 64 first.", also=("--inference-scale",))
    segmentation_confidence_threshold: float = option(
        0.5,
        "Least probability of an object's pixel.",
        also=("--segmentation-confidence-thr", "--confidence-thr"),
    )
    center_confidence_threshold: float = option(
        0.1,
        "Least value of an object's centre.",
        also=("--center-confidence-thr", "--nms-threshold"),
    )
    centers_min_distance: int = option(
        3,
        "Side of a centre's neighbourhood, in pixels of the centre map (4 of the image).",
        also=("--nms-kernel",),
    )
    fine_boundaries: bool = option(False, "Find and group at full resolution: finer borders, more memory.")
    semantic_only: bool = option(False, "Do not tell objects apart.")
    fill_holes: bool = option(False, "Fill holes of objects, slice by slice.", also=("--fill-holes-in-segmentation",))
    max_objects_per_class: int = option(
        10000,
        "A class is this times its number; 0: numbers begin with 1. Widened where it is too small.",
        also=("--label-divisor",),
    )
    stuff_area: int = option(64, "Least pixels of a class without objects in a slice.")
    use_quantized: bool = option(False, "Take the 8-bit twin of the network (CPU only).")
    patch_size: str = option("", "Tile of a slice y,x that is blended; default: the slice, unless that is too large.")
    overlap: float = option(0.25, "Overlap of tiles, a fraction 0 <= o < 1.")
    tile_size: int = option(0, "Square tiles that overlap by a tenth, 128 pixels at most, as empanada lays them.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = [f"--image-downsampling {self.image_downsampling}: use one of {', '.join(map(str, SCALES))}"]
        found = [] if self.image_downsampling in SCALES else found
        for name in ("segmentation_confidence_threshold", "center_confidence_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)} is not 0 to 1")
        if self.centers_min_distance < 1:
            found.append(f"--centers-min-distance {self.centers_min_distance}: use 1 or more pixels")
        for name in ("max_objects_per_class", "stuff_area"):
            if getattr(self, name) < 0:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)} is negative")
        if not 0 <= self.overlap < 1:
            found.append(f"--overlap {self.overlap} is not a fraction; use 0 <= overlap < 1, for example 0.25")
        if self.tile_size < 0 or (self.tile_size and self.patch_size):
            found.append(f"--tile-size {self.tile_size}: give pixels, and --patch-size or this, not both")
        return found + size_problems("patch_size", f"1,{self.patch_size}" if self.patch_size else "")

    @property
    def tile_yx(self) -> tuple[int, int] | None:
        """The tile that was asked for."""
        if self.tile_size:
            return self.tile_size, self.tile_size
        if not self.patch_size:
            return None
        numbers = [int(part) for part in self.patch_size.split(",")]
        return numbers[-2] if numbers[1:] else numbers[0], numbers[-1]

    @property
    def shared(self) -> float:
        """The share of a tile that the next one covers too."""
        return min(128, self.tile_size // 10) / self.tile_size if self.tile_size else self.overlap


@dataclass(frozen=True)
class StackOptions(Options):
    """How slices become objects of a stack."""

    title: ClassVar[str] = "Stack"

    median_filter_size: int = option(3, "Slices of the median, an odd number.", also=("--median-kernel-size",))
    median: str = option("auto", "recursive (as empanada), plain (the same in parts), auto: plain where divided.")
    min_size: int = option(
        500,
        "Least voxels of an object.",
    )
    min_extent: int = option(
        5, "Least voxels of an object's box on each axis.", also=("--min-box-extent", "--min-span")
    )
    merge_iou: float = option(
        0.25, "Least intersection over union of slices of one object.", also=("--merge-iou-thr", "--iou-thr")
    )
    merge_ioa: float = option(
        0.25, "Least share of a piece that lies within an object.", also=("--merge-ioa-thr", "--ioa-thr")
    )
    max_gap: int = option(0, "Slices that an object may be missing in.")
    max_iou_jump: float = option(0.0, "Part what one slice fuses: the largest fall of the overlap; 0: off.")
    erode_labels: int = option(0, "Voxels taken off every object.", also=("--label-erosion",))
    dilate_labels: int = option(0, "Voxels added to every object.", also=("--label-dilation",))

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = unknown(self, median=("auto", "recursive", "plain"))
        try:
            require_odd(self.median_filter_size)
        except RequestError as error:
            found.append(str(error))
        for name in ("min_size", "min_extent", "max_gap", "erode_labels", "dilate_labels"):
            if getattr(self, name) < 0:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)} is negative")
        for name in ("merge_iou", "merge_ioa", "max_iou_jump"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)} is not 0 to 1")
        return found


@dataclass(frozen=True)
class PlaneOptions(Options):
    """Which slices."""

    title: ClassVar[str] = "Stack"

    plane: str = option("xy", "Slices are xy, xz or yz.", also=("--inference-plane", "--axis-name"))

    def problems(self) -> list[str]:
        """What is wrong with it."""
        return unknown(self, plane=tuple(PLANES))


@dataclass(frozen=True)
class VoteOptions(Options):
    """When stacks agree."""

    title: ClassVar[str] = "Consensus"

    voxel_vote_threshold: int = option(
        2,
        "Stacks that must have a voxel, 1 to 3.",
        also=("--voxel-vote-thr", "--pixel-vote-thr"),
    )
    permit_detections_in_1_stack: bool = option(
        False,
        "Keep objects that one stack alone has found.",
        also=("--allow-one-view", "--one-view", "--bypass"),
    )
    cluster_iou: float = option(0.75, "Overlap above which objects surely are one.", also=("--cluster-iou-thr",))

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = []
        if not 1 <= self.voxel_vote_threshold <= 3:
            found.append(f"--voxel-vote-threshold {self.voxel_vote_threshold} is not 1, 2 or 3")
        if not 0 <= self.cluster_iou <= 1:
            found.append(f"--cluster-iou-thr {self.cluster_iou} is not 0 to 1")
        return found


@dataclass(frozen=True)
class ObjectOptions(Options):
    """What is written."""

    title: ClassVar[str] = "Storage"

    return_stacks: bool = option(
        False,
        "Write the objects of each plane too, beside the result.",
        also=("--save-panoptic", "--return-xy-xz-yz-stacks"),
    )
    tiff: bool = option(False, "Write the result as OUTPUT_labels.tif too.", decides=False)
    precomputed: bool = option(False, "Write OUTPUT_precomputed too, as neuroglancer reads it.", decides=False)
    chunk: str = like(StorageOptions, "chunk", default="64,256,256", also=("--chunk-size",))
    compressor: str = like(StorageOptions, "compressor")
    compression_level: int = like(StorageOptions, "compression_level", default=1)
    pyramid: bool = like(StorageOptions, "pyramid")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        return unknown(self, compressor=("zstd", "lz4", "zlib", "none")) + size_problems("chunk", self.chunk)


@dataclass(frozen=True)
class MachineOptions(Options):
    """What it runs on."""

    title: ClassVar[str] = "Runtime"

    device: str = like(RuntimeOptions, "device")
    memory: str = like(RuntimeOptions, "memory")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        if self.memory and parse_bytes(self.memory) is None:
            return [f"--memory {self.memory!r} is no amount; write for example 8GB or 500MB"]
        return []


@dataclass(frozen=True)
class ExistingOptions(Options):
    """Labels that exist."""

    title: ClassVar[str] = "Labels"

    level: int = like(RegionOptions, "level")
    max_objects_per_class: int = option(
        0,
        "Labels are class x this + number; 0: they are numbers of one class.",
        also=("--label-divisor",),
    )
    classes: str = option("", "Names of classes 1, 2 and so on, for example mito,er; others are left out.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        wrong = self.max_objects_per_class < 0
        found = [f"--max-objects-per-class {self.max_objects_per_class} is negative"] if wrong else []
        if len(self.names) > 1 and not self.max_objects_per_class:
            found.append(f"--classes {self.classes} needs --max-objects-per-class, which tells their labels apart")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(name.strip() for name in self.classes.split(",") if name.strip()) or ("object",)


@dataclass(frozen=True)
class PieceOptions(Options):
    """Pieces of labels."""

    title: ClassVar[str] = "Labels"

    split: bool = option(True, "A label of several pieces in a slice is several objects there, as in empanada.")


@dataclass(frozen=True)
class ImageJob(MachineOptions, ObjectOptions, PlaneOptions, SliceOptions, ImageOptions):
    """Slices by themselves."""


@dataclass(frozen=True)
class StackJob(MachineOptions, ObjectOptions, PlaneOptions, StackOptions, SliceOptions, ImageOptions):
    """Objects of a stack of slices."""


@dataclass(frozen=True)
class OrthoJob(MachineOptions, ObjectOptions, VoteOptions, StackOptions, SliceOptions, ImageOptions):
    """Objects on which the stacks of three planes agree."""


@dataclass(frozen=True)
class MatchJob(MachineOptions, ObjectOptions, PlaneOptions, StackOptions, PieceOptions, ExistingOptions):
    """Objects of a stack of labels that exist."""


@dataclass(frozen=True)
class ConsensusJob(MachineOptions, ObjectOptions, VoteOptions, StackOptions, ExistingOptions):
    """Objects on which stacks that exist agree."""
