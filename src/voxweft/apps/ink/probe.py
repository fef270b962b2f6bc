"""Would ink have been seen here? Strokes are planted on both faces of a piece of the stack, and looked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.ink.inputs import Job, Options, engine_options, open_windows, opened_jobs, schemes_of
from voxweft.apps.ink.names import source_of
from voxweft.apps.ink.options import ROWS_FIRST, PictureOptions, ProbeOptions, SweepOptions, box_of_roi
from voxweft.apps.ink.surface import is_zarr, stack_of
from voxweft.apps.ink.window import channels_of
from voxweft.engine.events import Emit, Event, silent
from voxweft.errors import RequestError, VolumeError
from voxweft.geometry.box import Box
from voxweft.image.protocols import Volume
from voxweft.model.card import Normalization
from voxweft.model.protocols import ForwardSetting, Predictor
from voxweft.ops.strokes import DIRECTIONS, Lifts, Verdict, faces_of, planted, verdict, woven_strokes
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.place import IN_MEMORY, Place
from voxweft.runner.planning import AppRequest, plan_run
from voxweft.runner.run import run_plan
from voxweft.runner.workers import Workers
from voxweft.stores import open_sink, open_volume

SIDE = 1024  # pixels of the region
WIDTH_UM, PITCH_UM = 350.0, 2000.0  # of strokes: a pen's, and lines of writing
WIDTH_PX, PITCH_PX = 12, 64  # where the size of a voxel is not known
ENOUGH = 0.5  # share of a region that must hold something
LOOKS = 25  # regions that are looked at for that
THINNEST, LAYERS_PER_STROKE = 1.0, 20  # strokes are a twentieth of the stack thick

LEAST = 0.05  # share of a region that must be known


@dataclass(frozen=True, slots=True)
class Probed:
    """What was planted and what was seen.

    Attributes
    ----------
    region
        x0, y0, x1, y1 in pixels of the surface.
    windows
        The layers that were seen forward and in reverse.
    spacing_um
        Side of a voxel, or None where nobody knows: then the strokes have a fixed width.
    width_px, pitch_px
        Of the strokes.
    faces
        The layer on which the strokes of each face lie, by its number.
    lifts
        What strokes add to the mean probability on them, by face, direction and amplitude.
    verdict
        What that says.
    maps
        Pictures uint8 [Y, X] of the strongest strokes, and what was seen of them, by their names.
    """

    region: tuple[int, int, int, int]
    windows: tuple[range, ...]
    spacing_um: float | None
    width_px: int
    pitch_px: int
    faces: Mapping[str, int]
    lifts: Lifts
    verdict: Verdict
    maps: Mapping[str, NDArray[np.uint8]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the pictures."""
        return {
            "region": list(self.region),
            "layers": {d: [w.start, w.stop] for d, w in zip(DIRECTIONS, self.windows, strict=True)},
            "spacing_um": self.spacing_um,
            "width_px": self.width_px,
            "pitch_px": self.pitch_px,
            "faces": dict(self.faces),
            "lifts": [
                {"face": face, "direction": direction, "amplitude": amplitude, "lift": round(lift, 5)}
                for (face, direction, amplitude), lift in self.lifts.items()
            ],
            "direction": self.verdict.direction,
            "direction_of_face": dict(self.verdict.of_face),
            "faintest_amplitude": self.verdict.faintest,
        }


