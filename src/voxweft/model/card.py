"""The card of a model: everything that must equal training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voxweft.errors import ModelError
from voxweft.geometry.box import Zyx

SCHEMES = ("none", "instance_zscore", "global_zscore", "instance_minmax", "percentile_minmax", "global_minmax", "ct")


@dataclass(frozen=True, slots=True)
class Normalization:
    """How one input channel is scaled before the network sees it; float32 arithmetic.

    ================  ==================================================  =============================
    scheme            formula                                             numbers from
    ================  ==================================================  =============================
    none              x                                                   -
    instance_zscore   (x - mean) / max(std, 1e-8), population std         each patch
    global_zscore     the same                                            the whole volume, or given
    instance_minmax   (x - min) / max(max - min, 1e-8)                    each patch
    percentile_minmax (clip(x, a, b) - a) / (b - a), 0 where a = b        each patch: percentiles 1 and 99
    global_minmax     as instance_minmax                                  the whole volume, or given
    ct                (clip(x, lower, upper) - mean) / max(std, 1e-8)     given (training foreground)
    ================  ==================================================  =============================

    Attributes
    ----------
    scheme
        One of the table.
    mean, std, lower, upper
        Given numbers; for ``global_minmax`` lower and upper are the minimum and maximum. None: to be measured.

    Raises
    ------
    ModelError
        If the scheme is unknown, or ``ct`` lacks a number.
    """

    scheme: str = "none"
    mean: float | None = None
    std: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ModelError(f"normalization {self.scheme!r} is unknown; use one of {', '.join(SCHEMES)}")
        if self.scheme == "ct" and None in (self.mean, self.std, self.lower, self.upper):
            raise ModelError("normalization 'ct' needs mean, std and both percentiles, which this model does not give")

    @property
    def needs_statistics(self) -> bool:
        """Whether one pass over the whole volume is needed before the run."""
        if self.scheme == "global_zscore":
            return self.mean is None or self.std is None
        return self.scheme == "global_minmax" and (self.lower is None or self.upper is None)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model expects and gives; all that must equal training.

    Attributes
    ----------
    path, format
        Where it was read from; short name of the format ("nnU-Net v2", "TorchScript", ...).
    digest
        sha256 of the weights (hex).
    patch_zyx
        Patch in voxels, or None where any size will do.
    divisor_zyx
        The patch must be a multiple of this (product of the strides).
    n_inputs, n_classes
        Input channels; output channels of the network.
    class_names
        Names by index, or empty.
    activation
        "softmax" (exclusive classes), "sigmoid" (each channel by itself), or "none" where outputs are probabilities.
    normalization
        One per input channel, or one for all.
    mirror_axes
        Axes (0 z, 1 y, 2 x) that mirroring TTA may flip.
    spacing_zyx
        Voxel size at training, in the file's unit, or None.
    n_folds
        Networks whose logits are averaged.
    batch_size
        A batch size that the file prescribes, or None.
    details
        Whatever else ``voxweft info`` should show; plain JSON values.
    """

    path: str
    format: str
    digest: str
    patch_zyx: Zyx | None
    n_inputs: int = 1
    n_classes: int = 2
    divisor_zyx: Zyx = (1, 1, 1)
    class_names: tuple[str, ...] = ()
    activation: str = "softmax"
    normalization: tuple[Normalization, ...] = (Normalization(),)
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    spacing_zyx: tuple[float, float, float] | None = None
    n_folds: int = 1
    batch_size: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
