"""What a user may ask of ink detection. Environment variables are named as in the reference container."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from voxweft.engine.fields import all_decisive, defaults_of, like, option, unknown
from voxweft.engine.options import COMPILE_MODES, RunOptions, part_problems
from voxweft.errors import RequestError
from voxweft.image.order import Order
from voxweft.image.words import Words
from voxweft.ops.activate import OUTPUTS
from voxweft.ops.strokes import FACES
from voxweft.runner.execution import Execution

UNSET = -1
DIRECTIONS = ("forward", "reverse", "both")
COMBINES, CHECKS = ("mean", "max"), ("error", "warn", "off")
ROWS_FIRST: Order = (1, 0, 2)  # the sweep's rows are its z; stored is one plane of rows and columns
OUTPUT_SUFFIXES = (".png", ".tif", ".tiff", ".zarr")


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """Which layers, and where they lie."""

    title: ClassVar[str] = "Which layers"

    s3_path: str = option(
        "", "Segment with layers/NN.tif, png or jpg: a path, s3:// or http(s)://.", env="S3_PATH", decides=False
    )
    surface_volume_zarr: str = option(
        "",
        "Surface volume that voxweft ink prepare made, or any OME-Zarr or zarr.",
        env="SURFACE_VOLUME_ZARR",
        decides=False,
    )
    start_layer: int = option(
        UNSET,
        "First layer, by the number in its name; default: the model's W of the N layers that are there, from the "
        "first + (N - W) // 2 on.",
        env="START_LAYER",
    )
    end_layer: int = option(
        UNSET, "End of the layers, exclusive: 26 for 00 to 25; default: START_LAYER + W.", env="END_LAYER"
    )
    reverse: bool = option(False, "Give the layers to the network in reverse order.", env="FORCE_REVERSE")
    direction: str = option(
        "", "forward, reverse, or both: two results, NAME_forward and NAME_reverse; default: forward."
    )
    voxel_size_um: float = option(
        0.0, "Side of a voxel in micrometres, where the surface volume does not say it.", decides=False
    )
    level: int = like(RunOptions, "level", help="Resolution level of a surface volume in OME-Zarr; 0 is the finest.")
    segment_id: str = option("", "Name of the segment, for the picture's record.", env="SEGMENT_ID", decides=False)
    prepare_max_workers: int = option(
        0, "Layers prepared at once at most; 0: as cores and memory allow.", env="PREPARE_MAX_WORKERS", decides=False
    )
    surface_volume_chunk_size: int = option(
        0,
        "Chunk side of a prepared surface volume in pixels; 0: 256 x 1024.",
        env="SURFACE_VOLUME_CHUNK_SIZE",
        decides=False,
    )

    def __post_init__(self) -> None:
        problems = unknown(self, direction=DIRECTIONS) if self.direction else []
        if self.prepare_max_workers < 0:
            problems.append(f"--prepare-max-workers {self.prepare_max_workers} is negative; 0 lets voxweft choose")
        if self.surface_volume_chunk_size < 0:
            problems.append(f"--surface-volume-chunk-size {self.surface_volume_chunk_size} is negative; use 64 or more")
        if self.reverse and self.direction == "forward":
            problems.append("--reverse (FORCE_REVERSE) and --direction forward contradict each other; leave one out")
        if not 0 <= self.voxel_size_um < math.inf:
            problems.append(f"--voxel-size-um {self.voxel_size_um} is no length; 2.4 and 7.91 are usual")
        if problems:
            raise RequestError(*problems)

    @property
    def directions(self) -> tuple[tuple[str, bool], ...]:
        """Of each result what its name ends in, and whether the layers are reversed."""
        if self.direction == "both":
            return (("_forward", False), ("_reverse", True))
        return (("", self.reverse or self.direction == "reverse"),)


@dataclass(frozen=True, slots=True)
class InkModelOptions:
    """Which network."""

    title: ClassVar[str] = "Which network"

    model: str = option(
        "",
        "Checkpoint (.ckpt, .safetensors, .pt), s3://, Hugging Face repository, or a key of the table; A,B: the mean.",
        names=("--model", "-m"),
        env="MODEL",
    )
    model_type: str = option(
        "auto", "timesformer, resnet3d-50, -101 or -152; auto: as the checkpoint says.", env="MODEL_TYPE"
    )
    models: str = option("", "Table of models (TOML) in place of the one that voxweft brings.", decides=False)
    hf_token: str = option("", "Hugging Face token, for a private repository.", env="HF_TOKEN", decides=False)
    trust_code: bool = option(False, "Load a checkpoint that holds Python objects; it can then run any code.")


@dataclass(frozen=True, slots=True)
class InkOptions:
    """How ink is found. Sizes are in pixels."""

    title: ClassVar[str] = "How ink is found"

    tile_size: int = option(0, "Tile side; default: the model's, 64 for a TimeSformer.", env="TILE_SIZE")
    stride: int = option(
        0, "Pixels between tiles; smaller is smoother and slower; 0: as the model says, else 16.", env="STRIDE"
    )
    windows: int = option(1, "Layer windows around the one that is meant, whose results become one.")
    window_step: int = option(1, "Layers between these windows.")
    combine: str = option("mean", "What becomes of the windows: mean or max of the probabilities.")
    batch_size: int = like(
        RunOptions,
        "batch_size",
        default=256,
        help="Tiles in a forward pass at most; on a CPU fewer are faster.",
        env="BATCH_SIZE",
    )
    window: str = like(
        RunOptions,
        "window",
        default="hann",
        help="Blend weights of a tile: hann, gaussian or uniform.",
        env="BLEND_MODE",
    )
    gaussian_sigma: float = option(0.0, "Sigma of the gaussian; 0: tile / 2.5.", env="GAUSSIAN_SIGMA")
    divisor: int = option(
        0, "Values are clipped at this and divided by it, 200 or 255; 0: as the model says, else 200."
    )
    clip: int = option(UNSET, "Values are clipped at this, whatever they are divided by; 0: they are not.")
    skip_empty: bool = like(
        RunOptions, "skip_empty", help="Skip tiles without any structure; they become 0.", env="SKIP_EMPTY_TILES"
    )
    tta: str = like(
        RunOptions, "tta", help="Test-time augmentation: none, mirroring (4 passes) or rotation (2 passes)."
    )
    mask: str = like(
        RunOptions, "mask", help="Picture or zarr as large as the surface, or smaller by a whole factor; 0: not wanted."
    )
    input_contract: str = option(
        "error",
        "Where the layers are not what the model was trained for: error, warn or off.",
        env="INPUT_CONTRACT",
        decides=False,
    )
    depth_output: str = option(
        "", "Write the ink of every layer too, from the same pass: OME-Zarr [layer, row, column], *.zarr (Hecate)."
    )
    roi: str = option("", "Only x0,y0,x1,y1 of the surface; the picture keeps its size.", env="ROI_XYXY")
    bits: int = option(8, "Grey levels of the picture, in bits: 8 or 16.")
    compile: bool = option(True, "Allow torch.compile, on a GPU.", env="COMPILE")
    compile_mode: str = like(
        RunOptions,
        "compile_mode",
        default="reduce-overhead",
        help=f"Of torch.compile: {', '.join(COMPILE_MODES)}.",
        env="COMPILE_MODE",
    )
    runtime: str = like(RunOptions, "runtime", help="auto (the fastest that agrees), torch, jit, openvino or compile.")
    precision: str = like(RunOptions, "precision")
    tolerance: float = like(RunOptions, "tolerance")
    device: str = like(RunOptions, "device", env="INK_DEVICE")
    memory: str = like(RunOptions, "memory")

    def __post_init__(self) -> None:
        problems = unknown(self, combine=COMBINES, input_contract=CHECKS)
        if self.windows < 1 or self.window_step < 1:
            problems.append(f"--windows {self.windows}, --window-step {self.window_step}: both are at least 1")
        if not UNSET <= self.clip <= 255:
            problems.append(f"--clip {self.clip} is not 0 to 255; 200 is usual, 0 clips nothing")
        if self.tile_size < 0 or self.stride < 0 or self.batch_size < 1:
            problems.append(
                f"--tile-size {self.tile_size}, --stride {self.stride}, --batch-size {self.batch_size}: "
                "sizes are positive"
            )
        if self.tile_size and self.stride > self.tile_size:
            problems.append(f"--stride {self.stride} leaves gaps between tiles of {self.tile_size}; use at most that")
        if self.divisor < 0 or self.divisor > 255:
            problems.append(f"--divisor {self.divisor} is not 1 to 255; 200 and 255 are usual")
        if self.gaussian_sigma < 0:
            problems.append(f"--gaussian-sigma {self.gaussian_sigma} is negative")
        if self.bits not in (8, 16):
            problems.append(f"--bits {self.bits} is unknown; use 8 or 16")
        if self.roi and box_of_roi(self.roi) is None:
            problems.append(f"--roi {self.roi!r} is no rectangle; write x0,y0,x1,y1 in pixels")
        if self.depth_output and not self.depth_output.rstrip("/").endswith(".zarr"):
            problems.append(f"--depth-output {self.depth_output!r} must end in .zarr (a path or an s3:// URL)")
        if self.depth_output and self.windows > 1:
            problems.append("--depth-output with --windows: the layers of several windows are not the same; give one")
        if problems:
            raise RequestError(*problems)


@dataclass(frozen=True, slots=True)
class InkPartOptions:
    """Which share of the surface is done here."""

    title: ClassVar[str] = "Which part"

    num_parts: int = like(
        Execution,
        "num_parts",
        default=1,
        help="Divide the surface into N parts; voxweft ink reduce joins them.",
        env="NUM_PARTS",
    )
    part_id: int = like(Execution, "part_id", default=0, help="Do this part, 0 to N-1.", env="PART_ID")
    zarr_output_dir: str = option(
        "/tmp/partitions", "Where unfinished results lie; shared by all parts.", env="ZARR_OUTPUT_DIR"
    )
    overwrite: bool = like(Execution, "overwrite", help="Delete what an earlier run wrote to the same place.")

    def __post_init__(self) -> None:
        if problems := part_problems(self.num_parts, self.part_id, self.overwrite):
            raise RequestError(*problems)

    @property
    def is_whole(self) -> bool:
        """Whether the one part is all of the surface."""
        return self.num_parts == 1


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """Where the result goes."""

    title: ClassVar[str] = "Where the result goes"

    output_path: str = option(
        "", "PNG, TIFF or .zarr, a path or s3://; default: predictions/ in the segment.", env="OUTPUT_PATH"
    )
    use_zarr_compression: bool = option(False, "Compress what lies in ZARR_OUTPUT_DIR.", env="USE_ZARR_COMPRESSION")
    runtime_dir: str = option(
        "/tmp", "Folder for result_s3_url.txt and surface_volume_zarr_path.txt.", env="RUNTIME_DIR"
    )
    pixel_resolution_um: float = option(
        0.0, "Side of a pixel in micrometres, where the volume does not say it.", env="PIXEL_RESOLUTION_UM"
    )

    def __post_init__(self) -> None:
        if self.output_path and not self.output_path.endswith(OUTPUT_SUFFIXES):
            raise RequestError(f"cannot write {self.output_path!r}: it must end in {', '.join(OUTPUT_SUFFIXES)}")
        if self.output_path.startswith(("http://", "https://")):
            raise RequestError(f"cannot write {self.output_path}: http is read-only; give a path or an s3:// URL")
        if not 0 <= self.pixel_resolution_um < 1e6:
            raise RequestError(f"--pixel-resolution-um {self.pixel_resolution_um} is no size of a pixel in micrometres")


@dataclass(frozen=True, slots=True)
class SweepOptions(RunOptions):
    """The engine's options for a sweep over the rows of a surface."""

    outputs: ClassVar[tuple[str, ...]] = OUTPUTS
    order: ClassVar[Order] = ROWS_FIRST
    words: ClassVar[Words] = Words(("rows", "", "columns"), "layers", "pixels")
    pad: ClassVar[Literal["both", "after"]] = "after"
    divisor: float = 200.0
    layers: str = ""
    clip: int = UNSET
    combine: str = "mean"
    depth_output: bool = False

    def batches(self, kind: str) -> tuple[int, ...]:
        """Batch sizes to choose from, ``batch_size`` at most; on a CPU core 4 tiles are the fastest of 1 to 64."""
        wanted = {"cpu": (4,)}.get(kind, (16, 64, 256))
        return tuple(dict.fromkeys(min(b, self.batch_size) for b in wanted))


