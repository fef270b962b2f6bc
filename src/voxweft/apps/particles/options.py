"""What may be asked of the commands of particles; names and defaults are those of octopi."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from voxweft.engine.fields import Options, like, option, unknown
from voxweft.engine.options import RunOptions, RuntimeOptions, part_problems
from voxweft.errors import RequestError
from voxweft.ops.augment import TURNS
from voxweft.runner.workers import LaunchOptions
from voxweft.stores.copick_files import SegmentationName, TomogramName, fit_name

METHODS = ("watershed", "com", "peaks")
MATCHINGS = ("nearest", "one-to-one")
SEGMENTATION = {"names": ("--seg-uri", "--seg-info", "-suri")}
RUN_IDS = {"names": ("--run-ids", "--runIDs", "-runs")}


@dataclass(frozen=True)
class ProjectOptions(Options):
    """Which project, and which of its runs."""

    title: ClassVar[str] = "Project"

    config: str = option("", "The copick project, CONFIG.json.", names=("--config", "-c"), decides=False)
    run_ids: str = option("", "Only these runs, RUN1,RUN2; default: all of them.", decides=False, **RUN_IDS)

    def problems(self) -> list[str]:
        """What is wrong with them."""
        return [] if self.config else ["--config is missing; give the project's CONFIG.json"]

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that are asked for; none: all."""
        return tuple(words_of(self.run_ids))


