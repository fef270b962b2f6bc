"""The models of a batch: one, or several of one kind as an ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxweft.apps.medical.options import MedicalOptions
from voxweft.backends import load_model
from voxweft.errors import ModelError, RequestError
from voxweft.model.card import ModelCard
from voxweft.model.protocols import Model
from voxweft.model.ref import ModelRef, model_ref

NNUNET = "nnU-Net v2"


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Models whose logits are averaged.

    Attributes
    ----------
    refs
        At least one.
    notes
        What the user should know of them.
    """

    refs: tuple[ModelRef, ...]
    notes: tuple[str, ...] = ()

    @property
    def card(self) -> ModelCard:
        """Of the first."""
        return self.refs[0].card

    @property
    def is_nnunet(self) -> bool:
        """Whether cases are prepared as nnU-Net does."""
        return self.card.format == NNUNET


def ensemble_of(options: MedicalOptions) -> Ensemble:
    """The models that are asked for.

    Raises
    ------
    RequestError
        If one cannot be read, is of another kind than ``--backend`` says, or they do not fit together.
    """
    paths = [p.strip() for p in (options.onnx or options.model).split(",") if p.strip()]
    models: list[Model]
    if options.ckpt_path:
        from voxweft.backends.mmengine import load_mmengine

        models = [load_mmengine(options.cfg_path, options.ckpt_path, options.network, options.trust_code)]
    else:
        models = [load_model(path, folds=options.folds, checkpoint=options.checkpoint) for path in paths]
    refs = tuple(model_ref(model) for model in models)
    for ref in refs:
        _require_kind(ref.card, options)
    kinds = {ref.card.format == NNUNET for ref in refs}
    if len(kinds) > 1:
        raise RequestError("models of nnU-Net and others cannot be one ensemble: they prepare cases differently")
    first = refs[0].card
    for ref in refs[1:]:
        for name in ("resampling", "transpose", "normalization", "masked"):
            if getattr(ref.card, name) != getattr(first, name):
                raise ModelError(
                    f"{ref.url} and {refs[0].url} prepare cases differently ({name}); models of one ensemble must not"
                )
    notes = tuple(note for ref in refs for note in ref.card.notes)
    return Ensemble(refs, notes)


def _require_kind(card: ModelCard, options: MedicalOptions) -> None:
    kinds = {"onnx": ("ONNX",), "nnunet": (NNUNET,), "torch": ("TorchScript", "torch.export", "fake")}
    wanted, name = kinds.get(options.backend), Path(card.path).name
    if wanted and not card.format.startswith(wanted):
        raise RequestError(f"--backend {options.backend}: {name} is {card.format}")
    bare = all(one.scheme == "none" for one in card.normalization) and options.grey_window is None
    if options.backend == "onnx" and bare:
        raise RequestError(
            f"--backend onnx requires --wl/--ww: {name} has no window_level and window_width in its metadata"
        )
