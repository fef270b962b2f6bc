"""The metadata of OME-Zarr groups as typed objects; what other writers get wrong is refused in a line or left aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from voxweft.errors import VolumeError
from voxweft.foreign import problems

Number = Annotated[float, Field(allow_inf_nan=True)]


def _named(value: Any) -> Any:
    """An axis of version 0.3 is its name alone."""
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return [] if value is None else value


class Axis(BaseModel):
    """One axis."""

    name: str
    unit: Any = None


class Step(BaseModel):
    """A coordinate transformation; other types than scale and translation are left aside."""

    type: str = ""
    scale: list[Number] | None = None
    translation: list[Number] | None = None


class Dataset(BaseModel):
    """A resolution level."""

    path: str
    steps: Annotated[list[Step], BeforeValidator(_listed), Field(alias="coordinateTransformations")] = []


class Multiscale(BaseModel):
    """An image of several levels."""

    axes: list[Annotated[Axis, BeforeValidator(_named)]] = []
    datasets: Annotated[list[Dataset], Field(min_length=1)]
    steps: Annotated[list[Step], BeforeValidator(_listed), Field(alias="coordinateTransformations")] = []
    version: Any = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image of an OME-Zarr group: the first of its multi-scale ones."""

    version: str
    scales: Multiscale
    is_label: bool
    attributes: Mapping[str, Any]

    def placed(self, level: int, n_axes: int) -> tuple[list[float], list[float]]:
        """Voxel size and origin of a level along the stored axes.

        Raises
        ------
        VolumeError
            If a transformation has another number of axes.
        """
        size, origin = [1.0] * n_axes, [0.0] * n_axes
        for step in [*self.scales.datasets[level].steps, *self.scales.steps]:
            for name, values in (("scale", step.scale), ("translation", step.translation)):
                if step.type != name or values is None:
                    continue
                if len(values) != n_axes:
                    raise VolumeError(f"its coordinateTransformations have a {name} of {len(values)} for {n_axes} axes")
                if name == "scale":
                    size = [a * b for a, b in zip(size, values, strict=True)]
                    origin = [a * b for a, b in zip(origin, values, strict=True)]
                else:
                    origin = [a + b for a, b in zip(origin, values, strict=True)]
        return size, origin


def image_of(attributes: Mapping[str, Any], url: str) -> Image | None:
    """The image that the attributes of a group describe; None where they describe none.

    Raises
    ------
    VolumeError
        If they describe a plate or a well, or are damaged.
    """
    ome = attributes.get("ome")
    ome = ome if isinstance(ome, dict) else attributes
    for kind, inside in (("plate", "the path of a well and its field, such as A/1/0"), ("well", "the path of a field")):
        if kind in ome:
            raise VolumeError(f"{url} is a {kind} of OME-Zarr, with many images; give {inside}, below it")
    listed = ome.get("multiscales")
    if not listed:
        return None
    if not isinstance(listed, list) or not isinstance(listed[0], dict):
        raise VolumeError(f"{url}: multiscales is {str(listed)[:60]}, not a list of objects")
    version = str(ome.get("version") or listed[0].get("version") or "0.4")
    if version.startswith("0.6") or "coordinateSystems" in listed[0]:
        raise VolumeError(
            f"{url} is OME-Zarr {version[:20]}, whose coordinate systems voxweft does not read; "
            "give the path of its array"
        )
    try:
        scales = Multiscale.model_validate(listed[0])
    except ValidationError as error:
        raise VolumeError(f"{url}: multiscales: {problems(error)}") from error
    return Image(version[:20], scales, "image-label" in ome, attributes)
