"""What a user may ask of ink detection. Environment variables are named as in the reference container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from voxweft.engine.fields import like, option
from voxweft.engine.options import COMPILE_MODES, RunOptions, part_problems
from voxweft.errors import RequestError
from voxweft.image.order import Order
from voxweft.image.words import Words
from voxweft.ops.activate import OUTPUTS
from voxweft.runner.execution import Execution

UNSET = -1
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
    start_layer: int = option(UNSET, "First layer, by the number in its name.", env="START_LAYER")
    end_layer: int = option(UNSET, "End of the layers, exclusive: 26 for 00 to 25.", env="END_LAYER")
    reverse: bool = option(False, "Give the layers to the network in reverse order.", env="FORCE_REVERSE")
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
        problems = []
        if self.prepare_max_workers < 0:
            problems.append(f"--prepare-max-workers {self.prepare_max_workers} is negative; 0 lets voxweft choose")
        if self.surface_volume_chunk_size < 0:
            problems.append(f"--surface-volume-chunk-size {self.surface_volume_chunk_size} is negative; use 64 or more")
        if problems:
            raise RequestError(*problems)


@dataclass(frozen=True, slots=True)
class InkModelOptions:
    """Which network."""

    title: ClassVar[str] = "Which network"

    model: str = option(
        "",
        "Checkpoint (.ckpt, .safetensors, .pt), s3://, Hugging Face repository, or a key of the table.",
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
    stride: int = option(16, "Pixels between tiles; smaller is smoother and slower.", env="STRIDE")
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
    skip_empty: bool = like(
        RunOptions, "skip_empty", help="Skip tiles without any structure; they become 0.", env="SKIP_EMPTY_TILES"
    )
    tta: str = like(
        RunOptions, "tta", help="Test-time augmentation: none, mirroring (4 passes) or rotation (2 passes)."
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
    device: str = like(RunOptions, "device", env="INK_DEVICE")
    memory: str = like(RunOptions, "memory")

    def __post_init__(self) -> None:
        problems = []
        if self.tile_size < 0 or self.stride < 1 or self.batch_size < 1:
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

    def batches(self, kind: str) -> tuple[int, ...]:
        """Batch sizes to choose from, ``batch_size`` at most; on a CPU core 4 tiles are the fastest of 1 to 64."""
        wanted = {"cpu": (4,)}.get(kind, (16, 64, 256))
        return tuple(dict.fromkeys(min(b, self.batch_size) for b in wanted))


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
