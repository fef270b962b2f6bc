"""What a user may ask of a batch of medical images: the options of itk_infer, of nnU-Net, and voxweft's own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from voxweft.engine.fields import Options, decisive, option, size_problems, unknown
from voxweft.engine.options import RunOptions, RuntimeOptions, part_problems
from voxweft.errors import RequestError
from voxweft.runner.workers import LaunchOptions

BACKENDS = ("auto", "mmengine", "onnx", "nnunet", "torch")
FORMATS = ("", "nii.gz", "nii", "mha", "nrrd", "dicom-seg")


@dataclass(frozen=True)
class NetworkOptions(Options):
    """Which model, and what it sees."""

    title: ClassVar[str] = "Model"

    backend: str = option("auto", "mmengine, onnx, nnunet, torch, or auto: by the files.")
    model: tuple[str, ...] = option((), "Model folder or file; several times for an ensemble.", names=("--model", "-m"))
    onnx: str = option("", "ONNX model, as itk_infer has it.")
    cfg_path: str = option("", "MMEngine configuration.", names=("--cfg-path", "-cfg"))
    ckpt_path: str = option("", "MMEngine checkpoint, or weights for --network.", names=("--ckpt-path", "-ckpt"))
    network: str = option("", "package.module:factory of the network, instead of --cfg-path.")
    trust_code: str = option("", "Why the code that a configuration names may run, in a word.", decides=False)
    folds: str = option(
        "", "Folds of an nnU-Net model, for example 0,1 or all; default: all there are.", names=("--folds", "-f")
    )
    checkpoint: str = option("", "File of each fold; default checkpoint_final.pth.", names=("--checkpoint", "-chk"))
    wl: str = option("", "Window level (centre), in the unit of the images; default: the model's.")
    ww: str = option("", "Window width; default: the model's.")
    accept_labels: bool = option(False, "Run although an input looks like labels, not like an image.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, backend=BACKENDS)
        for name in ("wl", "ww"):
            if (text := getattr(self, name)) and _number(text) is None:
                problems.append(f"--{name} {text!r} is no number")
        if bool(self.wl) != bool(self.ww):
            problems.append("--wl and --ww belong together: give both, or none for those of the model")
        elif self.ww and (_number(self.ww) or 0) <= 0:
            problems.append(f"--ww {self.ww} is no width; use a number above 0")
        if self.backend == "mmengine" and not (self.ckpt_path and (self.cfg_path or self.network)):
            problems.append("--backend mmengine needs --cfg-path and --ckpt-path (or --network and --ckpt-path)")
        if self.backend == "onnx" and not (self.onnx or self.model):
            problems.append("--backend onnx needs --onnx MODEL.onnx")
        if self.backend in ("auto", "nnunet", "torch") and not (self.model or self.onnx or self.ckpt_path):
            problems.append("a model is missing: --model PATH, --onnx FILE, or --cfg-path and --ckpt-path")
        return problems

    @property
    def grey_window(self) -> tuple[float, float] | None:
        """Lowest grey value that is told apart, and width; None where the model decides."""
        level, width = _number(self.wl), _number(self.ww)
        return None if level is None or width is None else (level - width / 2, width)


@dataclass(frozen=True)
class PatchOptions(Options):
    """Where patches lie, and how often they are seen."""

    title: ClassVar[str] = "Patches"

    patch_size: str = option("", "Patch z,y,x (or three integers) in voxels; default: the model's.")
    patch_stride: str = option("", "Voxels z,y,x between patches; default: by --step-size (ONNX: as its metadata say).")
    step_size: float = option(0.5, "Step as a fraction of the patch, 0 < s <= 1.")
    window: str = option("auto", "Blend weights: gaussian, uniform, ...; auto: gaussian for nnU-Net, else uniform.")
    tta: str = option("auto", "mirroring or none; auto: mirroring for nnU-Net models that were trained with it.")
    disable_tta: bool = option(False, "No mirroring.")
    threshold: float = option(0.5, "Probability above which a voxel is foreground, for models of one channel.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        problems = unknown(self, tta=("auto", "none", "mirroring"))
        if not 0 < self.step_size <= 1:
            problems.append(f"--step-size {self.step_size} is no fraction of the patch; use 0 < s <= 1")
        return (
            problems + size_problems("patch_size", self.patch_size) + size_problems("patch_stride", self.patch_stride)
        )


@dataclass(frozen=True)
class CaseOptions(Options):
    """Which cases."""

    title: ClassVar[str] = "Cases"

    recursive: bool = option(False, "Search the folders below the input folder too.", decides=False)
    list: str = option("", "Cases from a csv (case, files) or json file instead of a search.", decides=False)


@dataclass(frozen=True)
class FileOptions(Options):
    """What is written."""

    title: ClassVar[str] = "Results"

    orientation: str = option("original", "Of the result's axes: original, or LPI as itk_infer writes it.")
    output_format: str = option("", "nii.gz, nii, mha, nrrd or dicom-seg; default: the input's.")
    save_logits: bool = option(False, "Logits too, NAME.zarr: float16 [C, Z, Y, X] on the grid of the result.")
    save_conf: bool = option(False, "Confidence of every case and label, also in confidences.xlsx and .csv.")
    save_probabilities: bool = option(False, "Probabilities too, NAME.npz as nnU-Net has it: float32 [C, Z, Y, X].")
    uncertainty: bool = option(False, "A map of the entropy of every voxel, 0 to 1: NAME_uncertainty.")
    preview: bool = option(False, "A picture a case, previews/NAME.png: three planes, and the labels seen through.")
    postprocessing: bool = option(False, "Keep the largest component of each label.")
    roi_subset: tuple[str, ...] = option((), "Write these labels only (names or numbers; may be given several times).")
    split: bool = option(False, "One file a label, NAME/LABEL, too.")
    bids: bool = option(False, "Names of BIDS derivatives: ..._desc-voxweft_dseg, with a table of the labels.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        return unknown(self, orientation=("original", "LPI"), output_format=FORMATS)


@dataclass(frozen=True)
class MedicalOptions(FileOptions, RuntimeOptions, PatchOptions, NetworkOptions, CaseOptions):
    """All that a batch is asked for.

    Raises
    ------
    RequestError
        If values are impossible, or no model is named; all problems at once.
    """

    fp16: bool = option(False, "16-bit arithmetic, on GPUs; CPUs have no use for it.")

    def __post_init__(self) -> None:
        if isinstance(self.model, (str, Path)):
            object.__setattr__(self, "model", (str(self.model),))
        super().__post_init__()

    def request(self) -> dict[str, Any]:
        """The values that decide what comes out and are not the default."""
        return decisive(self)


@dataclass(frozen=True)
class BatchExecution(LaunchOptions):
    """Where the cases are computed."""

    title: ClassVar[str] = "Where to compute it"

    num_proc: int = option(1, "Cases at once, each in a process of its own.", decides=False)
    gpus: int = option(0, "GPUs to spread them over; 0: one, where there is one.", decides=False)
    num_parts: int = option(1, "Do only a share of the cases: of so many shares ...", decides=False)
    part_id: int = option(0, "... this one, from 0.", decides=False)
    overwrite: bool = option(False, "Compute finished cases again; replace files of other programs.", decides=False)
    continue_prediction: bool = option(False, "Finished cases are skipped in any case.", decides=False)
    command: str = ""

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        problems = part_problems(self.num_parts, self.part_id)
        if self.num_proc < 1:
            problems.append(f"--num-proc {self.num_proc}: use 1 or more")
        if self.gpus < 0:
            problems.append(f"--gpus {self.gpus} is negative")
        if problems:
            raise RequestError(*problems)


@dataclass(frozen=True)
class NnunetRun(RunOptions):
    """How nnU-Net tiles: evenly spread patches, a volume that is too small padded with zeros."""


@dataclass(frozen=True)
class ItkRun(RunOptions):
    """How itk_infer tiles: fixed steps, a volume that is too small padded with its outermost voxels."""

    pad_with: ClassVar[Literal["zeros", "edge"]] = "edge"


def runtime_of(options: MedicalOptions) -> dict[str, Any]:
    """The options of the runtime, for a run."""
    return {f.name: getattr(options, f.name) for f in fields(RuntimeOptions)}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