LATER = (
    "tolerance",
    "windows",
    "window_step",
    "combine",
    "clip",
    "mask",
    "depth_output",
)  # options that releases after 0.1 added


def asked_of(options: InkOptions) -> dict[str, Any]:
    """What decides the result, for the name of unfinished work: an option that came later counts where it is used."""
    found = all_decisive(options) | {"stride": options.stride or 16}
    defaults = defaults_of(InkOptions)
    return {name: value for name, value in found.items() if name not in LATER or value != defaults[name]}


def box_of_roi(roi: str) -> tuple[int, int, int, int] | None:
    """Pixels x0, y0, x1, y1; None where the text is no rectangle.

    >>> box_of_roi("10, 0, 50, 40"), box_of_roi("5,5,5,9")
    ((10, 0, 50, 40), None)
    """
    parts = [p.strip() for p in roi.split(",")]
    if len(parts) != 4 or not all(p.isdecimal() for p in parts):
        return None
    x0, y0, x1, y1 = map(int, parts)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """What is planted."""

    title: ClassVar[str] = "What is planted"

    amplitudes: str = option("8,16,32,64", "Contrasts of the strokes, in grey levels.")
    face: str = option("both", "Where they are planted: near (the first layers), far, or both.")

    def __post_init__(self) -> None:
        problems = unknown(self, face=("both", *FACES))
        if not self.levels:
            problems.append(f"--amplitudes {self.amplitudes!r} are no contrasts; write for example 8,16,32,64")
        if problems:
            raise RequestError(*problems)

    @property
    def levels(self) -> tuple[int, ...]:
        """The contrasts, 1 to 255; empty where the text is none."""
        parts = [p.strip() for p in self.amplitudes.split(",")]
        found = sorted({int(p) for p in parts if p.isdecimal()})
        return tuple(found) if all(p.isdecimal() for p in parts) and all(0 < a < 256 for a in found) else ()

    @property
    def faces(self) -> tuple[str, ...]:
        """Where strokes are planted."""
        return FACES if self.face == "both" else (self.face,)


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What is tried."""

    title: ClassVar[str] = "What is tried"

    models: str = option(
        "",
        "Networks, A,B: checkpoints, repositories or keys of the table.",
        names=("--models", "--model", "-m"),
        env="MODEL",
    )
    table: str = like(InkModelOptions, "models")
    model_type: str = like(InkModelOptions, "model_type")
    hf_token: str = like(InkModelOptions, "hf_token")
    trust_code: bool = like(InkModelOptions, "trust_code")
    offsets: str = option("-2,0,2", "Layers by which the window is moved.")
    directions: str = option("forward,reverse", "forward, reverse, or forward,reverse.")

    def __post_init__(self) -> None:
        problems = []
        if not self.moves:
            problems.append(f"--offsets {self.offsets!r} are no numbers of layers; write for example -2,0,2")
        if not self.ways or not {*self.ways} <= {*DIRECTIONS[:2]}:
            problems.append(f"--directions {self.directions!r} are unknown; use forward, reverse or forward,reverse")
        if problems:
            raise RequestError(*problems)

    @property
    def moves(self) -> tuple[int, ...]:
        """The offsets, each once, ascending; empty where the text is none."""
        try:
            return tuple(sorted({int(part) for part in self.offsets.split(",")}))
        except ValueError:
            return ()

    @property
    def ways(self) -> tuple[str, ...]:
        """The directions, each once."""
        return tuple(dict.fromkeys(part.strip() for part in self.directions.split(",") if part.strip()))
