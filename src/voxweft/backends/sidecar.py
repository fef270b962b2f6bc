"""``NAME.json`` beside ``NAME.pt``, ``NAME.pt2`` or ``NAME.onnx``: what the model file itself does not say.

    {"patch_size": [64, 64, 64], "num_classes": 2, "in_channels": 1, "activation": "softmax",
     "normalization": "instance_zscore", "class_names": ["background", "membrane"], "mirror_axes": [0, 1, 2],
     "spacing": [10, 10, 10]}

Every key may be left out. ``normalization`` is a scheme, or an object with its numbers, such as
``{"scheme": "ct", "lower": -300, "upper": 900, "mean": -300, "std": 1200}``, or a list with one per channel.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from voxweft.errors import ModelError
from voxweft.geometry.box import Zyx
from voxweft.model.card import ModelCard, Normalization


class Sidecar(BaseModel):
    """The keys of the file; anything else is an error."""

    model_config = ConfigDict(extra="forbid")

    patch_size: Zyx | None = None
    divisor: Zyx | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    activation: str | None = None
    normalization: str | Normalization | list[Normalization] | None = None
    class_names: list[str] = []
    mirror_axes: list[int] | None = None
    spacing: tuple[float, float, float] | None = None

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
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ModelError(f"{place}: {where}: {first['msg']}") from error

    def card(self, path: Path, kind: str, **found: Any) -> ModelCard:
        """A card from what the model file tells and what this file adds; this file wins."""
        own = {
            "patch_zyx": self.patch_size,
            "divisor_zyx": self.divisor,
            "n_classes": self.num_classes,
            "n_inputs": self.in_channels,
            "activation": self.activation,
            "class_names": tuple(self.class_names) or None,
            "mirror_axes": None if self.mirror_axes is None else tuple(self.mirror_axes),
            "spacing_zyx": self.spacing,
            "normalization": self._schemes(),
        }
        known = {k: v for k, v in found.items() if v is not None} | {k: v for k, v in own.items() if v is not None}
        if "n_classes" in known:
            known.setdefault("activation", "sigmoid" if known["n_classes"] == 1 else "softmax")
        known.setdefault("patch_zyx", None)
        if "normalization" not in known:
            note = (
                f"{path.name} does not say its normalization, so none is applied; give --normalization if it needs one"
            )
            known["details"] = {**known.get("details", {}), "note": note}
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
