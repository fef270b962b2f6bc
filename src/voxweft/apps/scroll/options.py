"""What a user may ask of the scroll pipeline; names and defaults are those of the Vesuvius Challenge's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from voxweft.engine.fields import like, option, parse_bytes, unknown
from voxweft.engine.options import RunOptions, part_problems
from voxweft.engine.separate import NORMALS
from voxweft.errors import RequestError
from voxweft.ops.activate import MODES, OUTPUTS
from voxweft.runner.components import Rule
from voxweft.runner.execution import Execution
from voxweft.runner.workers import LaunchOptions
from voxweft.stores.patches import COMPRESSORS

COMPAT = "vesuvius-0.2.4"
SUPPORT = (
    "Support volume, same size or smaller by a whole factor; background where it is 0. Or air<VALUE: background where "
    "the scan itself is below VALUE."
)
SUPPORT_NAMES = ("--mask", "--support-volume", "--support")


def check(problems: list[str]) -> None:
    """Refuse a request with all that is wrong with it."""
    if problems:
        raise RequestError(*problems)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Where the volume comes from."""

    title: ClassVar[str] = "Where the volume comes from"

    input_format: str = option("zarr", "zarr (INPUT is a path or URL), or volume (looked up by scroll and segment).")
    scroll_id: str = option("", "Scroll, with --input-format volume.")
    segment_id: str = option("", "Segment of the scroll, with --input-format volume.")
    energy: str = option("", "X-ray energy in keV, with --input-format volume; default: the first listed.")
    resolution: str = option("", "Voxel size in micrometres, with --input-format volume; default: the first listed.")
    volumes: str = option("", "Table of volumes (TOML) in place of the one that voxweft brings.")
    level: int = like(RunOptions, "level")
    channel: int = like(RunOptions, "channel")
    time: int = like(RunOptions, "time")
    series: int = like(RunOptions, "series")
    cache_dir: str = option("", "Keep what is read from s3:// or http:// here; for volumes that do not change.")
    cache_size: str = option("10GB", "Most that the cache holds, over all processes that use it.")

    def __post_init__(self) -> None:
        problems = []
        if self.input_format not in ("zarr", "volume"):
            problems.append(f"--input-format {self.input_format!r} is unknown; use zarr or volume")
        if self.input_format == "volume" and not (self.scroll_id or self.segment_id):
            problems.append("--input-format volume needs --scroll-id or --segment-id")
        if parse_bytes(self.cache_size) is None:
            problems.append(f"--cache-size {self.cache_size!r} is no amount; write for example 10GB")
        check(problems)


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How the network is run."""

    title: ClassVar[str] = "How the network is run"

    tta_type: str = option("rotation", "Test-time augmentation: mirroring (8 passes) or rotation (3 passes).")
    disable_tta: bool = option(False, "No test-time augmentation.")
    overlap: float = like(RunOptions, "overlap")
    batch_size: int = like(RunOptions, "batch_size", default=1)
    patch_size: str = like(RunOptions, "patch_size")
    save_softmax: bool = option(False, "Accepted, without effect: voxweft finalize makes probabilities.")
    normalization: str = like(
        RunOptions,
        "normalization",
        help="auto (what the model was trained with), instance_zscore, global_zscore, instance_minmax, "
        "percentile_minmax, ct or none.",
    )
    skip_empty_patches: bool = like(RunOptions, "skip_empty")
    bbox: str = like(RunOptions, "bbox")
    mask: str = like(RunOptions, "mask", help=SUPPORT, names=SUPPORT_NAMES)
    device: str = like(RunOptions, "device")
    runtime: str = like(RunOptions, "runtime")
    precision: str = like(RunOptions, "precision")
    tolerance: float = like(RunOptions, "tolerance")
    memory: str = like(RunOptions, "memory")
    hf_token: str = option("", "Hugging Face token, for a private hf:// model.", decides=False)
    compat: str = option("", f"{COMPAT}: the numbers of that release, its defects included.")
    targets: str = like(RunOptions, "targets")

    def __post_init__(self) -> None:
        problems = []
        if self.tta_type not in ("mirroring", "rotation"):
            problems.append(f"--tta-type {self.tta_type!r} is unknown; use mirroring or rotation")
        if self.compat and (self.bbox or self.mask):
            problems.append(f"--compat {self.compat} knows neither --bbox nor --mask")
        check(problems + compat_problems(self.compat))


@dataclass(frozen=True, slots=True)
class PartOptions:
    """Which share of a stage is done here."""

    title: ClassVar[str] = "Which part"

    num_parts: int = like(Execution, "num_parts", default=1, help="Divide the work into N parts.")
    part_id: int = like(Execution, "part_id", default=0, help="Do this part, 0 to N-1.")
    overwrite: bool = like(Execution, "overwrite")
    prepare: bool = like(Execution, "prepare")

    def __post_init__(self) -> None:
        check(part_problems(self.num_parts, self.part_id, self.overwrite and not self.prepare))

    @property
    def share(self) -> dict[str, Any]:
        """Number of parts and the one to do, as :class:`~voxweft.runner.execution.Execution` counts them."""
        divided = self.num_parts > 1 and not self.prepare
        return {"num_parts": self.num_parts, "part_id": self.part_id} if divided else {}


@dataclass(frozen=True, slots=True)
class PatchStoreOptions:
    """How per-patch logits are stored."""

    title: ClassVar[str] = "How logits are stored"

    zarr_compressor: str = option("zstd", f"Compression of the logits: {', '.join(COMPRESSORS)}.")
    zarr_compression_level: int = option(3, "Compression level, 1 to 9.")

    def __post_init__(self) -> None:
        problems = []
        if self.zarr_compressor not in COMPRESSORS:
            problems.append(
                f"--zarr-compressor {self.zarr_compressor!r} is unknown; use one of {', '.join(COMPRESSORS)}"
            )
        if not 1 <= self.zarr_compression_level <= 9:
            problems.append(f"--zarr-compression-level {self.zarr_compression_level} is not 1 to 9")
        check(problems)


@dataclass(frozen=True, slots=True)
class BlendOptions(LaunchOptions):
    """How patches are blended."""

    title: ClassVar[str] = "How patches are blended"

    sigma_scale: float = like(RunOptions, "sigma_scale")
    chunk_size: str = like(
        RunOptions, "chunk", default="", help="Chunk z,y,x of the output, in voxels; default: the patch."
    )
    num_workers: int = option(0, "Worker processes; 0: half of the cores.", decides=False)
    compression_level: int = like(
        RunOptions, "compression_level", default=1, help="Compression level of the output, 0 (none) to 9."
    )
    weights_path: str = option("", "Accepted and without effect: voxweft keeps no weights.", decides=False)
    keep_weights: bool = option(False, "Accepted and without effect: voxweft keeps no weights.", decides=False)
    memory: str = like(RunOptions, "memory")
    compat: str = like(NetworkOptions, "compat")

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        problems = compat_problems(self.compat)
        if not 0 <= self.compression_level <= 9:
            problems.append(f"--compression-level {self.compression_level} is not 0 to 9")
        check(problems)


@dataclass(frozen=True, slots=True)
class ClassOptions:
    """What becomes of the logits."""

    title: ClassVar[str] = "What becomes of the logits"

    mode: str = like(
        RunOptions,
        "mode",
        default="binary",
        help="binary (one channel) or multiclass (a channel a class, and the class ids).",
    )
    hard: bool = option(False, "Write classes only: a 0/255 mask, or class ids.", names=("--threshold",))
    threshold: float = like(
        RunOptions,
        "threshold",
        help="Probability above which a voxel is foreground, with --threshold.",
        names=("--threshold-value",),
    )
    normals: str = like(RunOptions, "normals")

    low: float = option(0.0, "Hysteresis: foreground above this probability, where it is connected to --high.")
    high: float = option(0.0, "Hysteresis: the probability that a component must exceed somewhere.")
    min_size: int = option(0, "Least voxels of a component of the foreground; smaller ones are taken away.")
    connectivity: int = option(26, "Neighbours of a voxel of a component: 6, 18 or 26.")
    instances: bool = option(False, "Number the components too: OUTPUT_instances.zarr, and a table of them.")

    def __post_init__(self) -> None:
        problems = []
        if bool(self.low) != bool(self.high):
            problems.append("--low and --high go together: foreground above --low, in components that exceed --high")
        elif self.low and not 0 < self.low <= self.high < 1:
            problems.append(f"--low {self.low} and --high {self.high} must be probabilities, --low not above --high")
        if self.low and self.hard:
            problems.append("--threshold and --low: give one of both; --low writes a mask too, OUTPUT_mask.zarr")
        if self.min_size < 0:
            problems.append(f"--min-size {self.min_size} is negative")
        if self.connectivity not in (6, 18, 26):
            problems.append(f"--connectivity {self.connectivity} is unknown; use 6, 18 or 26")
        if self.has_components and self.mode == "multiclass":
            problems.append("--low, --min-size and --instances are for --mode binary; voxweft label takes class ids")
        if self.mode not in MODES:
            problems.append(f"--mode {self.mode!r} is unknown; use {' or '.join(MODES)}")
        if not 0 < self.threshold < 1:
            problems.append(f"--threshold-value {self.threshold} is no probability; use a number between 0 and 1")
        check(problems + unknown(self, normals=tuple(NORMALS)))

    @property
    def has_components(self) -> bool:
        """Whether components of the foreground are asked for."""
        return bool(self.low or self.min_size or self.instances)

    @property
    def rule(self) -> Rule:
        """What a component is, in grey levels of the result: those above a probability, strictly."""
        low, high = (self.low, self.high) if self.low else (self.threshold, 0.0)
        return Rule(
            low=1.0 if self.hard else _above(low),
            high=_above(high) if high else None,
            connectivity=self.connectivity,
            min_size=self.min_size,
        )

    @property
    def after(self) -> dict[str, Any]:
        """The settings of components, for the request."""
        if not self.has_components:
            return {}
        names = ("low", "high", "min_size", "connectivity", "instances")
        return {name: getattr(self, name) for name in names} | {"threshold": self.threshold}

    @property
    def output(self) -> str:
        """The engine's word for it."""
        if self.mode == "multiclass":
            return "labels" if self.hard else "probability_and_label"
        return "mask" if self.hard else "probability"


