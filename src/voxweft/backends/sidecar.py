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
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from voxweft.errors import ModelError
from voxweft.foreign import checked, small_file
from voxweft.geometry.box import Zyx
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.head import Head

LARGEST = 1 << 16  # voxels of a side, channels


def _once(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("each may be there once")
    return values


def _listed(value: Any) -> Any:
    """One scheme, by its word or with numbers, as a list of one."""
    values = value if isinstance(value, list) else [value]
    return [{"scheme": one} if isinstance(one, str) else one for one in values]


Side = Annotated[int, Field(ge=1, le=LARGEST)]
Size = Annotated[tuple[Side, ...], Field(min_length=2, max_length=3)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Activation = Literal["softmax", "sigmoid", "none"]
Scheme = Literal[
    "none", "instance_zscore", "global_zscore", "instance_minmax", "percentile_minmax", "global_minmax", "ct",
    "robust_mad",
]  # fmt: skip


class SideHead(BaseModel):
    """A head as the file writes it."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    channels: Side
    activation: Activation
    scale: Size = (1, 1, 1)


class SideNormalization(BaseModel):
    """A scheme with its numbers as the file writes it."""

    model_config = ConfigDict(extra="forbid")

    scheme: Scheme = "none"
    mean: Number | None = None
    std: Length | None = None
    lower: Number | None = None
    upper: Number | None = None

    @model_validator(mode="after")
    def _fit(self) -> SideNormalization:
        if self.scheme == "ct" and None in (self.mean, self.std, self.lower, self.upper):
            raise ValueError("scheme ct needs mean, std, lower and upper")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower {self.lower:g} must be less than upper {self.upper:g}")
        return self

    def scheme_of(self) -> Normalization:
        """As a card holds it."""
        return Normalization(self.scheme, self.mean, self.std, self.lower, self.upper)


class Sidecar(BaseModel):
    """The keys of the file; anything else is an error."""

    model_config = ConfigDict(extra="forbid")

    patch_size: Size | None = None
    divisor: Size | None = None
    num_classes: Side | None = None
    in_channels: Side | None = None
    activation: Activation | None = None
    normalization: Annotated[list[SideNormalization], Field(min_length=1), BeforeValidator(_listed)] | None = None
    class_names: Annotated[list[str], AfterValidator(_once)] = []
    mirror_axes: Annotated[list[Annotated[int, Field(ge=0, le=2)]], AfterValidator(_once)] | None = None
    spacing: tuple[Length, Length, Length] | None = None
    spacing_unit: str = ""
    dimensions: Literal[2, 3] = 3
    heads: list[SideHead] = []

    @model_validator(mode="after")
    def _fit(self) -> Sidecar:
        """What no key alone can be wrong about."""
        wrong = []
        names = [head.name for head in self.heads]
        if len(set(names)) < len(names):
            wrong.append(f"heads: the names {', '.join(names)} must differ")
        if self.num_classes and self.heads and sum(h.channels for h in self.heads) != self.num_classes:
            wrong.append(f"num_classes {self.num_classes} is not the sum of the heads' channels")
        if self.class_names and self.n_classes and len(self.class_names) != self.n_classes:
            wrong.append(f"class_names has {len(self.class_names)} names for {self.n_classes} classes")
        schemes = self.normalization or []
        if len(schemes) > 1 and self.in_channels not in (None, len(schemes)):
            wrong.append(f"normalization has {len(schemes)} schemes for in_channels {self.in_channels}")
        sizes = {"patch_size": self.patch_size, "divisor": self.divisor} | {
            f"the scale of {h.name}": h.scale for h in self.heads
        }
        if flat := [f"{k} {list(n)}" for k, n in sizes.items() if n and len(n) == 2 and self.dimensions == 3]:
            wrong.append(f"{', '.join(flat)} has two numbers; give z, y, x, or dimensions 2")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

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
            return checked(cls, small_file(place, ModelError), place, ModelError)
        except FileNotFoundError:
            return cls()

    @property
    def patch_zyx(self) -> Zyx | None:
        """The patch in voxels; (1, Y, X) where the file says Y X for a network of two dimensions."""
        return self._zyx(self.patch_size)

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
        scales = [self._zyx(h.scale) or (1, 1, 1) for h in self.heads]
        return tuple(Head(h.name, h.channels, h.activation, s) for h, s in zip(self.heads, scales, strict=True)) or None

    @property
    def n_classes(self) -> int | None:
        """Channels of the output, as far as the file says them: those of all heads."""
        return self.num_classes or sum(h.channels for h in self.heads) or None

    @staticmethod
    def _zyx(size: tuple[int, ...] | None) -> Zyx | None:
        return None if size is None else (1, *size) if len(size) == 2 else (size[0], size[1], size[2])

    def card(self, path: Path, kind: str, *, ends_in: str = "", **found: Any) -> ModelCard:
        """A card from what the model file tells and what this file adds; this file wins.

        Parameters
        ----------
        path, kind
            The model file and its format.
        ends_in
            The activation that the network was seen to end in, or "".
        **found
            Fields of the card.

        Raises
        ------
        ModelError
            If this file names another activation than the network ends in.
        """
        ends_in = "" if self.activation == "none" or self.heads else ends_in
        if ends_in and self.activation not in (None, ends_in):
            raise ModelError(
                f"{path.with_suffix('.json')}: activation {self.activation!r}, but the network ends in a {ends_in}",
                f"Write {ends_in!r}, or 'none' to take what it gives for probabilities.",
            )
        if ends_in:
            text = f"the network ends in a {ends_in}, which voxweft undoes: logits are blended, none is activated twice"
            found |= {"activation": ends_in, "ends_in": ends_in, "notes": (text,)}
        own = {
            "patch_zyx": self.patch_zyx,
            "divisor_zyx": self._zyx(self.divisor),
            "n_classes": self.n_classes,
            "n_inputs": self.in_channels,
            "activation": self.activation,
            "class_names": tuple(self.class_names) or None,
            "mirror_axes": None if self.mirror_axes is None else tuple(self.mirror_axes),
            "n_dimensions": self.dimensions,
            "spacing_unit": self.spacing_unit,
            "heads": self.own_heads,
            "spacing_zyx": self.spacing,
            "normalization": tuple(one.scheme_of() for one in self.normalization or ()) or None,
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
        if "digest" not in known:
            with path.open("rb") as file:
                known["digest"] = hashlib.file_digest(file, "sha256").hexdigest()
        return ModelCard(path=str(path), format=kind, **known)