@dataclass(frozen=True)
class SegmentOptions(RuntimeOptions, ProjectOptions):
    """How tomograms are segmented.

    Raises
    ------
    RequestError
        If values are impossible; all of them are named at once.
    """

    title: ClassVar[str] = "Segmentation"

    model_weights: str = option(
        "", "Weights, PATH.pth; several, with commas between, are an ensemble.", names=("--model-weights", "-mw")
    )
    model_config: str = option(
        "",
        "What describes them, PATH.yaml, one each or one for all; default: the yaml beside them.",
        names=("--model-config", "-mc"),
    )
    tomo_uri: str = option("", "Tomograms, kind@voxel size: wbp@10.0.", names=("--tomo-uri", "-uri"))
    tomo_alg: str = option("wbp", "Kind of the tomograms, where --tomo-uri is not given.")
    voxel_size: float = option(10.0, "Voxel size of the tomograms, Angstrom.", names=("--voxel-size", "-vs"))
    seg_uri: str = option("predict:octopi/1", "The result, name:user/session or name,user,session.", **SEGMENTATION)
    overlap: float = option(0.5, "Overlap of windows, 0 <= o < 1.", names=("--overlap", "-o"))
    window: str = option("uniform", "Blend weights of a window: uniform (as octopi), or gaussian.")
    ntta: int = option(
        4,
        "Views of the whole tomogram that are averaged, 1 to 8: as it is, half a turn, flips of z, x and y, a quarter "
        "turn, three, all flips.",
        names=("--ntta", "-ntta"),
    )
    average: str = option("logits", "What of views and models is averaged: logits or probabilities.")
    batch_size: int = like(RuntimeOptions, "batch_size", names=("--batch-size", "--sliding-window-batch-size", "-swbs"))
    save_probabilities: bool = option(False, "Write the probability of every class too, as features of the tomogram.")
    uncertainty: bool = option(False, "Write the variance over views and models too, as features of the tomogram.")
    mask: str = option("", "Segmentation name:user/session of the runs; where it is 0 nothing is computed.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = unknown(self, window=("uniform", "gaussian", "gaussian-centred"), average=("logits", "probabilities"))
        if not self.model_weights:
            found.append("--model-weights is missing; give the weights of a network, PATH.pth")
        if not 1 <= self.ntta <= len(TURNS):
            found.append(f"--ntta {self.ntta}: use 1 to {len(TURNS)}")
        if not 0 <= self.overlap < 1:
            found.append(f"--overlap {self.overlap} is not a fraction; use 0 <= overlap < 1, for example 0.5")
        configs, weights = len(words_of(self.model_config)), len(words_of(self.model_weights))
        if configs > 1 and configs != weights:
            found.append(
                f"--model-config names {configs} files, --model-weights {weights}; give one each, or one for all"
            )
        if self.uncertainty and self.ntta * weights == 1:
            found.append("--uncertainty is a variance over views and models; take --ntta 2 or more, or an ensemble")
        found += name_problems(
            tomo_uri=(TomogramName.parse, self.tomo_uri),
            seg_uri=(SegmentationName.parse, self.seg_uri),
            mask=(SegmentationName.parse, self.mask),
        )
        return found + ([] if self.voxel_size > 0 else [f"--voxel-size {self.voxel_size} is no size in Angstrom"])

    @property
    def tomogram(self) -> TomogramName:
        """The tomogram of every run."""
        return TomogramName.parse(self.tomo_uri) if self.tomo_uri else TomogramName(self.tomo_alg, self.voxel_size)

    @property
    def segmentation(self) -> SegmentationName:
        """The result of every run."""
        return SegmentationName.parse(self.seg_uri)

    @property
    def models(self) -> list[tuple[str, str]]:
        """Weights and what describes them, "" for the yaml beside them."""
        weights, configs = words_of(self.model_weights), words_of(self.model_config) or [""]
        return list(zip(weights, configs if len(configs) > 1 else configs * len(weights), strict=True))


@dataclass(frozen=True)
class LocalizeOptions(ProjectOptions):
    """How particles are found in segmentations.

    Raises
    ------
    RequestError
        If values are impossible; all of them are named at once.
    """

    title: ClassVar[str] = "Particles"

    method: str = option(
        "watershed",
        "watershed (touching particles are parted), com (components), or peaks (of probabilities).",
        names=("--method", "-m"),
    )
    seg_uri: str = option("predict:octopi/1", "Segmentation, name:user/session or name,user,session.", **SEGMENTATION)
    voxel_size: float = option(10.0, "Its voxel size, Angstrom.", names=("--voxel-size", "-vs"))
    radius_min_scale: float = option(
        0.5,
        "Smallest particle: a ball of so many radii. Closer centres are one.",
        names=("--radius-min-scale", "-rmin"),
    )
    radius_max_scale: float = option(
        1.0, "Largest particle: a ball of so many radii.", names=("--radius-max-scale", "-rmax")
    )
    filter_size: int = option(
        10, "Voxels in which a centre is the only one (watershed).", names=("--filter-size", "-fs")
    )
    label: int = option(0, "This label for all objects; 0: as the segmentation was made.", names=("--label", "-lbl"))
    pick_objects: str = option(
        "", "Only these objects, NAME1,NAME2; default: all particles.", names=("--pick-objects", "-obj")
    )
    threshold: str = option("0.3", "Least probability of a peak, for all or NAME=P,NAME=P (peaks).")
    separation: float = option(1.0, "Radii within which a peak is the only one (peaks).")
    pick_user_id: str = option("octopi", "User of the picks.", names=("--pick-user-id", "-pui"))
    pick_session_id: str = option("1", "Session of the picks.", names=("--pick-session-id", "-psid"))
    block: int = option(
        192,
        "Voxels along a side of the blocks of volumes larger than 2^24 voxels; the picks are the same.",
        decides=False,
    )

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = unknown(self, method=METHODS)
        if not 0 < self.radius_min_scale < self.radius_max_scale < math.inf:
            scales = f"{self.radius_min_scale} and {self.radius_max_scale}"
            found.append(f"--radius-min-scale and --radius-max-scale are {scales}; the second must be larger, both > 0")
        for name, least in (("filter_size", 1), ("label", 0), ("block", 16)):
            if getattr(self, name) < least:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)}: use {least} or more")
        if not 0 < self.separation < math.inf:
            found.append(f"--separation {self.separation} is no positive number of radii")
        if not self.voxel_size > 0:
            found.append(f"--voxel-size {self.voxel_size} is no size in Angstrom")
        found += name_problems(
            seg_uri=(SegmentationName.parse, self.seg_uri),
            pick_user_id=(fit_name, self.pick_user_id),
            pick_session_id=(fit_name, self.pick_session_id),
            threshold=(thresholds, self.threshold),
        )
        return found

    @property
    def segmentation(self) -> SegmentationName:
        """What is read of every run."""
        return SegmentationName.parse(self.seg_uri)

    @property
    def objects(self) -> list[str]:
        """The objects that are asked for; none: all."""
        return words_of(self.pick_objects)


