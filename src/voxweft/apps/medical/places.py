"""What the files of a case are called, and its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping

from voxweft.apps.medical.cases import DICOM, Case
from voxweft.apps.medical.options import MedicalOptions
from voxweft.model.ref import ModelRef


def places_of(case: Case, options: MedicalOptions, numbers: Mapping[str, str] | None = None) -> dict[str, str]:
    """The files of a case below the output folder, by what they hold."""
    ending = f".{options.output_format}" if options.output_format else case.ending
    ending = ".nii.gz" if ending == DICOM else ".dcm" if options.output_format == "dicom-seg" else ending
    plain = ".nii.gz" if ending == ".dcm" else ending
    stem = case.stem if case.key == case.stem else case.key
    name = _bids_name(case.stem) if options.bids else case.stem
    found = {"result": name + ending, "statistics": f"statistics/{stem}.json"}
    if options.bids:
        found["table"] = f"{name}.tsv"
    if options.save_logits:
        found["logits"] = case.logits
    if options.uncertainty:
        found["uncertainty"] = f"{case.stem}_uncertainty{plain}"
    if options.save_probabilities:
        found["probabilities"] = f"{stem}.npz"
    if options.preview:
        found["preview"] = f"previews/{stem}.png"
    return found | {f"label-{n}": f"{stem}/{_file_name(name, n)}{plain}" for n, name in (numbers or {}).items()}


def _file_name(name: str, number: str) -> str:
    """The name of a label as that of a file: without what leads to other folders."""
    return re.sub(r"[^\w+ -]+", "_", name).strip("_ ") or f"label_{number}"


def _bids_name(stem: str) -> str:
    """The name of a derivative: ``sub-01_T1w`` gives ``sub-01_desc-voxweft_dseg``."""
    folder, slash, name = stem.rpartition("/")
    entities = [part for part in name.split("_") if "-" in part] or [name]
    return f"{folder}{slash}{'_'.join(entities)}_desc-voxweft_dseg"


def label_names(ref: ModelRef) -> dict[str, str]:
    """Names of the labels of a model by their numbers as text, without background."""
    card = ref.card
    if card.activation == "softmax":
        numbers = range(1, max(2, card.n_classes))
        names = card.class_names[1:]
    else:
        numbers = card.label_ids or range(1, card.n_classes + 1)  # type: ignore[assignment]
        names = card.class_names
    return {str(n): names[k] if k < len(names) else f"label_{n}" for k, n in enumerate(numbers)}