def probe(options: Options, probe_options: ProbeOptions | None = None, *, emit: Emit = silent) -> Probed:
    """Plant strokes of known contrast and see in which direction the networks answer, and from which contrast on.

    A map without ink can mean that there is none, that the layers run the wrong way, or that the contrast is too low;
    this tells them apart. Nothing is written.

    Parameters
    ----------
    options
        Which layers, which network, how; the region is ``roi``, by default 1024 pixels in the middle with something in
        them. The stride is half a tile where none is given.
    probe_options
        What is planted.
    emit
        Told of every lift.

    Raises
    ------
    RequestError
        If the request is wrong, or the surface is empty.
    """
    layers, model_options, ink_options = options
    probe_options = probe_options or ProbeOptions()
    if ink_options.windows > 1:
        raise RequestError("--windows has no meaning for a probe, which looks through one window")
    jobs = opened_jobs((replace(layers, reverse=False, direction="both"), model_options, ink_options), emit)
    forward, tile = jobs[0], (jobs[0].models[0].card.patch_zyx or (1,))[0]
    windows = tuple(job.windows[0] for job in jobs)
    ink_options = replace(ink_options, stride=ink_options.stride or max(1, tile // 2))
    volume = open_windows(forward.layers, windows, reverse=False)
    region = _region(volume, ink_options.roi, tile)
    x0, y0, x1, y1 = region
    stack = volume.read(Box((y0, 0, x0), (y1, 1, x1)))[:, :, 0]
    spacing = forward.layers.voxel_size_um or _spacing(forward)
    width, pitch = _sizes(spacing, min(stack.shape[1:]))
    there = stack.any(axis=0)
    strokes = woven_strokes(stack.shape[1:], width, pitch) & there
    if not strokes.any() or there.mean() < LEAST:
        raise RequestError(
            f"--roi {x0},{y0},{x1},{y1} holds {there.mean():.0%} known pixels and room for {strokes.sum()} of strokes: "
            "nothing can be planted there; choose a place with papyrus"
        )
    near, far = faces_of(np.array([plane[there].mean() for plane in stack]))
    at = {"near": near, "far": far}
    engine = replace(engine_options(forward, replace(ink_options, roi="", mask=""), PictureOptions()), pyramid=False)
    looking = _Looking(jobs, replace(engine, output="probability32"), schemes_of(forward, ink_options))
    lifts = dict[tuple[str, str, int], float]()
    without = {d: looking(stack, d) for d in DIRECTIONS}
    maps = {f"nothing planted, {d}": _picture(seen) for d, seen in without.items()}
    for face, amplitude in product(probe_options.faces, probe_options.levels):
        thickness = max(THINNEST, len(stack) / LAYERS_PER_STROKE)
        written = planted(stack, strokes, amplitude, at[face], thickness)
        for direction in DIRECTIONS:
            seen = looking(written, direction)
            lift = float(seen[strokes].mean(dtype=np.float64) - without[direction][strokes].mean(dtype=np.float64))
            lifts[face, direction, amplitude] = lift
            emit(Event("note", f"strokes of {amplitude} on the {face} face, {direction}: {lift:+.3f}"))
            if amplitude == probe_options.levels[-1]:
                maps[f"{amplitude} grey levels on the {face} face, {direction}: {lift:+.3f}"] = _picture(seen)
    maps["what was planted"] = strokes * np.uint8(255)
    first = min(w.start for w in windows)
    faces = {face: first + at[face] for face in probe_options.faces}
    return Probed(region, windows, spacing, width, pitch, faces, lifts, verdict(lifts), maps)


class _Looking:
    """The networks over a stack in memory; how they are run is decided once."""

    def __init__(self, jobs: tuple[Job, ...], engine: SweepOptions, schemes: tuple[Normalization, ...]) -> None:
        self._jobs, self._engine, self._schemes = jobs, engine, schemes
        forward, reverse = (channels_of([job.windows[0] for job in jobs], reverse=False)[n] for n in (0, 1))
        self._channels = {"forward": forward, "reverse": reverse[::-1]}
        self._settings: tuple[ForwardSetting, ...] = ()
        self._networks: dict[Any, Predictor] = {}

    def __call__(self, stack: NDArray[np.uint8], direction: str) -> NDArray[np.float32]:
        """Probabilities [Y, X] of layers uint8 [L, Y, X]."""
        seen = np.ascontiguousarray(stack[list(self._channels[direction])][:, :, None])
        app = AppRequest("ink probe", self._schemes, settings=self._settings, networks=self._networks, n_alike=1)
        opened = plan_run(open_volume(seen), self._jobs[0].models, self._engine, app=app)
        self._settings = tuple(one.setting for one in opened.plan.sweep.passes)
        execution, sink = Execution("serial"), open_sink(IN_MEMORY, order=ROWS_FIRST)
        run_plan(opened, Place.of(sink), Workers.of(execution, devices_of(self._engine.device)[:1]), execution, silent)
        height, width = stack.shape[1:]
        return np.asarray(sink.read(Box.of((height, 1, width)))[0, :, 0])


def _region(volume: Volume, roi: str, tile: int) -> tuple[int, int, int, int]:
    """What was asked for, else a square of whole tiles as near the middle as possible that holds something."""
    height, _, width = volume.info.shape_zyx
    if roi:
        x0, y0, x1, y1 = box_of_roi(roi) or (0, 0, width, height)
        if x1 > width or y1 > height:
            raise RequestError(f"--roi {roi} leaves the surface of {width} x {height} pixels")
        return x0, y0, x1, y1
    sides = [min(n, max(tile, SIDE // tile * tile)) for n in (height, width)]
    for y0, x0 in _starts((height, width), sides, tile):
        found = volume.read(Box((y0, 0, x0), (y0 + sides[0], 1, x0 + sides[1])))
        if found.any(axis=0).mean() >= ENOUGH:
            return x0, y0, x0 + sides[1], y0 + sides[0]
    raise VolumeError(f"{volume.info.url} is empty wherever it was looked at; say with --roi where something is")


def _starts(shape: tuple[int, int], sides: list[int], tile: int) -> Iterator[tuple[int, int]]:
    """The first rows and columns of squares, from the middle outwards."""
    (middle_y, ys), (middle_x, xs) = (
        ((m := (n - s) // 2 // tile * tile), range(m % s, n - s + 1, s)) for n, s in zip(shape, sides, strict=True)
    )

    def distance(at: tuple[int, int]) -> int:
        return (at[0] - middle_y) ** 2 + (at[1] - middle_x) ** 2

    yield from sorted(product(ys, xs), key=distance)[:LOOKS]


def _picture(seen: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(255 * seen.clip(0, 1), np.uint8)


def _sizes(spacing_um: float | None, side: int) -> tuple[int, int]:
    """Width and pitch of the strokes in pixels; at least two strokes fit along a side."""
    if not spacing_um:
        width, pitch = WIDTH_PX, PITCH_PX
    else:
        width, pitch = round(WIDTH_UM / spacing_um), round(PITCH_UM / spacing_um)
    pitch = max(2, min(pitch, side // 2))
    return max(1, min(width, pitch // 3)), pitch


def _spacing(job: Job) -> float | None:
    source = source_of(job.layers)
    found = stack_of(source, job.layers.level).spacing_um if is_zarr(source) else None
    return found[1] if found else None