def _above(probability: float) -> float:
    """The least grey level of floor(255 p) that is above a probability.

    >>> _above(0.5), _above(0.2)
    (128.0, 52.0)
    """
    return math.floor(255 * probability) + 1.0


@dataclass(frozen=True, slots=True)
class FinalizeOptions(LaunchOptions):
    """How the final output is stored."""

    title: ClassVar[str] = "How the result is stored"

    delete_intermediates: bool = option(False, "Delete the merged logits once the result is verified.", decides=False)
    chunk_size: str = like(
        RunOptions, "chunk", default="", help="Chunk z,y,x of the output, in voxels; default: that of the input."
    )
    num_workers: int = like(BlendOptions, "num_workers")
    mask: str = like(RunOptions, "mask", help=SUPPORT, names=SUPPORT_NAMES)
    pyramid: bool = like(RunOptions, "pyramid")
    memory: str = like(RunOptions, "memory")
    compat: str = like(NetworkOptions, "compat")

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        problems = compat_problems(self.compat)
        if self.compat and self.mask:
            problems.append(f"--compat {self.compat} knows no --mask")
        check(problems)


@dataclass(frozen=True, slots=True)
class PipelineOptions(LaunchOptions):
    """How the three stages are run as one."""

    title: ClassVar[str] = "How the stages are run"

    staged: bool = option(False, "Write logits to disk between the stages; default: one sweep without.", decides=False)
    workdir: str = option("", "Where intermediate logits go, with --staged; default: OUTPUT_work.", decides=False)
    keep_intermediates: bool = option(False, "Keep them.", decides=False)
    single_part: bool = option(False, "One part only, with --staged.", decides=False)
    gpus: str = option("all", "CUDA devices: all, or 0,1.", decides=False)
    parts_per_gpu: int = option(1, "Parts a device, with --staged.", decides=False)
    num_workers: int = like(BlendOptions, "num_workers", help="Worker processes; 0: chosen.")
    skip_predict: bool = option(False, "Leave the stage out: its output is there. With --staged.", decides=False)
    skip_blend: bool = option(False, "Leave the stage out: its output is there. With --staged.", decides=False)
    skip_finalize: bool = option(False, "Leave the stage out. With --staged.", decides=False)
    fuse_blend_finalize: bool = option(False, "Accepted: without --staged voxweft fuses all three.", decides=False)
    chunk_size: str = like(RunOptions, "chunk")
    pyramid: bool = like(RunOptions, "pyramid")
    uncertainty: str = like(RunOptions, "uncertainty")

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        problems = []
        if self.uncertainty and self.staged:
            problems.append("--uncertainty with --staged: it is made in one sweep; leave --staged out")
        if self.gpus != "all" and not all(n.isdigit() for n in self.gpus.split(",")):
            problems.append(f"--gpus {self.gpus!r} is no list of devices; write all, or for example 0,1")
        if self.parts_per_gpu < 1:
            problems.append(f"--parts-per-gpu {self.parts_per_gpu} is below 1")
        skipped = [n for n in ("predict", "blend", "finalize") if getattr(self, f"skip_{n}")]
        if skipped and not self.staged:
            problems.append(f"--skip-{skipped[0]} needs --staged; without it there are no stages")
        if len(skipped) == len(("predict", "blend", "finalize")):
            problems.append("--skip-predict, --skip-blend and --skip-finalize together leave nothing to do")
        check(problems)


@dataclass(frozen=True, slots=True)
class StageOptions(RunOptions):
    """The engine's options for one stage, with what else must be the same for all of its parts."""

    outputs: ClassVar[tuple[str, ...]] = OUTPUTS
    num_parts: int = 1
    compat: str = ""
    listed_volume: str = ""
    low: float = 0.0
    high: float = 0.0
    min_size: int = 0
    connectivity: int = 26
    instances: bool = False


def compat_problems(value: str) -> list[str]:
    """What is wrong with a value of --compat."""
    return [] if value in ("", COMPAT) else [f"--compat {value!r} is unknown; use {COMPAT}"]


def tta_of(network: NetworkOptions) -> str:
    """The engine's word for the augmentation."""
    return "none" if network.disable_tta else network.tta_type


def overlap_of(overlap: float, *, as_step: bool) -> float:
    """The overlap as a fraction; vesuvius 0.2.4 takes the option for the step, and 0 for a whole patch."""
    return 1.0 - overlap if as_step and overlap > 0 else overlap
