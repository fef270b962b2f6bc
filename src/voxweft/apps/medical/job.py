"""One case: its plan, its stages, its files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxweft.apps.medical.book import RECORDS, CaseBook, n_bytes
from voxweft.apps.medical.cases import Case, require_files
from voxweft.apps.medical.files import write_files
from voxweft.apps.medical.models import rules_beside
from voxweft.apps.medical.options import ItkRun, MedicalOptions, NnunetRun, runtime_of
from voxweft.apps.medical.places import label_names, places_of
from voxweft.apps.medical.space import open_case, plain, prepare
from voxweft.engine.events import Emit, silent
from voxweft.engine.fields import parse_size
from voxweft.engine.labels import statistics_block
from voxweft.engine.op import Op
from voxweft.engine.options import RunOptions
from voxweft.engine.plan import IMAGE
from voxweft.engine.planning import Schemes, Target
from voxweft.engine.report import Report
from voxweft.engine.stage import Blocks, Gather, Output, Source, Stage, Sweep
from voxweft.errors import RequestError, VoxweftError
from voxweft.image.order import AS_IT_IS
from voxweft.model.card import ModelCard, Normalization
from voxweft.model.protocols import ForwardSetting
from voxweft.model.ref import ModelRef
from voxweft.runner.batch import loaded_once
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink

ML = {"millimeter": 1e-3, "micrometer": 1e-12, "meter": 1e6}  # of a cubic unit


@dataclass(frozen=True, slots=True)
class Job:
    """What all cases of a batch share; called by a worker for one of them."""

    refs: tuple[ModelRef, ...]
    is_nnunet: bool
    options: MedicalOptions
    output: str
    request: str
    command: str
    settings: tuple[ForwardSetting, ...] = ()
    n_cases: int = 1

    def __call__(self, case: Case, _share: tuple[int, int], workers: Workers) -> Report:
        """Do it, without a word."""
        return self.run(case, workers, silent)

    def run(self, case: Case, workers: Workers, emit: Emit) -> Report:
        """Do it; continue it where it was begun."""
        began = time.perf_counter()
        output, book = Path(self.output), CaseBook(Path(self.output), self.request)
        require_files(case, self.refs[0].card.n_inputs)
        book.begin(case)
        sink = open_sink(str(self._work(case)))
        files = {name: output / path for name, path in places_of(case, self.options, self._numbers()).items()}
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        opened = self.opened(case, workers)
        place = Place.of(sink, {name: str(path) for name, path in files.items()})
        try:
            report = run_plan(opened, place, workers, Execution("serial", command=self.command), emit)
        except VoxweftError:  # a file that is mended is another file: nothing of this is of use then
            place.remove(opened.plan)
            raise
        made = {str(path.relative_to(output)): n_bytes(path) for path in files.values()}
        facts = json.loads(files["statistics"].read_text(encoding="utf-8"))
        notes = "; ".join(report.notes)
        book.put(case, made, round(time.perf_counter() - began, 3), {**facts, "notes": notes} if notes else facts)
        place.remove(opened.plan)
        return report

    def check(self) -> None:
        """Refuse what is wrong for all cases.

        Raises
        ------
        RequestError
            If a label is unknown, rules beside the model cannot be followed, or there are no patches to be had.
        """
        self._only()
        self._groups()
        if self.is_nnunet and self.options.grey_window:
            raise RequestError("--wl and --ww are for models without a scaling of their own; nnU-Net's have one")
        for ref in self.refs:
            if self.options.grey_window and ref.card.input_dtype.startswith(("int", "uint")):
                name = Path(ref.url).name
                raise RequestError(f"{name} takes integers; --wl and --ww scale to 0..1, of which they keep nothing")
            options = run_options(self.options, ref.card, self.is_nnunet)
            patch = parse_size(options.patch_size) or ref.card.patch_zyx
            if patch is None:
                raise RequestError(f"{Path(ref.url).name} does not say its patch size; give --patch-size Z Y X")
            stride = parse_size(options.patch_stride)
            if stride and any(a > b for a, b in zip(stride, patch, strict=True)):
                raise RequestError(
                    f"--patch-stride {stride} is longer than the patch {patch}: voxels would be left out"
                )

    def opened(self, case: Case, workers: Workers) -> Opened:
        """The plan of a case, with its volumes and networks."""
        (models, networks), card = loaded_once(self.refs), self.refs[0].card
        volume = open_case(case.files)
        _require_channels(volume.info.n_channels, card.n_inputs, case)
        target = Target(also=_also(self.options), tally="confidence" if self.options.save_conf else "")
        prepared = prepare(volume, card, target) if self.is_nnunet else plain(volume, target)
        options = run_options(self.options, card, self.is_nnunet)
        geometry = volume.info.geometry
        about = {
            "name": case.key,
            "sources": list(case.files),
            "temporary": str(Path(self.output) / RECORDS / "tmp"),
            "order": list(prepared.target.order or AS_IT_IS),
            "outputs": ["labels", *prepared.target.also],
            "names": self._names(),
            "n_channels": card.n_classes,
            "exclusive": card.activation == "softmax",
            "orientation": self.options.orientation,
            "only": self._only(),
            "keep_largest": self._groups(),
            "n_labels": max(map(int, self._names())) + 1,
            "model": Path(self.refs[0].url).name,
            "confidence": self.options.save_conf,
            "voxel_ml": _product(geometry.voxel_size_zyx) * ML.get(geometry.unit, 1e-3),
        }
        app = AppRequest(
            "batch",
            normalization=_window(self.options) or prepared.normalization,
            then=lambda sweep: stages_after(sweep, about, self._files(case)),
            settings=self.settings,
            networks=networks,
            target=prepared.target,
            inputs={IMAGE: prepared.image},
            n_alike=self.n_cases,
        )
        records = open_sink(str(self._work(case))).records
        return plan_run(prepared.volume, models, options, app=app, records=records, n_workers=workers.n_sharing)

    def _work(self, case: Case) -> Path:
        """Where the arrays of a case lie until its files are written; another place for other files or options."""
        digest = hashlib.sha256(f"{case.result} {self.request} {case.stamp}".encode()).hexdigest()[:24]
        return Path(self.output) / RECORDS / "work" / f"{digest}.zarr"

    def _files(self, case: Case) -> tuple[str, ...]:
        return tuple(places_of(case, self.options, self._numbers()))

    def _groups(self) -> list[list[int]]:
        """Labels of which the largest component is kept: by the model's postprocessing.json, or each by itself."""
        if not self.options.postprocessing:
            return []
        return rules_beside(Path(self.refs[0].url)) or [[int(number)] for number in self._names()]

    def _names(self) -> dict[str, str]:
        return label_names(self.refs[0])

    def _numbers(self) -> dict[str, str]:
        """Labels of which each has a file of its own."""
        if not self.options.split:
            return {}
        only = self._only()
        return {number: name for number, name in self._names().items() if not only or int(number) in only}

    def _only(self) -> list[int]:
        names = {name: int(number) for number, name in self._names().items()}
        found = []
        for word in self.options.roi_subset:
            if word not in names and not (word.isdigit() and str(int(word)) in self._names()):
                raise RequestError(f"--roi-subset {word!r} is no label; the model has {', '.join(names)}")
            found.append(names.get(word) or int(word))
        return found


