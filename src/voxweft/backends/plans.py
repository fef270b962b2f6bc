"""``plans.json`` and ``dataset.json`` of nnU-Net v2 as typed objects, with what voxweft needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from voxweft.errors import ModelError
from voxweft.foreign import checked, small_file

Number = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Label = Annotated[int, Field(ge=0, le=1 << 31)]


def _by_position(value: Any) -> Any:
    """A list of names as a dictionary: position by name, or name by position."""
    return {str(name): n for n, name in enumerate(value)} if isinstance(value, list) else value


def _numbered(value: Any) -> Any:
    return {str(n): name for n, name in enumerate(value)} if isinstance(value, list) else value


class Architecture(BaseModel):
    """The network of nnU-Net 2.5 and later."""

    network_class_name: str
    arch_kwargs: dict[str, Any]
    needs_import: list[str] = Field(default=[], alias="_kw_requires_import")


class Kernel(BaseModel):
    """How something is resampled."""

    order: Annotated[int, Field(ge=0, le=5)] = 1
    order_z: Annotated[int, Field(ge=0, le=5)] = 0
    force_separate_z: bool | None = None
    mode: str = "linear"


class Configuration(BaseModel):
    """A configuration; what another one gives is filled in by :func:`configuration_of`."""

    patch_size: Annotated[list[Side], Field(min_length=2, max_length=3)]
    spacing: Annotated[list[Length], Field(min_length=2, max_length=3)]
    normalization_schemes: list[str] = ["ZScoreNormalization"]
    use_mask_for_norm: list[bool] = []
    resampling_fn_data: str = "resample_data_or_seg_to_shape"
    resampling_fn_data_kwargs: Kernel = Kernel(order=3)
    resampling_fn_probabilities: str = "resample_data_or_seg_to_shape"
    resampling_fn_probabilities_kwargs: Kernel = Kernel(order=1)
    previous_stage: str | None = None
    architecture: Architecture | None = None
    UNet_class_name: str | None = None
    UNet_base_num_features: Side = 32
    unet_max_num_features: Side = 320
    conv_kernel_sizes: list[list[Side]] = []
    pool_op_kernel_sizes: list[list[Side]] = []
    n_conv_per_stage_encoder: list[Side] = []
    n_conv_per_stage_decoder: list[Side] = []

    @property
    def strides(self) -> list[list[int]]:
        """Of every stage, z y x."""
        found: Any = self.architecture.arch_kwargs.get("strides") if self.architecture else self.pool_op_kernel_sizes
        return [[s] * 3 if isinstance(s, int) else list(s) for s in found or [[1, 1, 1]]]


class Foreground(BaseModel):
    """Grey values of the training foreground."""

    mean: Number | None = None
    std: Number | None = None
    percentile_00_5: Number | None = None
    percentile_99_5: Number | None = None


class Plans(BaseModel):
    """The file."""

    configurations: dict[str, dict[str, Any]]
    transpose_forward: list[int] = [0, 1, 2]
    foreground_intensity_properties_per_channel: dict[str, Foreground] = {}


class Dataset(BaseModel):
    """The file. ``labels`` of older or converted data sets is a list; so may be the channels."""

    labels: Annotated[dict[str, Label | list[Label]], BeforeValidator(_by_position), Field(min_length=1)]
    channel_names: Annotated[dict[str, Any], BeforeValidator(_numbered)] = {}
    modality: Annotated[dict[str, Any], BeforeValidator(_numbered)] = {}
    regions_class_order: list[Label] | None = None

    @model_validator(mode="after")
    def _fit(self) -> Dataset:
        if self.is_regions and len(self.regions_class_order or self.foreground) != len(self.foreground):
            n, m = len(self.regions_class_order or ()), len(self.foreground)
            raise ValueError(f"regions_class_order has {n} labels for the {m} regions {', '.join(self.foreground)}")
        return self

    @property
    def n_inputs(self) -> int:
        """Input channels."""
        return len(self.channel_names or self.modality) or 1

    @property
    def is_regions(self) -> bool:
        """Whether classes may overlap: a region is a union of labels."""
        return any(isinstance(v, list) and len(v) > 1 for v in self._classes.values())

    @property
    def foreground(self) -> dict[str, int | list[int]]:
        """The regions, without the background."""
        return {k: v for k, v in self._classes.items() if v not in (0, [0])}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by output channel: regions in their order, labels by their number."""
        if self.is_regions:
            return tuple(self.foreground)
        return tuple(sorted(self._classes, key=lambda name: _first(self._classes[name])))

    @property
    def label_ids(self) -> tuple[int, ...]:
        """What nnU-Net writes for each region, in the order in which it writes them; empty for labels."""
        if not self.is_regions:
            return ()
        return tuple(self.regions_class_order or range(1, len(self.foreground) + 1))

    @property
    def _classes(self) -> Mapping[str, int | list[int]]:
        return {k: v for k, v in self.labels.items() if k != "ignore"}


def _first(value: int | list[int]) -> int:
    return value if isinstance(value, int) else value[0]


def read_plans(root: Path) -> tuple[Plans, Dataset]:
    """Both files of a model folder.

    Raises
    ------
    ModelError
        Naming the file and all that is wrong with it.
    """
    found = []
    for name, model in (("plans.json", Plans), ("dataset.json", Dataset)):
        try:
            found.append(checked(model, small_file(root / name, ModelError), root / name, ModelError))
        except FileNotFoundError:
            raise ModelError(f"{root} has no {name}; a model folder of nnU-Net holds it beside the folds") from None
    return found[0], found[1]  # type: ignore[return-value]


def configuration_of(plans: Plans, name: str, root: Path) -> Configuration:
    """A configuration with what it inherits.

    Raises
    ------
    ModelError
        If it, or what it inherits from, is not there, or is not what it should be.
    """
    own, seen = dict[str, Any](), list[str]()
    parent: Any = name
    while parent:
        if parent not in plans.configurations or parent in seen:
            known = ", ".join(plans.configurations) or "none"
            raise ModelError(f"{root}: the checkpoint is for {name!r} ({parent!r}), plans.json has {known}")
        seen.append(parent)
        own = plans.configurations[parent] | own
        parent = own.pop("inherits_from", None)
    return checked(Configuration, own, f"{root / 'plans.json'}: configuration {name!r}", ModelError)
