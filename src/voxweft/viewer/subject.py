"""What a page is about: an output, the stage that made it, its image, and what lies beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.engine.naming import FOREGROUND, names_of
from voxweft.engine.plan import VOLUME, Plan
from voxweft.engine.stage import Sweep
from voxweft.engine.uncertain import UNCERTAINTY
from voxweft.errors import RequestError, VoxweftError, first_line
from voxweft.geometry.box import Box, Zyx
from voxweft.image.colours import BACKGROUND, of_classes, palette
from voxweft.image.info import OutputSpec
from voxweft.image.protocols import Sink, Volume
from voxweft.model.card import ModelCard
from voxweft.ops.activate import Finish
from voxweft.runner.opening import Opened
from voxweft.runner.place import Place
from voxweft.viewer import pictures

WINDOW = 256
TINTS = 1024  # colours, after which they begin again
SEEN_VOXELS = 1 << 26  # of a result that is looked at


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about: the main output of a plan, and the sweep that made it, if one did."""

    plan: Plan
    spec: OutputSpec
    finish: Finish
    region: Box
    sweep: Sweep | None

    @classmethod
    def of(cls, plan: Plan) -> Subject:
        """That of a plan.

        Raises
        ------
        RequestError
            If it writes no array.
        """
        stage = plan.main
        spec = next((output.spec for output in stage.outputs if output.spec), None)
        if spec is None or stage.kind == "gather":
            raise RequestError(f"stage {stage.name} writes no array that could be shown")
        if stage.kind == "sweep":
            return cls(plan, spec, stage.finish, stage.region, stage)
        arguments = stage.op.arguments
        arguments = arguments["heads"][0] if "heads" in arguments else arguments
        if {"mode", "output", "n_classes"} <= arguments.keys():
            return cls(plan, spec, Finish(**arguments), stage.region, None)
        labels = spec.is_label or spec.n_channels > 1
        return cls(
            plan,
            spec,
            Finish(
                "multiclass" if labels else "binary",
                "labels" if spec.is_label else "probability",
                max(spec.n_channels, 1),
                "none",
            ),
            stage.region,
            None,
        )

    @property
    def card(self) -> ModelCard | None:
        """The first model."""
        return self.plan.models[0].card if self.plan.models else None

    @property
    def named(self) -> Sequence[tuple[int, str]]:
        """What values or channels mean, as the output says; of plans of older releases as it would be said now."""
        told = (self.card.class_names, self.card.heads) if self.card else ((), ())
        return self.spec.named or names_of(self.finish, *told)

    @property
    def names(self) -> Mapping[int, str]:
        """What classes are called, by their numbers in :func:`class_map` and in the truth."""
        names, finish = [name for _, name in self.named], self.finish
        if pictures.one_foreground(finish):
            alone = self.spec.is_label or self.spec.n_channels == 1 or finish.n_classes == 2
            return {0: BACKGROUND, 1: names[-1] if alone else FOREGROUND}
        if finish.overlapping and not self.spec.is_label:
            return {0: BACKGROUND, **dict(zip(finish.ids, names, strict=False))}
        return dict(self.named)

    @property
    def tints(self) -> NDArray[np.uint8]:
        """Colours [n, 3] of classes by their numbers; class 0 is black."""
        colours = palette(TINTS)
        names = self.names
        for number, rgb in zip(names, of_classes([*names.values()]), strict=True):
            if number:
                colours[number % TINTS] = rgb
        return colours


