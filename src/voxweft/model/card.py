"""The card of a model: everything that must equal training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voxweft.errors import ModelError
from voxweft.geometry.box import Zyx
from voxweft.model.contract import InputContract
from voxweft.model.frozen import FrozenDict
from voxweft.model.head import ACTIVATIONS, CENTRES, FIELDS, OFFSETS, Head, channel_ranges
from voxweft.shown import Shown, counted

SCHEMES = (
    "none", "instance_zscore", "global_zscore", "instance_minmax", "percentile_minmax", "global_minmax", "ct",
    "robust_mad",
)  # fmt: skip


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
    robust_mad        (y - median y) / (1.4826 median |y - median y|)     each patch, all its channels together;
                      of y = clip(x, a, b)                                a, b: percentiles lower and upper (1, 99)
    ================  ==================================================  =============================

    Attributes
    ----------
    scheme
        One of the table.
    mean, std, lower, upper
        Given numbers; for ``global_minmax`` lower and upper are the minimum and maximum, for ``robust_mad`` the
        percentiles. None: to be measured, or the usual ones.

    Raises
    ------
    ModelError
        If the scheme is unknown, ``ct`` lacks a number, or a number is impossible.
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
        numbers = {"mean": self.mean, "std": self.std, "lower": self.lower, "upper": self.upper}
        wrong = [f"{name} {n}" for name, n in numbers.items() if n is not None and not math.isfinite(n)]
        wrong += [f"std {self.std}"] if self.std is not None and not self.std > 0 else []
        if self.scheme == "ct" and not (self.lower or 0) < (self.upper or 0):
            wrong.append(f"lower {self.lower} and upper {self.upper}")
        if self.scheme == "robust_mad" and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            wrong.append(f"percentiles {self.percentiles[0]:g} and {self.percentiles[1]:g}")
        if wrong:
            raise ModelError(f"normalization {self.scheme!r} cannot be computed with {', '.join(wrong)}")

    @property
    def percentiles(self) -> tuple[float, float]:
        """Of ``robust_mad``."""
        return (1.0 if self.lower is None else self.lower), (99.0 if self.upper is None else self.upper)

    @property
    def needs_statistics(self) -> bool:
        """Whether one pass over the whole volume is needed before the run."""
        if self.scheme == "global_zscore":
            return self.mean is None or self.std is None
        return self.scheme == "global_minmax" and (self.lower is None or self.upper is None)


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grey values of the training foreground in one channel, in the unit of the images; None where it is not known."""

    mean: float | None = None
    std: float | None = None
    percentile_00_5: float | None = None
    percentile_99_5: float | None = None