@dataclass(frozen=True)
class EvaluateOptions(ProjectOptions):
    """How picks are compared with the truth.

    Raises
    ------
    RequestError
        If values are impossible; all of them are named at once.
    """

    title: ClassVar[str] = "Comparison"

    ground_truth_user_id: str = option("", "User of the true picks.", names=("--ground-truth-user-id", "-gtuid"))
    ground_truth_session_id: str = option(
        "", "Session of the true picks; default: any.", names=("--ground-truth-session-id", "-gtsid")
    )
    predict_user_id: str = option("octopi", "User of the picks.", names=("--predict-user-id", "-puid"))
    predict_session_id: str = option("1", "Session of the picks; empty: any.", names=("--predict-session-id", "-psid"))
    distance_threshold_scale: float = option(
        0.8, "Radii up to which a pick is right.", names=("--distance-threshold-scale", "-dts")
    )
    matching: str = option(
        "nearest", "nearest (as octopi: several picks may share a particle), or one-to-one (as in challenges)."
    )
    object_names: str = option("", "Only these objects, NAME1,NAME2.", names=("--object-names", "-names"))
    fbeta: float = option(4.0, "How much recall counts more than precision, beta of F-beta.", names=("--fbeta", "-fb"))
    output: str = option("scores", "Folder for the scores.", names=("--output", "--save-path", "-o"), decides=False)

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = unknown(self, matching=MATCHINGS)
        if not self.ground_truth_user_id:
            found.append("--ground-truth-user-id is missing; say whose picks are true")
        for name in ("distance_threshold_scale", "fbeta"):
            if not 0 < getattr(self, name) < math.inf:
                found.append(f"--{name.replace('_', '-')} {getattr(self, name)} is no positive number")
        return found

    @property
    def objects(self) -> list[str]:
        """The objects that are asked for; none: all."""
        return words_of(self.object_names)


@dataclass(frozen=True)
class Work(LaunchOptions):
    """Where runs are worked on."""

    title: ClassVar[str] = "Where to compute it"

    workers: int = option(
        0,
        "Workers; they share a tomogram if there are fewer. 0: one, or one a GPU; for localize one a core if it pays.",
        names=("--workers", "--n-procs", "-np"),
    )
    tomo_batch_size: int = option(1, "Of octopi: tomograms at once. Here a worker does one after the other.")
    num_parts: int = option(1, "Do only a share of the runs: of so many shares ...")
    part_id: int = option(0, "... this one, from 0.")
    overwrite: bool = option(False, "Do runs again that are done.")
    command: str = ""

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        problems = part_problems(self.num_parts, self.part_id)
        if self.workers < 0:
            problems.append(f"--workers {self.workers} is negative")
        if problems:
            raise RequestError(*problems)


@dataclass(frozen=True)
class OctopiRun(RunOptions):
    """How octopi tiles: fixed steps, the last window moved in, a small volume padded on both sides with its mean."""


def thresholds(text: str) -> dict[str, float]:
    """Least probabilities by the names of objects, "" for all others.

    >>> thresholds("0.3"), thresholds("0.2,ribosome=0.5")
    ({'': 0.3}, {'': 0.2, 'ribosome': 0.5})

    Raises
    ------
    RequestError
        If it is no list of probabilities.
    """
    found = {"": 0.3}
    for word in words_of(text):
        name, _, value = word.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[name.strip()] = -1.0
        if not 0 < found[name.strip()] < 1:
            raise RequestError(f"{word!r} is no probability; write 0.3, or NAME=0.3,NAME=0.5")
    return found


def words_of(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def name_problems(**given: Sequence[Any]) -> list[str]:
    """What is wrong with names that were given."""
    problems = []
    for name, (parse, text) in given.items():
        try:
            if text:
                parse(text)
        except RequestError as error:
            problems.append(f"--{name.replace('_', '-')} {error}")
    return problems