class Seen:
    """The result, and what is there of its image, of its uncertainty and of the truth; read box by box.

    Parameters
    ----------
    sink
        The result.
    subject
        What is known of it.
    truth
        Classes of the same voxels, or None.
    """

    def __init__(self, sink: Sink, subject: Subject, truth: Volume | None = None) -> None:
        self.sink, self.subject, self.truth, self.missing = sink, subject, truth, ""
        self.window = middle_of(subject.region)
        self._volume: Volume | None = None
        try:
            image = subject.plan.image
            self._volume = Opened(subject.plan).volume(image.name if image else VOLUME)
            if self._volume.info.shape_zyx != subject.spec.shape_zyx or subject.sweep is None:
                raise RequestError("what it was made from is no image of the same voxels")
            self._volume.read(Box(self.window.start, tuple(a + 1 for a in self.window.start)))  # type: ignore[arg-type]
        except VoxweftError as error:
            self.missing, self._volume = first_line(error), None
        self._beside = self._uncertain()

    @property
    def measure(self) -> str:
        """How the uncertainty was measured; "" where there is none."""
        named = [o.attributes for o in self.subject.plan.main.outputs if o.name == UNCERTAINTY]
        return str(dict(named[0].get("uncertainty", {})).get("measure", UNCERTAINTY)) if named and self._beside else ""

    @property
    def uncertain(self) -> Sink | None:
        """The uncertainty that lies beside the result."""
        return self._beside

    def image(self, box: Box) -> NDArray[Any] | None:
        """Grey values [Z, Y, X] of a box; None where there are none (any more)."""
        if self._volume is None:
            return None
        voxels = self._volume.read(box)
        return np.asarray(voxels.mean(axis=0) if self.subject.spec.words.is_picture else voxels[0])

    def plane_costs(self, box: Box) -> int:
        """Voxels that are decoded for a box of the image."""
        if self._volume is None:
            return 0
        chunk = self._volume.info.chunk_zyx
        sides = zip(box.start, box.stop, chunk, strict=True)
        return int(np.prod([(-(-b // c) - a // c) * c for a, b, c in sides]))

    def uncertainty(self, box: Box, level: int = 0) -> NDArray[Any] | None:
        """As it is stored [Z, Y, X]; None where there is none."""
        if self._beside is not None:
            with suppress(VoxweftError):
                return np.asarray(self._beside.read(box, level)[0])
        return None

    def truth_of(self, box: Box) -> NDArray[np.intp] | None:
        """Classes [Z, Y, X] of a box; where the result has one foreground, 1 for whatever is not 0."""
        if self.truth is None:
            return None
        truth = np.asarray(self.truth.read(box)[0], np.intp)
        return np.asarray(truth > 0, np.intp) if pictures.one_foreground(self.subject.finish) else truth

    def factor(self, level: int) -> tuple[float, float, float]:
        """Voxels along z, y and x for which a voxel of a level stands."""
        z, y, x = (max(1, round(n / k)) for n, k in zip(self.sink.shape(0), self.sink.shape(level), strict=True))
        return z, y, x

    def _uncertain(self) -> Sink | None:
        for output in self.subject.plan.main.outputs:
            if output.name == UNCERTAINTY:
                with suppress(VoxweftError):
                    beside = Place.of(self.sink).sink_of(output)
                    beside.open()
                    return beside
        return None


def middle_of(box: Box, side: int = WINDOW) -> Box:
    """The middle of a box, at most so many voxels an axis."""
    middle = tuple((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))
    return box_around((middle[0], middle[1], middle[2]), box, (side, side, side))


def box_around(place: Zyx, region: Box, sides: Zyx) -> Box:
    """A box of these sides around a place, moved and cut so that it lies in a region.

    >>> str(box_around((0, 50, 50), Box.of((10, 100, 60)), (4, 20, 20)))
    '0:4,40:60,40:60'
    """
    start = []
    for p, a, b, side in zip(place, region.start, region.stop, sides, strict=True):
        start.append(max(a, min(p - side // 2, b - side)))
    stop = (min(b, a + side) for a, b, side in zip(start, region.stop, sides, strict=True))
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


def class_map(values: NDArray[np.generic], finish: Finish) -> NDArray[np.intp]:
    """Classes [...] of a result [C, ...], by the numbers of its labels; of one foreground 0 and 1."""
    index = pictures.classes(values, finish)
    if index is None:
        index = np.asarray(pictures.foreground(values, finish) > finish.threshold)
    return np.asarray(index, np.intp)