def stages_after(sweep: Sweep, about: Mapping[str, Any], files: Sequence[str]) -> list[Stage]:
    """What follows the sweep of a case: its labels are measured, and its files written."""
    spec = sweep.spec
    statistics = Blocks(
        name="statistics",
        op=Op.of(statistics_block, n_labels=sweep.finish.largest_label + 1),
        sources=(Source(sweep.name), Source(IMAGE)),
        outputs=(),
        shape_zyx=spec.shape_zyx,
        region=sweep.region,
        block_zyx=tuple(max(n, 64) // n * n for n in spec.shard_zyx),  # type: ignore[arg-type]
        needs=(sweep.name,),
    )
    outputs = tuple(Output(name) for name in files)
    box = [list(side) for side in zip(sweep.region.start, sweep.region.stop, strict=True)]
    return [
        statistics,
        Gather("files", Op.of(write_files, case={**about, "box": box}), (sweep.name, "statistics"), outputs),
    ]


def run_options(options: MedicalOptions, card: ModelCard, is_nnunet: bool) -> RunOptions:
    """How a case is swept, from what the user said and what the model's kind does."""
    kind = NnunetRun if is_nnunet else ItkRun
    stride = options.patch_stride
    if not stride and not is_nnunet and options.step_size == 0.5:
        patch = [int(n) for n in options.patch_size.split(",")] if options.patch_size else card.patch_zyx
        found = card.stride_zyx or (patch and tuple(max(1, n // 2) for n in (patch * 3)[:3]))
        stride = ",".join(map(str, found)) if found else ""
    mirrors = options.tta == "mirroring" or (options.tta == "auto" and is_nnunet and bool(card.mirror_axes))
    runtime = runtime_of(options)
    if options.fp16 and devices_of(options.device)[0] != "cpu":
        runtime["precision"] = "fp16"
    return kind(
        **runtime,
        patch_size=options.patch_size,
        patch_stride=stride,
        overlap=1.0 - options.step_size,
        window=options.window if options.window != "auto" else ("gaussian" if is_nnunet else "uniform"),
        fit="spread" if is_nnunet else "snap",
        tta="mirroring" if mirrors and not options.disable_tta else "none",
        threshold=options.threshold if card.n_classes == 1 else 0.5,
        skip_empty=False,
        output="labels",
        pyramid=False,
        chunk="32,64,64",
        compressor="lz4",
        compression_level=1,
        accept_labels=options.accept_labels,
    )


def _also(options: MedicalOptions) -> tuple[str, ...]:
    """Outputs of the sweep beside the labels; the uncertainty is the last."""
    wanted = {
        "merged": options.save_logits,
        "probability32": options.save_probabilities,
        "entropy": options.uncertainty,
    }
    return tuple(name for name, asked in wanted.items() if asked)


def _window(options: MedicalOptions) -> Schemes:
    """The scheme that --wl and --ww ask for; empty where they do not."""
    if options.grey_window is None:
        return ()
    low, width = options.grey_window
    return (Normalization("ct", mean=low, std=width, lower=low, upper=low + width),)


def _require_channels(found: int, wanted: int, case: Case) -> None:
    if found != wanted:
        raise RequestError(f"{case} has {found} channel(s), the model takes {wanted}")


def _product(sizes: Sequence[float]) -> float:
    z, y, x = sizes
    return z * y * x
