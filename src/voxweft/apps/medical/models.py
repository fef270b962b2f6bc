"""The models of a batch: one, or several of one kind as an ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from voxweft.apps.medical.options import MedicalOptions
from voxweft.backends import load_model
from voxweft.errors import ModelError, RequestError
from voxweft.foreign import checked, small_file
from voxweft.model.card import ModelCard
from voxweft.model.protocols import Model
from voxweft.model.ref import ModelRef, model_ref

NNUNET = "nnU-Net v2"
LARGEST = "remove_all_but_largest_component_from_segmentation"


class RuleArguments(BaseModel):
    """What a rule is for: labels, or regions of several."""

    labels_or_regions: int | list[int | list[int]]


class Rules(BaseModel):
    """``postprocessing.json`` of nnU-Net."""

    postprocessing_fns: list[str] = []
    postprocessing_kwargs: list[RuleArguments] = []


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
    paths = (options.onnx,) if options.onnx else options.model
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


def require_window(card: ModelCard, options: MedicalOptions) -> None:
    """Refuse an ONNX model of itk_infer whose window of grey values nobody gives.

    Raises
    ------
    RequestError
        If neither the request nor the file's metadata do.
    """
    bare = all(one.scheme == "none" for one in card.normalization) and options.grey_window is None
    if options.backend == "onnx" and bare:
        raise RequestError(
            f"--backend onnx requires --wl/--ww: {Path(card.path).name} has no window_level and window_width in its "
            "metadata"
        )


def rules_beside(model: Path) -> list[list[int]]:
    """Groups of labels whose largest component is kept, by the ``postprocessing.json`` of an nnU-Net model.

    What nnU-Net found out is in a pickle too, which is not read: a pickle may run any code.

    Raises
    ------
    ModelError
        If the file asks for something else, or only the pickle is there.
    """
    root = model if (model / "plans.json").exists() else model.parent
    files = sorted(root.glob("**/postprocessing.json")) if (root / "plans.json").exists() else []
    if not files:
        if (root / "plans.json").exists() and (pickled := sorted(root.glob("**/postprocessing.pkl"))):
            raise ModelError(f"{pickled[0]} is a pickle, which is never read; put its postprocessing.json beside it")
        return []
    rules = checked(Rules, small_file(files[0], ModelError), files[0], ModelError)
    groups = []
    for name, arguments in zip(rules.postprocessing_fns, rules.postprocessing_kwargs, strict=True):
        if name != LARGEST:
            raise ModelError(f"{files[0]} asks for {name!r}; voxweft knows {LARGEST}")
        found = arguments.labels_or_regions
        groups += [one if isinstance(one, list) else [one] for one in (found if isinstance(found, list) else [found])]
    return groups