@dataclass(frozen=True, slots=True)
class Resampling:
    """How cases are brought to the voxel size of the training, and logits back to theirs, as nnU-Net does.

    Attributes
    ----------
    spacing_zyx
        Voxel size that the network wants, in mm along the axes that it sees; None for an axis that stays as it is.
    order, back
        Of the splines for voxels and for logits.
    order_apart, back_apart
        The same along the coarse axis of anisotropic voxels, where the planes are resampled by themselves.
    apart
        Whether the coarse axis is treated so: True, False, or None where the voxels decide (a side 3 times as long).
    """

    spacing_zyx: tuple[float | None, float | None, float | None]
    order: int = 3
    back: int = 1
    order_apart: int = 0
    back_apart: int = 0
    apart: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelCard(Shown):
    """What a model expects and gives; all that must equal training. Read-only, also inside.

    Attributes
    ----------
    path, format
        Where it was read from; short name of the format ("nnU-Net v2", "TorchScript", ...).
    digest
        sha256 of the weights (hex).
    patch_zyx
        Patch in voxels, or None where any size will do; (1, Y, X) of a network for 2-D images.
    n_inputs, n_classes
        Input channels; output channels of the network, those of all heads together.
    divisor_zyx
        The patch must be a multiple of this, in voxels (product of the strides).
    class_names
        Names by index, or empty.
    activation
        "softmax" (exclusive classes), "sigmoid" (each channel by itself), "none" where outputs are probabilities, or
        "normals" and "raw"; see :class:`~voxweft.model.Head`. With heads that of the first, whatever is given.
    normalization
        One per input channel, or one for all.
    mirror_axes
        Axes (0 z, 1 y, 2 x) that mirroring TTA may flip.
    spacing_zyx, spacing_unit
        Voxel size at training, or None; its unit ("nanometer", "micrometer", ...), or "" where the file has none.
    n_folds
        Networks whose logits are averaged.
    batch_size
        A batch size that the file prescribes, or None.
    n_dimensions
        3, or 2 for a network for images, which is applied slice by slice.
    heads
        The maps that the network returns, in the order of their channels; empty for one that returns one tensor.
    separate
        Whether each head becomes an output of its own; always so where one is no class.
    fixed_patch
        Whether the network takes ``patch_zyx`` and nothing else.
    targets
        Of a network with several tasks in one tensor: first channel and end of each.
    ends_in
        "softmax" or "sigmoid" where the network itself ends in that activation, which is then undone; else "".
    label_ids
        Of sigmoids, which may overlap: the label of each class, in the order in which later ones are written over
        earlier ones; empty where they are 1, 2, 3 and so on.
    intensity
        Grey values of the training foreground, one per input channel; empty where they are not known.
    input_dtype
        numpy dtype of what the network takes.
    things
        Of a panoptic network, the classes whose objects are told apart; the others are one thing each.
    stride_zyx
        Voxels between patches that the file prescribes, or None.
    resampling
        How cases are resampled before and after, or None.
    transpose
        The axes of an image in the order in which the network sees them, as ``numpy.transpose`` takes it.
    masked
        A channel each: whether it is normalised within the mask of non-zero voxels only. Empty: none is.
    divisor
        What grey values are divided by before an ink network sees them, or None.
    normalization_note
        What a user should know of the normalisation, or "".
    notes
        What else a user should know before a run.
    contract
        What an input must be that is like the one of training, or None. No part of a plan: it decides no bit.
    attributes
        What an output is to say beside its own provenance; plain JSON values.
    details
        Whatever else ``voxweft info`` should show; plain JSON values. Nothing is decided by them.

    Raises
    ------
    ModelError
        If heads, channels, dimensions or the activation do not fit together.

    Examples
    --------
    >>> card = ModelCard("net.pt2", "torch.export", "", patch_zyx=(64, 64, 64), n_classes=3)
    >>> card.all_heads
    (Head(name='', n_channels=3, activation='softmax', scale_zyx=(1, 1, 1), stacked=False),)
    >>> ModelCard("net.pt2", "torch.export", "", None, n_classes=3, heads=(Head("cell", 2, "softmax"),))
    Traceback (most recent call last):
    voxweft.errors.ModelError: net.pt2: the heads cell (2) have 2 channels, the model has 3
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
    spacing_unit: str = ""
    n_folds: int = 1
    batch_size: int | None = None
    n_dimensions: int = 3
    heads: tuple[Head, ...] = ()
    fixed_patch: bool = False
    targets: tuple[tuple[int, int], ...] = ()
    ends_in: str = ""
    label_ids: tuple[int, ...] = ()
    intensity: tuple[Intensity, ...] = ()
    input_dtype: str = "float32"
    things: tuple[int, ...] = ()
    stride_zyx: Zyx | None = None
    resampling: Resampling | None = None
    transpose: tuple[int, int, int] = (0, 1, 2)
    masked: tuple[bool, ...] = ()
    divisor: float | None = None
    normalization_note: str = ""
    notes: tuple[str, ...] = ()
    contract: InputContract | None = field(default=None, compare=False)
    attributes: Mapping[str, Any] = field(default_factory=FrozenDict)
    details: Mapping[str, Any] = field(default_factory=FrozenDict)
    separate: bool = False

    def __post_init__(self) -> None:
        for name in ("attributes", "details"):
            object.__setattr__(self, name, FrozenDict(getattr(self, name)))
        if self.heads:
            object.__setattr__(self, "activation", self.heads[0].activation)
            self._check_heads()
            object.__setattr__(self, "separate", self.separate or any(h.activation in FIELDS for h in self.heads))
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ModelError(f"{self.path}: activation {self.activation!r} is unknown; use one of {known}")
        if self.n_dimensions not in (2, 3):
            raise ModelError(f"{self.path}: a network of {self.n_dimensions} dimensions; 2 or 3 can be")
        self._check_numbers()
        thick = [size for size in (self.patch_zyx, *(h.scale_zyx for h in self.heads)) if size and size[0] != 1]
        if self.n_dimensions == 2 and thick:
            raise ModelError(f"{self.path} takes 2-D images; sizes z y x begin with 1, not {thick[0]}")

    def __repr__(self) -> str:
        patch = " x ".join(map(str, self.patch_zyx)) if self.patch_zyx else "any size"
        size = f"patch {patch}, {counted(self.n_inputs, 'channels')} to {counted(self.n_classes, 'classes')}"
        name = self.path if "://" in self.path else self.path.rstrip("/").rpartition("/")[2]
        return f"<model {name}: {self.format}, {size}, {counted(self.n_folds, 'folds')}>"

    def _check_numbers(self) -> None:
        counts = {"n_inputs": self.n_inputs, "n_classes": self.n_classes, "n_folds": self.n_folds}
        sizes = {"patch_zyx": self.patch_zyx or (1,), "divisor_zyx": self.divisor_zyx}
        wrong = [f"{name} {n}" for name, n in counts.items() if n < 1]
        wrong += [f"{name} {size}" for name, size in sizes.items() if min(size) < 1]
        if self.spacing_zyx and not all(math.isfinite(s) and s > 0 for s in self.spacing_zyx):
            wrong.append(f"spacing_zyx {self.spacing_zyx}")
        if not set(self.mirror_axes) <= {0, 1, 2}:
            wrong.append(f"mirror_axes {self.mirror_axes}, of 0 (z), 1 (y) and 2 (x)")
        if len(self.normalization) not in (1, self.n_inputs):
            wrong.append(f"{len(self.normalization)} normalizations for {self.n_inputs} input channels")
        if wrong:
            raise ModelError(f"{self.path}: a network cannot have {'; '.join(wrong)}")

    def _check_heads(self) -> None:
        names = [h.name for h in self.heads]
        if len(set(names)) < len(names) or "" in names:
            raise ModelError(f"{self.path}: every head needs a name of its own, not {', '.join(map(repr, names))}")
        found = sum(h.n_channels for h in self.heads)
        if found != self.n_classes:
            named = ", ".join(f"{h.name} ({h.n_channels})" for h in self.heads)
            raise ModelError(f"{self.path}: the heads {named} have {found} channels, the model has {self.n_classes}")

    @property
    def vectors(self) -> tuple[int, ...]:
        """The first channel of each head with components of vectors: what mirrors the image turns them."""
        spans = zip(self.heads, channel_ranges(self.heads), strict=True)
        return tuple(start for head, (start, _) in spans if head.activation == "normals")

    @property
    def is_panoptic(self) -> bool:
        """Whether it gives maps of centres and offsets, of which whole slices become objects."""
        return {CENTRES, OFFSETS} <= {head.name for head in self.heads}

    @property
    def all_heads(self) -> tuple[Head, ...]:
        """The heads; of a model that names none one head, without a name, of all its channels."""
        return self.heads or (Head("", self.n_classes, self.activation),)
