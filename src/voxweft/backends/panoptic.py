"""Panoptic networks for slices, as empanada exports them: a TorchScript file and a yaml that describes it.

    NAME.yaml    model, model_quantized, norms, padding_factor, labels, thing_list, class_names
    NAME.pth     model(image [1, 1, Y, X], render_steps, interpolate_ins) -> sem_logits, ctr_hmp, offsets

Both are given by the path of either, or by the name of a yaml in ``~/.empanada/configs``.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import urllib.request
import warnings
from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from voxweft.backends.described import REGISTRY, description_of
from voxweft.backends.maps import PanopticModel, maps_of
from voxweft.errors import ModelError, first_line
from voxweft.foreign import checked, local, small_file
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import CENTRES, COARSE, OFFSETS, SEMANTIC, Head

SMALLEST_PADDING = 16
DOWNLOAD_S = 60


class Norms(BaseModel):
    """Mean and standard deviation of the training images, as fractions of the largest value of their dtype."""

    mean: float = Field(allow_inf_nan=False)
    std: float = Field(gt=0, allow_inf_nan=False)


class Description(BaseModel):
    """The yaml of a model."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str
    model_quantized: str | None = None
    norms: Norms
    padding_factor: int = Field(default=128, ge=1)
    labels: list[int] = Field(default=[1], min_length=1)
    thing_list: list[int] = []
    class_names: dict[int, str] = {}
    description: str = ""

    @model_validator(mode="after")
    def _things_are_classes(self) -> Description:
        if unknown := set(self.thing_list) - set(self.labels):
            raise ValueError(f"thing_list has {sorted(unknown)}, which labels {self.labels} do not have")
        return self


def load(
    path: Path, *, inference_scale: int = 1, fine_boundaries: bool = False, use_quantized: bool = False
) -> PanopticModel:
    """Read a model.

    Parameters
    ----------
    path
        Of the yaml, or of the TorchScript file beside it.
    inference_scale
        By how much the images are smaller that it is given; the classes come back at full size.
    fine_boundaries
        Whether centres and offsets come back as large as its input, and not at a quarter.
    use_quantized
        Whether the 8-bit twin is taken, which runs on CPUs only.

    Raises
    ------
    ModelError
        If the yaml or the file is missing, damaged, or they do not fit together.
    """
    described = description_of(path)
    if described is None:
        raise ModelError(f"{path} is described by no yaml with norms and padding_factor")
    try:
        values = yaml.safe_load(small_file(described, ModelError))
    except yaml.YAMLError as error:
        raise ModelError(f"{described} is no YAML: {first_line(error)}") from error
    about = checked(Description, values, str(described), ModelError)
    if use_quantized and not about.model_quantized:
        raise ModelError(f"{described} names no model_quantized; leave --use-quantized out")
    file = _weights(about.model_quantized if use_quantized and about.model_quantized else about.model, described)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of TorchScript
            module = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # of a damaged one torch raises whatever it meets
        raise ModelError(f"{file} cannot be read as TorchScript: {first_line(error)}") from error
    side = math.lcm(about.padding_factor, SMALLEST_PADDING)
    n_semantic = maps_of(module, torch.zeros((1, 1, side, side)), 2, False, str(file))[SEMANTIC].shape[1]
    return PanopticModel(
        _card(about, described, file, int(n_semantic), use_quantized, COARSE if not fine_boundaries else 1),
        module,
        inference_scale,
        fine_boundaries,
    )


def _card(about: Description, described: Path, file: Path, n_semantic: int, quantized: bool, coarse: int) -> ModelCard:
    names = {0: "background"} | about.class_names
    largest = max(about.labels)
    if largest >= max(2, n_semantic):
        raise ModelError(
            f"{described} has labels {about.labels}, its network {n_semantic} semantic channel(s): they do not fit"
        )
    return ModelCard(
        path=str(described),
        format="panoptic TorchScript",
        digest=hashlib.sha256(file.read_bytes()).hexdigest(),
        patch_zyx=None,
        n_classes=n_semantic + 3,
        divisor_zyx=(1, about.padding_factor, about.padding_factor),
        class_names=tuple(names.get(n, f"class {n}") for n in range(largest + 1)),
        normalization=(Normalization("global_zscore", mean=about.norms.mean, std=about.norms.std),),
        normalization_note="mean and std are fractions of the largest value of the image's dtype",
        mirror_axes=(),
        n_dimensions=2,
        heads=(
            Head(SEMANTIC, n_semantic, "sigmoid" if n_semantic == 1 else "softmax"),
            Head(CENTRES, 1, "none", (1, coarse, coarse)),
            Head(OFFSETS, 2, "none", (1, coarse, coarse)),
        ),
        things=tuple(about.thing_list),
        details={
            "label divisor": "10000 unless --label-divisor says otherwise",
            "classes": {str(n): names.get(n, f"class {n}") for n in about.labels},
            "things": [names.get(n, f"class {n}") for n in about.thing_list],
            "padding factor": about.padding_factor,
            "weights": file.name,
            "quantized": quantized,
            **({"description": about.description.strip()} if about.description else {}),
        },
    )


def _weights(place: str, described: Path) -> Path:
    """The file of the weights: beside the yaml, elsewhere, or fetched once into ``~/.empanada``."""
    if not place.startswith(("http://", "https://")):
        file = described.parent / local(place)
        if not file.is_file():
            raise ModelError(f"{described} names the model {place}, and {file} is not there")
        return file
    cached = REGISTRY.expanduser() / Path(place.partition("?")[0]).name
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                urllib.request.urlopen(place, timeout=DOWNLOAD_S) as source,
                tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as target,
            ):
                shutil.copyfileobj(source, target)
            Path(target.name).rename(cached)
        except OSError as error:
            raise ModelError(
                f"{place} cannot be fetched: {first_line(error)}", f"Fetch it yourself and put it at {cached}."
            ) from error
    return cached
