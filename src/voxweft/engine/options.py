"""What a user may ask of a run. The command line is made from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from voxweft.errors import RequestError
from voxweft.geometry.tiling import FITS
from voxweft.geometry.window import WINDOWS
from voxweft.image.order import AS_IT_IS, Order
from voxweft.image.words import Words

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


def option(default: Any, text: str, **extra: Any) -> Any:
    """A field with its help text.

    ``decides=False`` marks what says where and when, but not what comes out; ``names`` are its flags where they are not
    made from the field's name.
    """
    return field(default=default, metadata={"help": text, **extra})


def like(options: type, name: str, **changes: Any) -> Any:
    """The field of another options class, so that each is declared once; changes: ``default``, ``help``, ``names``, ...

    >>> @dataclass(frozen=True)
    ... class Fewer:
    ...     tiles: float = like(RunOptions, "overlap", default=0.25)
    >>> Fewer().tiles, fields(Fewer)[0].metadata["help"]
    (0.25, 'Overlap of neighbouring patches, a fraction 0 <= o < 1.')
    """
    found = next(f for f in fields(options) if f.name == name)
    default = changes.pop("default", found.default)
    return field(default=default, metadata={**found.metadata, **changes})


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options that every run shares. Sizes are in voxels, order z,y,x.

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
    voxweft.errors.RequestError: --output 'tables' is unknown; use one of probability, mask, labels, logits
    --overlap 1.5 is not a fraction; use 0 <= overlap < 1, for example 0.5
    """

    title: ClassVar[str] = "What to compute"

    overlap: float = option(0.5, "Overlap of neighbouring patches, a fraction 0 <= o < 1.")
    window: str = option("gaussian", "Blend weights of a patch: gaussian, gaussian-centred, hann or uniform.")
    sigma_scale: float = option(8.0, "The Gaussian's sigma is patch / this.")
    fit: str = option("spread", "Patch positions: spread (nnU-Net, evenly) or snap (fixed step, last moved in).")
    tta: str = option("none", "Test-time augmentation: none, mirroring (up to 8 passes) or rotation (3 passes).")
    tta_of: str = option(
        "patch", "What is augmented: patch (each by itself), or volume (as if all of it were mirrored)."
    )
    weights: str = option("", "Weights of the models of an ensemble, for example 2,1; default: equal.")
    patch_size: str = option("", "Patch z,y,x in voxels; default: the model's.")
    batch_size: int = option(0, "Patches per forward pass; 0: chosen by device and memory.")
    normalization: str = option(
        "auto", "auto (the model's), none, instance_zscore, global_zscore, instance_minmax, ..."
    )
    skip_empty: bool = option(True, "Skip patches whose voxels are all equal; they become background.")
    mode: str = option("auto", "binary or multiclass; auto: binary up to two classes.")
    output: str = option("probability", "probability (uint8, floor(255 p)), mask (0/255), labels or logits (float32).")
    threshold: float = option(0.5, "Probability above which a voxel is foreground, for mask and labels.")
    bbox: str = option("", "Only this box of the volume, z0:z1,y0:y1,x0:x1; the patches stay where they were.")
    mask: str = option("", "Second volume, same size or smaller by a whole factor; background where it is 0.")
    level: int = option(0, "Resolution level of a multi-scale input; 0 is the finest.")
    chunk: str = option("128,128,128", "Chunk z,y,x of the output, in voxels.")
    compressor: str = option("zstd", "Compression of the output: zstd, lz4, zlib or none.")
    compression_level: int = option(3, "Compression level.")
    pyramid: bool = option(True, "Write halved resolution levels too, for viewers.")
    accept_labels: bool = option(False, "Run although the input looks like labels, not like an image.")
    runtime: str = option("auto", "auto (the fastest that agrees), torch, jit, openvino, compile or onnx.")
    compile_mode: str = option(
        "default", "With runtime compile: default, reduce-overhead (CUDA graphs) or max-autotune."
    )
    precision: str = option("auto", "auto, fp32, fp16 or bf16.")
    device: str = option("auto", "auto, cpu, cuda, or cuda:0,1 for several.", decides=False)
    memory: str = option("", "Memory to plan for, for example 8GB; default: half of what is free.", decides=False)

    outputs: ClassVar[tuple[str, ...]] = ("probability", "mask", "labels", "logits")
    layout: ClassVar[str] = "ome-zarr"
    order: ClassVar[Order] = AS_IT_IS
    words: ClassVar[Words] = Words()
    pad: ClassVar[Literal["both", "after"]] = "both"

    def __post_init__(self) -> None:
        if problems := wrong_types(self):
            raise RequestError(*problems)
        choices = {
            "window": tuple(WINDOWS),
            "fit": FITS,
            "tta": ("none", "mirroring", "rotation"),
            "tta_of": ("patch", "volume"),
            "mode": ("auto", "binary", "multiclass"),
            "output": self.outputs,
            "compressor": ("zstd", "lz4", "zlib", "none"),
            "runtime": ("auto", "torch", "jit", "openvino", "compile", "onnx"),
            "compile_mode": COMPILE_MODES,
            "precision": ("auto", "fp32", "fp16", "bf16"),
        }
        problems = [
            f"--{name.replace('_', '-')} {getattr(self, name)!r} is unknown; use one of {', '.join(allowed)}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]
        if not 0 <= self.overlap < 1:
            problems.append(f"--overlap {self.overlap} is not a fraction; use 0 <= overlap < 1, for example 0.5")
        if not 0 < self.threshold < 1:
            problems.append(f"--threshold {self.threshold} is no probability; use a number between 0 and 1")
        if not self.sigma_scale > 0:
            problems.append(f"--sigma-scale {self.sigma_scale} is not positive; 8 is usual")
        highest = 22 if self.compressor == "zstd" else 9
        if not 0 <= self.compression_level <= highest:
            problems.append(f"--compression-level {self.compression_level} is not 0 to {highest} for {self.compressor}")
        if self.tta == "rotation" and self.tta_of == "volume":
            problems.append("--tta rotation with --tta-of volume: only mirroring is possible for the whole volume")
        if _weights(self.weights) is None:
            problems.append(f"--weights {self.weights!r} are no weights; write positive numbers, for example 2,1")
        if self.batch_size < 0:
            problems.append(f"--batch-size {self.batch_size} is negative; use 0 for automatic, or a count")
        problems += [p for name in ("patch_size", "chunk") for p in _size_problems(name, getattr(self, name))]
        if self.memory and parse_bytes(self.memory) is None:
            problems.append(f"--memory {self.memory!r} is no amount; write for example 8GB or 500MB")
        if problems:
            raise RequestError(*problems)

    def batches(self, kind: str) -> tuple[int, ...]:
        """Batch sizes to choose from on "cpu" or "cuda", the plainest first."""
        return (self.batch_size,) if self.batch_size else {"cpu": (1,)}.get(kind, (1, 2, 4, 8))

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

    def request(self) -> dict[str, Any]:
        """The values that decide what comes out and are not the default."""
        return decisive(self)

    def defaults(self) -> dict[str, Any]:
        """The defaults of all that decides what comes out."""
        return defaults_of(self)


def decisive(options: Any) -> dict[str, Any]:
    """The values of an options dataclass that decide what comes out, where they are not the default."""
    defaults = defaults_of(options)
    return {name: value for name, value in all_decisive(options).items() if value != defaults[name]}


def all_decisive(options: Any) -> dict[str, Any]:
    """The values of an options dataclass that decide what comes out."""
    return {name: getattr(options, name) for name in defaults_of(options)}


def defaults_of(options: Any) -> dict[str, Any]:
    """The defaults of an options dataclass, of all fields that decide what comes out."""
    return {f.name: f.default for f in fields(options) if f.metadata.get("decides", True)}


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


def part_problems(num_parts: int, part_id: int, overwrite: bool) -> list[str]:
    """What is wrong with a share of a stage."""
    problems = []
    if num_parts < 1 or not 0 <= part_id < num_parts:
        problems.append(f"--part-id {part_id} with --num-parts {num_parts}: use 0 to {max(num_parts, 1) - 1}")
    if overwrite and num_parts > 1:
        problems.append("--overwrite with --num-parts would delete what other parts wrote; delete the output first")
    return problems


def wrong_types(options: Any) -> list[str]:
    """The fields of an options dataclass whose values are of another type than their default."""
    found = []
    for f in fields(options):
        value, wanted = getattr(options, f.name), type(f.default)
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        if not fits and not (wanted is float and type(value) is int):
            found.append(f"{f.name}={value!r}: {wanted.__name__} expected, for example {f.default!r}")
    return found


def parse_size(text: str) -> tuple[int, int, int] | None:
    """Voxels z y x from "z,y,x" or one number for all three; None for an empty text."""
    if not text:
        return None
    numbers = [int(part) for part in text.split(",")]
    z, y, x = numbers * 3 if len(numbers) == 1 else numbers
    return z, y, x


def parse_bytes(text: str) -> int | None:
    """Bytes from "8GB", "500 MB", "2GiB" or a plain number; None where it is no amount.

    >>> parse_bytes("1.5GB"), parse_bytes("2GiB"), parse_bytes("lots")
    (1500000000, 2147483648, None)
    """
    units = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "b": 1}
    low = text.strip().lower()
    unit = next((u for u in sorted(units, key=len, reverse=True) if low.endswith(u)), "")
    try:
        value = float(low.removesuffix(unit))
    except ValueError:
        return None
    return int(value * units.get(unit, 1)) if value > 0 else None


def _size_problems(name: str, text: str) -> list[str]:
    flag = "--" + name.replace("_", "-")
    try:
        size = parse_size(text)
    except ValueError:
        return [f"{flag} {text!r} is no size; write z,y,x in voxels, for example 128,128,128"]
    if size and min(size) < 1:
        return [f"{flag} {text!r} has a side below one voxel"]
    return []
