"""What an OME-Zarr 0.5 that voxweft writes says of itself: levels, names, colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxweft.image.colours import NEUTRAL, has_background, of_classes
from voxweft.image.info import OutputSpec
from voxweft.image.place import IDENTITY

CREATOR = {"name": "voxweft"}


def attributes_for(spec: OutputSpec, name: str) -> dict[str, Any]:
    """The attributes of the group of an output of this name; origins move by half a voxel from level to level.

    Labels have ``image-label``, channels of which it is known what they mean have ``omero``.
    """
    many = [1.0] if spec.n_channels > 1 else []
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if many else []
    unit = {"unit": spec.geometry.unit} if spec.geometry.unit else {}
    axes += [{"name": n, "type": "space", **unit} for n in "zyx"]
    datasets = []
    for i, factors in enumerate(spec.level_factors):
        place = spec.geometry.coarser(factors)
        steps = [
            {"type": "scale", "scale": [*many, *place.voxel_size_zyx]},
            {"type": "translation", "translation": [*(0.0 for _ in many), *place.origin_zyx]},
        ]
        datasets.append({"path": str(i), "coordinateTransformations": steps})
    image = {"name": name, "axes": axes, "datasets": datasets, "type": spec.halving}
    ome: dict[str, Any] = {"version": "0.5", "_creator": CREATOR, "multiscales": [image]}
    if spec.is_label:
        ome["image-label"] = _image_label(spec)
    elif spec.shown and len(spec.named) == spec.n_channels:
        ome["omero"] = _omero(spec, name)
    turned = spec.geometry.direction != IDENTITY
    return {"ome": ome} | ({"voxweft": {"direction_zyx": spec.geometry.direction}} if turned else {})


def names_in(ome: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    """The names that were written."""
    if channels := ome.get("omero", {}).get("channels"):
        return tuple((n, one["label"]) for n, one in enumerate(channels))
    told = ome.get("image-label", {}).get("properties") or ()
    return tuple((one["label-value"], one["class"]) for one in told)


def shown_in(ome: Mapping[str, Any]) -> tuple[float, ...]:
    """The values from black to white that were written."""
    channels = ome.get("omero", {}).get("channels")
    return (channels[0]["window"]["start"], channels[0]["window"]["end"]) if channels else ()


def _image_label(spec: OutputSpec) -> dict[str, Any]:
    """Colours and names; of objects, whose number nobody knows beforehand, none, so that viewers choose."""
    if not spec.named:
        return {}
    colours = of_classes([name for _, name in spec.named])
    return {
        "colors": [
            {"label-value": value, "rgba": [*map(int, rgb), 255] if value else [0, 0, 0, 0]}
            for (value, _), rgb in zip(spec.named, colours, strict=True)
        ],
        "properties": [{"label-value": value, "class": name} for value, name in spec.named],
    }


def _omero(spec: OutputSpec, name: str) -> dict[str, Any]:
    """How the channels are shown: each in the colour of its label; background, which is everywhere, only on demand."""
    low, high = spec.shown
    channels = []
    names = [label for _, label in spec.named]
    for n, (label, rgb) in enumerate(zip(names, of_classes(names), strict=True)):
        background = n == 0 and has_background(names)
        colour = NEUTRAL if background else rgb
        channels.append(
            {
                "label": label,
                "color": "".join(f"{int(part):02X}" for part in colour),
                "window": {"min": low, "max": high, "start": low, "end": high},
                "active": not background,
            }
        )
    return {"name": name, "channels": channels}
