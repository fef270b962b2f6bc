"""What a case leaves: its labels, and on request logits, probabilities, uncertainty, statistics, a picture."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.gather import Gathered
from voxweft.engine.op import Made, gather_op
from voxweft.engine.opened import Readable
from voxweft.geometry.box import Box, Zyx
from voxweft.ops.components import keep_largest
from voxweft.ops.statistics import LabelFacts, facts_of, label_statistics
from voxweft.stores import open_volume
from voxweft.stores.arrays import Turn, write_array
from voxweft.stores.dicom_seg import write_dicom_seg
from voxweft.stores.durable import sync, sync_folders
from voxweft.stores.itk import image_like, series_files, turn_of, write_itk
from voxweft.stores.nifti import write_nifti_like

SLAB = 32  # planes that are copied at once
PALETTE = (
    (230, 75, 53),
    (77, 187, 213),
    (0, 160, 135),
    (243, 155, 127),
    (132, 145, 180),
    (145, 209, 194),
    (126, 97, 72),
)


@gather_op
def write_files(gathered: Gathered, *, case: Mapping[str, Any]) -> Made:
    """Write the files of a case; each is whole when it has its name.

    Parameters
    ----------
    gathered
        Outputs of the stage "sweep", in the order of ``case["outputs"]``, and tables of "sweep" and "statistics".
    case
        ``sources``: files of the channels; ``order``: axes of the file in those of the outputs; ``names``: of the
        labels, by number as text; ``orientation``; ``only``: labels to be written, empty for all; ``voxel_ml``.
    """
    made = dict(zip(case["outputs"], gathered.outputs["sweep"], strict=True))
    places = {name: Path(url) for name, url in gathered.files.items()}
    source, save = (
        str(case["sources"][0]),
        _Saver(str(case["sources"][0]), case["orientation"], Path(case["temporary"])),
    )
    labels, facts, order = _labels(made["labels"], gathered, case)
    summary = _summary(facts, gathered, case, order)
    if places["result"].suffix == ".dcm":
        files = series_files(source)
        save.place(places["result"], lambda path: write_dicom_seg(path, files, labels, case["names"], case["model"]))
    else:
        save.volume(places["result"], labels, _words(case["names"]))
    for number in case["names"]:
        if f"label-{number}" in places:
            save.volume(places[f"label-{number}"], (labels == int(number)).astype(np.uint8), {})
    _write_maps(made, places, save, case)
    if "preview" in places:
        from voxweft.apps.medical.preview import picture

        image = picture(source, labels, np.array(PALETTE, np.uint8))
        save.place(places["preview"], image.save)
    if "table" in places:
        rows = ["index\tname", *(f"{number}\t{name}" for number, name in case["names"].items())]
        save.place(places["table"], lambda path: path.write_text("\n".join(rows) + "\n", encoding="utf-8"))
    text = json.dumps(summary, indent=1)
    save.place(places["statistics"], lambda path: path.write_text(text, encoding="utf-8"))
    return Made(table={"voxels": np.array([f.voxels for f in facts] or [0])})


def _labels(
    readable: Readable, gathered: Gathered, case: Mapping[str, Any]
) -> tuple[NDArray[Any], tuple[LabelFacts, ...], Sequence[int]]:
    """The labels [Z, Y, X] that are written, what is known of them, and the axes of the file in those of the facts."""
    labels = _in_order(readable, case["order"])[0]
    facts = facts_of((table for _, table in gathered.tables("statistics")), readable.shape_zyx)
    order: Sequence[int] = case["order"]
    if case["keep_largest"]:
        labels = keep_largest(labels, case["keep_largest"])
        image = open_volume(case["sources"][0])
        grey = image.read(Box.of(image.info.shape_zyx))[0]
        facts = facts_of([label_statistics(labels, grey, (0, 0, 0), case["n_labels"])], labels.shape)
        order = (0, 1, 2)
    if case["only"]:
        labels = np.where(np.isin(labels, case["only"]), labels, 0).astype(labels.dtype)
    return labels, facts, order


def _write_maps(
    made: Mapping[str, Readable], places: Mapping[str, Path], save: _Saver, case: Mapping[str, Any]
) -> None:
    """Uncertainty, logits and probabilities, where they are wanted."""
    if "uncertainty" in places:
        save.volume(places["uncertainty"], _in_order(made["entropy"], case["order"])[0], {})
    if "logits" in places:
        save.logits(places["logits"], made["merged"], case)
    if "probabilities" in places:
        values = _certain_outside(made["probability32"], case)
        save.place(places["probabilities"], lambda path: np.savez_compressed(path, probabilities=values))


class _Saver:
    """Writes files, volumes among them on the grid of a file; ``temporary`` is a folder on the same disk."""

    def __init__(self, source: str, orientation: str, temporary: Path) -> None:
        self._source, self._orientation = source, "" if orientation == "original" else orientation
        self._temporary = temporary

    def place(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write into a temporary folder, then give all that was written its names: data before the header."""
        folder = self._temporary / uuid.uuid4().hex[:16]
        folder.mkdir(parents=True)
        try:
            write(folder / path.name)
            for made in sorted(folder.iterdir(), key=lambda p: p.name == path.name):
                if made.is_file():
                    sync(made)
                target = path.parent / made.name
                if target.is_dir():
                    shutil.rmtree(target)
                made.replace(target)
            sync_folders(path, path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def volume(self, path: Path, values: NDArray[Any], words: Mapping[str, str]) -> None:
        """A volume [Z, Y, X], in the format of its ending."""
        nifti = (".nii", ".nii.gz")
        if self._source.lower().endswith(nifti) and path.name.lower().endswith(nifti) and not self._orientation:
            self.place(path, lambda place: write_nifti_like(self._source, place, values))
            return
        image = image_like(self._source, values)
        header = words if path.suffix.lower() == ".nrrd" else {}
        self.place(path, lambda place: write_itk(place, image, orientation=self._orientation, words=header))

    def logits(self, path: Path, made: Readable, case: Mapping[str, Any]) -> None:
        """Logits as a zarr array float16 [C, Z, Y, X], aligned with the result, slab by slab."""
        turn, grid = turn_of(self._source, self._orientation)
        order, shape = case["order"], made.shape_zyx
        turn = Turn(tuple(order[axis] for axis in turn.order), turn.flips)
        boxes = [box & Box.of(shape) for box in Box.of(shape).cells((SLAB, *shape[1:]))]
        blocks = ((box, values) for box in boxes if (values := made.read(box)) is not None)
        attributes = {"classes": case["names"], **grid}
        size = (case["n_channels"], *shape)
        self.place(path, lambda place: write_array(place, blocks, size, turn, attributes))


def _summary(
    facts: Sequence[LabelFacts], gathered: Gathered, case: Mapping[str, Any], order: Sequence[int]
) -> dict[str, Any]:
    """What a person wants to know of a case, plain JSON values; indices in the axes of the file, z y x."""
    voxel_ml = case["voxel_ml"]

    def turned(values: Sequence[float]) -> list[float]:
        return [round(float(values[axis]), 3) for axis in order]

    labels = {}
    for number, name in case["names"].items():
        fact = facts[int(number)] if int(number) < len(facts) else LabelFacts(0)
        found: dict[str, Any] = {
            "label": int(number),
            "voxels": fact.voxels,
            "volume_ml": round(fact.voxels * voxel_ml, 4),
        }
        if fact.box and fact.centroid_zyx:
            box = zip(turned(fact.box.start), turned(fact.box.stop), strict=True)
            found |= {
                "mean": fact.mean,
                "std": fact.std,
                "bounding_box_zyx": [[int(a), int(b)] for a, b in box],
                "centroid_zyx": turned(fact.centroid_zyx),
                "touches_border": fact.touches_border,
            }
        labels[name] = found
    summary: dict[str, Any] = {"case": case["name"], "sources": case["sources"], "labels": labels}
    tallied = [table for _, table in gathered.tables("sweep")] if case["confidence"] else []
    if tallied:
        voxels = np.concatenate([t["voxels"] for t in tallied]).sum(axis=0)
        sums = np.concatenate([t["confidence"] for t in tallied]).sum(axis=0)
        summary["confidence"] = float(sums.sum() / max(1, voxels.sum()))
        for number, name in case["names"].items():
            n = int(voxels[int(number)]) if int(number) < len(voxels) else 0
            labels[name]["confidence"] = float(sums[int(number)] / n) if n else None
    return summary


def _words(names: Mapping[str, str]) -> dict[str, str]:
    """Names and colours of labels as 3D Slicer reads them in the header of an NRRD."""
    words: dict[str, str] = {}
    for n, (number, name) in enumerate(names.items()):
        colour = " ".join(f"{c / 255:.4f}" for c in PALETTE[n % len(PALETTE)])
        words |= {
            f"Segment{n}_ID": f"Segment_{number}",
            f"Segment{n}_Name": name,
            f"Segment{n}_LabelValue": number,
            f"Segment{n}_Layer": "0",
            f"Segment{n}_Color": colour,
        }
    return words | {"Segmentation_MasterRepresentation": "Binary labelmap"}


def _certain_outside(readable: Readable, case: Mapping[str, Any]) -> NDArray[Any]:
    """Probabilities [C, Z, Y, X]; where nothing was computed, class 0 of classes that exclude each other is certain."""
    values = _in_order(readable, case["order"])
    if case["exclusive"]:
        inside = np.zeros(readable.shape_zyx, np.bool_)
        inside[tuple(slice(a, b) for a, b in case["box"])] = True
        values = np.ascontiguousarray(values)
        values[0][~inside.transpose(case["order"])] = 1
    return values


def _in_order(readable: Readable, order: Sequence[int]) -> NDArray[Any]:
    """All voxels [C, Z, Y, X] in the axes of the file."""
    shape: Zyx = readable.shape_zyx
    values = readable.read(Box.of(shape))
    if values is None:
        raise FileNotFoundError("an output of this case is gone")
    return values.transpose(0, *(axis + 1 for axis in order))
