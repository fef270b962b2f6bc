"""``NAME.json`` beside ``NAME.pt``, ``NAME.pt2`` or ``NAME.onnx``: what the model file itself does not say.

    {"patch_size": [64, 64, 64], "num_classes": 2, "in_channels": 1, "activation": "softmax",
     "normalization": "instance_zscore", "class_names": ["background", "membrane"], "mirror_axes": [0, 1, 2],
     "spacing": [10, 10, 10], "spacing_unit": "nanometer"}

A network that returns several maps names them, in order; ``scale`` may be left out where a map is as large as the
patch. One for 2-D images says so; its sizes are then y x:

    {"patch_size": [256, 256], "dimensions": 2,
     "heads": [{"name": "cell", "channels": 2, "activation": "softmax"},
               {"name": "edge", "channels": 1, "activation": "sigmoid", "scale": [2, 2]}]}

Every key may be left out. ``normalization`` is a scheme, or an object with its numbers, such as
``{"scheme": "ct", "lower": -300, "upper": 900, "mean": -300, "std": 1200}``, or a list with one per channel.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from voxweft.errors import ModelError
from voxweft.geometry.box import Zyx
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import Head


class SideHead(BaseModel):
    """A head as the file writes it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    channels: int
    activation: str
    scale: Zyx | tuple[int, int] = (1, 1, 1)


class Sidecar(BaseModel):
    """The keys of the file; anything else is an error."""

    model_config = ConfigDict(extra="forbid")

    patch_size: Zyx | tuple[int, int] | None = None
    divisor: Zyx | tuple[int, int] | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    activation: str | None = None
    normalization: str | Normalization | list[Normalization] | None = None
    class_names: list[str] = []
    mirror_axes: list[int] | None = None
    spacing: tuple[float, float, float] | None = None
    spacing_unit: str = ""
    dimensions: Literal[2, 3] = 3
    heads: list[SideHead] = []

    @classmethod
    def beside(cls, path: Path) -> Sidecar:
        """The sidecar of a model file; an empty one where there is none.

        Raises
        ------
        ModelError
            If the file has unknown keys or impossible values.
        """
        place = path.with_suffix(".json")
        try:
            return cls.model_validate_json(place.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            raise ModelError(f"{place}: {field}: {first['msg']}") from error

    @property
    def patch_zyx(self) -> Zyx | None:
        """The patch in voxels; (1, Y, X) where the file says Y X for a network of two dimensions.

        Raises
        ------
        ModelError
            If it has two numbers and the network three dimensions.
        """
        return self._zyx("patch_size", self.patch_size)

    @property
    def axes(self) -> str:
        """What the network takes and gives, in letters."""
        return "[B, C, Y, X]" if self.dimensions == 2 else "[B, C, Z, Y, X]"

    @property
    def n_axes(self) -> int:
        """How many they are."""
        return self.dimensions + 2

    @property
    def own_heads(self) -> tuple[Head, ...] | None:
        """The heads; None where the file names none."""
        scales = [self._zyx("scale", h.scale) or (1, 1, 1) for h in self.heads]
        return tuple(Head(h.name, h.channels, h.activation, s) for h, s in zip(self.heads, scales, strict=True)) or None

    @property
    def n_classes(self) -> int | None:
        """Channels of the output, as far as the file says them: those of all heads."""
        return self.num_classes or sum(h.channels for h in self.heads) or None

    def _zyx(self, name: str, size: Zyx | tuple[int, int] | None) -> Zyx | None:
        if size is None or len(size) == 3:
            return size
        if self.dimensions == 3:
            raise ModelError(f"{name} {list(size)} in the side file has two numbers; give z, y, x, or dimensions 2")
        return (1, *size)

    def card(self, path: Path, kind: str, **found: Any) -> ModelCard:
        """A card from what the model file tells and what this file adds; this file wins."""
        own = {
            "patch_zyx": self.patch_zyx,
            "divisor_zyx": self._zyx("divisor", self.divisor),
            "n_classes": self.n_classes,
            "n_inputs": self.in_channels,
            "activation": self.activation,
            "class_names": tuple(self.class_names) or None,
            "mirror_axes": None if self.mirror_axes is None else tuple(self.mirror_axes),
            "n_dimensions": self.dimensions,
            "spacing_unit": self.spacing_unit,
            "heads": self.own_heads,
            "spacing_zyx": self.spacing,
            "normalization": self._schemes(),
        }
        known = {k: v for k, v in found.items() if v is not None} | {k: v for k, v in own.items() if v is not None}
        if "n_classes" in known:
            known.setdefault("activation", "sigmoid" if known["n_classes"] == 1 else "softmax")
        known.setdefault("patch_zyx", None)
        if heads := known.get("heads"):
            scales = zip(*(h.scale_zyx for h in heads), strict=True)
            known.setdefault("divisor_zyx", tuple(math.lcm(*axis) for axis in scales))
        if self.dimensions == 2:
            known.setdefault("mirror_axes", (1, 2))
        if "normalization" not in known:
            known["normalization_note"] = (
                f"{path.name} does not say its normalization, so none is applied; give --normalization if it needs one"
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return ModelCard(path=str(path), format=kind, digest=digest, **known)

    def _schemes(self) -> tuple[Normalization, ...] | None:
        match self.normalization:
            case None:
                return None
            case str():
                return (Normalization(self.normalization),)
            case list():
                return tuple(self.normalization)
            case _:
                return (self.normalization,)
