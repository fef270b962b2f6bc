"""What a user may ask of a run, in groups; the command line is made from these fields. Sizes are in voxels, z,y,x.

    TilingOptions    where patches lie, how they are blended
    ModelOptions     how the network sees them, how often
    RegionOptions    which voxels
    ResultOptions    what becomes of the logits
    StorageOptions   how the result is stored
    RuntimeOptions   how, and with what, the network is run
    EffortOptions    whether something cheaper may be taken

:class:`RunOptions` has all of them. A front end joins the groups that it needs, or takes a field under another name or
with another default by :func:`~voxweft.engine.fields.like`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from voxweft.engine.fields import (
    Options,
    decisive,
    defaults_of,
    option,
    parse_bytes,
    parse_duration,
    size_problems,
    unknown,
)
from voxweft.engine.separate import NORMALS
from voxweft.engine.uncertain import MEASURES
from voxweft.errors import RequestError
from voxweft.geometry.tiling import FITS
from voxweft.geometry.window import WINDOWS
from voxweft.image.axes import Select
from voxweft.image.order import AS_IT_IS, Order
from voxweft.image.words import Words
from voxweft.model.card import SCHEMES
from voxweft.ops.augment import TURNS

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class TilingOptions(Options):
    """Where patches lie, and how they are blended."""

    title: ClassVar[str] = "Patches"

    overlap: float = option(0.5, "Overlap of neighbouring patches, a fraction 0 <= o < 1.")
    window: str = option("gaussian", "Blend weights of a patch: gaussian, gaussian-centred, hann or uniform.")
    sigma_scale: float = option(8.0, "The Gaussian's sigma is patch / this.")
    fit: str = option("spread", "Patch positions: spread (nnU-Net, evenly) or snap (fixed step, last moved in).")
    patch_size: str = option("", "Patch z,y,x in voxels; default: the model's.")
    patch_stride: str = option("", "Voxels z,y,x between patches, in place of --overlap.")
    skip_empty: bool = option(True, "Skip patches whose voxels are all equal; they become background.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, window=tuple(WINDOWS), fit=FITS)
        if not 0 <= self.overlap < 1:
            problems.append(f"--overlap {self.overlap} is not a fraction; use 0 <= overlap < 1, for example 0.5")
        if not 0 < self.sigma_scale < math.inf:
            problems.append(f"--sigma-scale {self.sigma_scale} is no positive number; 8 is usual")
        problems += size_problems("patch_size", self.patch_size)
        return problems + size_problems("patch_stride", self.patch_stride)


@dataclass(frozen=True)
class ModelOptions(Options):
    """How the network sees patches, and how often."""

    title: ClassVar[str] = "Network"

    normalization: str = option(
        "auto",
        f"auto (the model's), {', '.join(SCHEMES)}.",
    )
    tta: str = option(
        "none", "Test-time augmentation: none, mirroring (up to 8 passes), rotation (3) or turns:N (N of 8)."
    )
    tta_of: str = option(
        "patch", "What is augmented: patch (each by itself), or volume (as if all of it were mirrored)."
    )
    resample: bool = option(False, "Run at the voxel size of the training; the result is on the volume's own grid.")
    weights: str = option("", "Weights of the models of an ensemble, for example 2,1; default: equal.")
    targets: str = option("", "Of a model with several targets the wanted ones, for example ink,surface; default: all.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        turns = [f"turns:{n}" for n in range(1, len(TURNS) + 1)]
        problems = unknown(self, tta=("none", "mirroring", "rotation", *turns), tta_of=("patch", "volume"))
        if self.tta == "rotation" and self.tta_of == "volume":
            problems.append(
                "--tta rotation with --tta-of volume: only mirroring and turns are possible for the whole volume"
            )
        if _weights(self.weights) is None:
            problems.append(f"--weights {self.weights!r} are no weights; write positive numbers, for example 2,1")
        return problems

    def weight_of(self, model: int) -> float:
        """Weight of a model of an ensemble.

        Raises
        ------
        RequestError
            If weights were given, but not for this one.
        """
        weights = _weights(self.weights) or ()
        if weights and model >= len(weights):
            raise RequestError(f"--weights {self.weights} has {len(weights)} weights, and there are more models")
        return weights[model] if weights else 1.0


@dataclass(frozen=True)
class RegionOptions(Options):
    """Which voxels."""

    title: ClassVar[str] = "Region"

    bbox: str = option("", "Only this box of the volume, z0:z1,y0:y1,x0:x1; the patches stay where they were.")
    mask: str = option("", "Second volume, same size or smaller by a whole factor; background where it is 0.")
    sparse: bool = option(False, "Visit only what --mask touches: time and memory follow it, not the volume.")
    level: int = option(0, "Resolution level of a multi-scale input; 0 is the finest.")
    channel: int = option(-1, "Channel of an input with several, from 0; -1: all of them.")
    time: int = option(-1, "Time point of an input with several, from 0; -1: there is one.")
    series: int = option(-1, "Image of an input file with several, from 0; -1: there is one.")
    accept_labels: bool = option(False, "Run although the input looks like labels, not like an image.")

    @property
    def select(self) -> Select:
        """What of the input is meant."""
        return Select.of(self.channel, self.time, self.series)


@dataclass(frozen=True)
class ResultOptions(Options):
    """What becomes of the logits."""

    title: ClassVar[str] = "Result"
    outputs: ClassVar[tuple[str, ...]] = ("probability", "mask", "labels", "logits")

    mode: str = option("auto", "binary or multiclass; auto: binary up to two classes.")
    output: str = option("probability", "probability (uint8, floor(255 p)), mask (0/255), labels or logits (float32).")
    threshold: float = option(0.5, "Probability above which a voxel is foreground, for mask and labels.")
    normals: str = option("int8", "How unit normals are stored, where a model gives them: int8 (times 127) or float16.")
    uncertainty: str = option(
        "", "entropy (of the blended probability) or variance (over views, folds, models), in OUTPUT_uncertainty.zarr."
    )

    def problems(self) -> list[str]:
        """What is wrong with them."""
        modes = ("auto", "binary", "multiclass")
        problems = unknown(self, mode=modes, output=self.outputs, normals=tuple(NORMALS))
        if self.uncertainty not in ("", *MEASURES):
            problems.append(f"--uncertainty {self.uncertainty!r} is unknown; use {' or '.join(MEASURES)}")
        if not 0 < self.threshold < 1:
            problems.append(f"--threshold {self.threshold} is no probability; use a number between 0 and 1")
        return problems


@dataclass(frozen=True)
class StorageOptions(Options):
    """How the result is stored."""

    title: ClassVar[str] = "Storage"

    chunk: str = option("128,128,128", "Chunk z,y,x of the output, in voxels.")
    compressor: str = option("zstd", "Compression of the output: zstd, lz4, zlib or none.")
    compression_level: int = option(3, "Compression level.")
    pyramid: bool = option(True, "Write halved resolution levels too, for viewers.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, compressor=("zstd", "lz4", "zlib", "none")) + size_problems("chunk", self.chunk)
        highest = 22 if self.compressor == "zstd" else 9
        if not 0 <= self.compression_level <= highest:
            problems.append(f"--compression-level {self.compression_level} is not 0 to {highest} for {self.compressor}")
        return problems


@dataclass(frozen=True)
class RuntimeOptions(Options):
    """How, and with what, the network is run."""

    title: ClassVar[str] = "Runtime"

    runtime: str = option("auto", "auto (the fastest that agrees), torch, jit, openvino, onnx, compile or graph.")
    compile_mode: str = option(
        "default", "With runtime compile: default, reduce-overhead (CUDA graphs) or max-autotune."
    )
    precision: str = option("auto", "auto (the fastest within --tolerance), fp32, bf16, fp16 or int8.")
    tolerance: float = option(0.001, "Share of voxels whose label auto may change for speed; 0: fp32 only.")
    batch_size: int = option(0, "Patches per forward pass; 0: chosen by device and memory.")
    device: str = option("auto", "auto, cpu, cuda, or cuda:0,1 for several.", decides=False)
    memory: str = option("", "Memory to plan for, for example 8GB; default: half of what is free.", decides=False)

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(
            self,
            runtime=("auto", "torch", "jit", "openvino", "compile", "graph", "onnx"),
            compile_mode=COMPILE_MODES,
            precision=("auto", "fp32", "bf16", "fp16", "int8"),
        )
        if not 0 <= self.tolerance <= 1:
            problems.append(f"--tolerance {self.tolerance} is no share of voxels; use 0 to 1, for example 0.001")
        if self.batch_size < 0:
            problems.append(f"--batch-size {self.batch_size} is negative; use 0 for automatic, or a count")
        if self.memory and parse_bytes(self.memory) is None:
            problems.append(f"--memory {self.memory!r} is no amount; write for example 8GB or 500MB")
        return problems

    def batches(self, kind: str) -> tuple[int, ...]:
        """Batch sizes to choose from on "cpu" or "cuda", the plainest first."""
        return (self.batch_size,) if self.batch_size else {"cpu": (1,)}.get(kind, (1, 2, 4, 8))


@dataclass(frozen=True)
class EffortOptions(Options):
    """Whether something cheaper than what is asked for may be taken."""

    title: ClassVar[str] = "Effort"

    effort: str = option("asked", "asked, or auto: the cheapest overlap, views, window, precision within --tolerance.")
    budget: str = option(
        "", "With --effort auto: the longest that it may take, for example 2h, 30min or 90s.", unit="s"
    )

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, effort=("asked", "auto"))
        if self.budget and parse_duration(self.budget) is None:
            problems.append(f"--budget {self.budget!r} is no time; write for example 2h, 30min or 90s")
        if self.budget and self.effort == "asked":
            problems.append(f"--budget {self.budget} needs --effort auto: nothing becomes cheaper unless that is asked")
        return problems


@dataclass(frozen=True)
class RunOptions(
    EffortOptions, RuntimeOptions, StorageOptions, ResultOptions, RegionOptions, ModelOptions, TilingOptions
):
    """Options that every run shares, those of all groups.

    Raises
    ------
    RequestError
        If values are impossible; all of them are named at once.

    Examples
    --------
    >>> RunOptions(overlap=0.25, output="labels").window
    'gaussian'
    >>> RunOptions(overlap=1.5, output="tables")
    Traceback (most recent call last):
    voxweft.errors.RequestError: --overlap 1.5 is not a fraction; use 0 <= overlap < 1, for example 0.5
    --output 'tables' is unknown; use one of probability, mask, labels, logits
    """

    layout: ClassVar[str] = "ome-zarr"
    order: ClassVar[Order] = AS_IT_IS
    words: ClassVar[Words] = Words()
    pad: ClassVar[Literal["both", "after"]] = "both"
    pad_with: ClassVar[Literal["zeros", "edge"]] = "zeros"
    n_levels: ClassVar[int] = 0  # resolution levels; 0: until no side is longer than 64 voxels

    def request(self) -> dict[str, Any]:
        """The values that decide what comes out and are not the default."""
        return decisive(self)

    def defaults(self) -> dict[str, Any]:
        """The defaults of all that decides what comes out."""
        return defaults_of(self)


def _weights(text: str) -> tuple[float, ...] | None:
    """Positive numbers; None where the text is none.

    >>> _weights("2, 1"), _weights(""), _weights("1,x")
    ((2.0, 1.0), (), None)
    """
    try:
        weights = tuple(float(w) for w in text.split(",")) if text else ()
    except ValueError:
        return None
    return weights if all(0 < w < float("inf") for w in weights) else None


def part_problems(num_parts: int, part_id: int, overwrite: bool = False) -> list[str]:
    """What is wrong with a share of a stage, or of a batch, where others may be overwritten."""
    problems = []
    if num_parts < 1 or not 0 <= part_id < num_parts:
        problems.append(f"--part-id {part_id} with --num-parts {num_parts}: use 0 to {max(num_parts, 1) - 1}")
    if overwrite and num_parts > 1:
        problems.append("--overwrite with --num-parts would delete what other parts wrote; delete the output first")
    return problems
