"""The demo: a fresh phantom, the small network that voxweft brings, a score against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from voxweft.apps import ink
from voxweft.apps.ink.options import InkModelOptions, InkOptions, InkPartOptions, LayerOptions, PictureOptions
from voxweft.apps.run import run
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.options import RunOptions
from voxweft.errors import RequestError
from voxweft.geometry.box import Box
from voxweft.image.info import Geometry, OutputSpec
from voxweft.runner.execution import Execution
from voxweft.stores import open_sink, open_volume
from voxweft.testing.phantom import make_phantom
from voxweft.testing.roll import Roll, write_tifxyz
from voxweft.testing.surface import make_ink_phantom
from voxweft.viewer.batch_page import save_batch_page
from voxweft.viewer.contact_sheet import contact_sheet, save_picture
from voxweft.viewer.page import save_report

VOXEL_NM, SMALLEST = 10.0, 32
GEOMETRY = Geometry((VOXEL_NM,) * 3, "nanometer")
ROLLED = (128, 256)  # rows and columns of the surface that are rolled up again
POINT_EVERY = 4  # voxels, of a tifxyz
REPLACED = "{} held another phantom, which is replaced: results that were made from that one no longer belong to it"


def run_demo(folder: str, size: int, seed: int, emit: Emit) -> list[str]:
    """Make a phantom, segment it, score it; the lines to print."""
    if size < SMALLEST:
        raise RequestError(f"--size {size} is too small for a phantom; use {SMALLEST} or more")
    target = Path(folder)
    phantom = make_phantom((size, size, size), seed=seed)
    image, result = target / "phantom.zarr", target / "membranes.zarr"
    _write_image(str(image), phantom.image, emit)
    execution = Execution(overwrite=True, command=f"voxweft demo {folder} --size {size} --seed {seed}")
    report = run(str(image), str(result), "demo", RunOptions(), execution=execution, emit=emit)
    sink = open_sink(str(result))
    spec = sink.open()
    found = sink.read(Box.of(spec.shape_zyx))[0] > 127
    dice = 2 * float((found & phantom.membrane).sum()) / max(1, int(found.sum()) + int(phantom.membrane.sum()))
    truth, seen = target / "truth.zarr", target / "pictures"
    _write_image(str(truth), phantom.membrane.astype(np.uint8), silent, is_label=True)
    page = save_report(str(result), "", pictures_to=str(seen), truth=str(truth))
    shown = ("image", "prediction", "against the truth (white: right, orange: too much, blue: missed)")
    files = [seen / f"z_{name}.png" for name in ("image", "prediction", "against_the_truth")]
    items = [(name, np.asarray(Image.open(file).convert("RGB"))) for name, file in zip(shown, files, strict=True)]
    save_picture(contact_sheet(items, columns=3), target / "membranes.png")
    return [
        f"phantom:   {image} ({size} x {size} x {size} voxels, noise and missing wedge)",
        f"membranes: {result} (OME-Zarr, probability 0 to 255)",
        f"report:    {page}",
        f"picture:   {target / 'membranes.png'} (more in {seen})",
        f"Dice against the truth: {dice:.3f}; {report.elapsed_s:.1f} s, {report.voxels_per_s / 1e6:.2f} Mvoxel/s",
    ]


def run_ink_demo(folder: str, seed: int, emit: Emit) -> list[str]:
    """Make a surface with text in ink, find the ink, score it; the lines to print."""
    segment = Path(folder) / "segment"
    phantom = make_ink_phantom(seed=seed)
    (segment / "layers").mkdir(parents=True, exist_ok=True)
    changed = [_write_layer(segment / "layers" / f"{n:02d}.png", layer) for n, layer in enumerate(phantom.layers)]
    if any(changed):
        emit(Event("note", REPLACED.format(segment)))
    scroll, surface = _write_scroll(Path(folder), phantom.layers, emit)
    place = str(Path(folder) / "ink.png")
    result = ink.infer(
        (
            LayerOptions(s3_path=str(segment), start_layer=0, end_layer=len(phantom.layers)),
            InkModelOptions(model="demo-ink"),
            InkOptions(stride=8),
        ),
        InkPartOptions(zarr_output_dir=str(Path(folder) / "partitions"), overwrite=True),
        PictureOptions(output_path=place, runtime_dir=folder),
        command=f"voxweft demo {folder} --ink --seed {seed}",
        emit=emit,
    )
    found = np.asarray(Image.open(place)) > 127
    dice = 2 * float((found & phantom.ink).sum()) / max(1, int(found.sum()) + int(phantom.ink.sum()))
    page = save_report(result.zarr, str(Path(folder) / "ink_report.html"), title=place)
    depth, height, width = phantom.layers.shape
    return [
        f"segment: {segment} ({depth} layers of {width} x {height} pixels)",
        f"scroll:  {scroll}, with a part of the same surface: {surface}",
        f"ink:     {place}",
        f"report:  {page}",
        f"Dice against the truth: {dice:.3f}; {result.report.elapsed_s:.1f} s",
    ]


def run_medical_demo(folder: str, seed: int, emit: Emit) -> list[str]:
    """Make three small images of a folder, segment them; the lines to print."""
    from voxweft.apps.medical import BatchExecution, MedicalOptions, batch
    from voxweft.stores.itk import itk

    images, labels = Path(folder) / "images", Path(folder) / "labels"
    images.mkdir(parents=True, exist_ok=True)
    for n in range(3):
        image = itk().GetImageFromArray(make_phantom((64, 64, 64), seed=seed + n).image)
        image.SetSpacing((0.8, 0.8, 1.0))
        itk().WriteImage(image, str(images / f"patient{n}.nii.gz"))
    command = f"voxweft demo {folder} --medical --seed {seed}"
    report = batch(
        images,
        labels,
        MedicalOptions(model=("demo",), preview=True, save_conf=True),
        execution=BatchExecution(command=command, overwrite=True),
        emit=emit,
    )
    page = save_batch_page(report)
    return [f"images:  {images} (3 of 64^3 voxels)", f"labels:  {labels}", f"report:  {page}; {report.seconds:.1f} s"]


def run_panoptic_demo(folder: str, seed: int, emit: Emit) -> list[str]:
    """Make a stack of granules and a network that finds them, segment it, score it; the lines to print."""
    from voxweft.apps import panoptic
    from voxweft.apps.panoptic.options import StackJob
    from voxweft.testing.granules import make_granules, write_granule_model

    target = Path(folder)
    made, image, result = make_granules(seed=seed), str(target / "granules.zarr"), str(target / "objects.zarr")
    _write_image(image, made.image, emit)
    model = write_granule_model(target)
    command = f"voxweft demo {folder} --panoptic --seed {seed}"
    execution = Execution(overwrite=True, command=command)
    report = panoptic.stack(image, result, str(model), StackJob(), execution=execution, emit=emit)
    sink = open_sink(result)
    found = sink.read(Box.of(sink.open().shape_zyx))[0]
    n = sum(_best_overlap(made.labels == k, found) > 0.5 for k in range(1, int(made.labels.max()) + 1))
    z, y, x = made.labels.shape
    return [
        f"stack:   {image} ({z} x {y} x {x} voxels of {VOXEL_NM:g} nm)",
        f"network: {model}",
        f"objects: {result} (labels), {target / 'objects_objects.csv'}",
        f"report:  {save_report(result, '')}",
        f"{n} of {int(made.labels.max())} granules found, {int(found.max())} objects; {report.elapsed_s:.1f} s",
    ]


def run_particles_demo(folder: str, seed: int, emit: Emit) -> list[str]:
    """Make a copick project of two tomograms, find its particles, score them; the lines to print."""
    from voxweft.apps import particles
    from voxweft.apps.particles.options import EvaluateOptions, LocalizeOptions, SegmentOptions, Work
    from voxweft.testing.tomogram import write_project
    from voxweft.viewer.particles_page import picks_page, save_page

    target = Path(folder)
    config = write_project(target, seed=seed)
    work = Work(command=f"voxweft demo {folder} --particles --seed {seed}", overwrite=True)
    options = SegmentOptions(config=config, model_weights="demo-particles", ntta=1, save_probabilities=True)
    segmented = particles.segment(options, work=work, emit=emit)
    found = particles.localize(LocalizeOptions(config=config), work=work, emit=emit)
    scores = str(target / "scores")
    result = particles.evaluate(EvaluateOptions(config=config, ground_truth_user_id="truth", output=scores), emit=emit)
    page = save_page(picks_page(found, "octopi", "1"), str(target / "particles.html"))
    n = sum(c.tp + c.fp for c in result.counts.values())
    return [
        f"project: {config} (2 tomograms of 64 x 160 x 160 voxels of 10 A)",
        f"picks:   {n} of {len(result.counts)} objects, user octopi, session 1",
        f"report:  {page}",
        f"F{result.beta:g} against the truth: {result.score:.3f}; {segmented.seconds + found.seconds:.1f} s",
    ]


def _best_overlap(inside: np.ndarray, found: np.ndarray) -> float:
    """The largest intersection over union of an object with what was found."""
    values, n = np.unique(found[inside], return_counts=True)
    scores = [k / (inside.sum() + (found == v).sum() - k) for v, k in zip(values, n, strict=True) if v]
    return max(scores, default=0.0)


def _write_scroll(folder: Path, layers: np.ndarray, emit: Emit) -> tuple[Path, Path]:
    """The upper left of a surface volume rolled up, as a scroll of 2.4 micrometres, and its surface as tifxyz."""
    rows, columns = ROLLED
    roll = Roll(rows, columns, len(layers), radius=columns / 2)
    scroll, surface = folder / "scroll.zarr", folder / "tifxyz"
    _write_image(str(scroll), roll.lay(layers[:, :rows, :columns]), emit, Geometry((2.4,) * 3, "micrometer"), 32)
    return scroll, write_tifxyz(surface, roll.points(), 1 / POINT_EVERY, source=scroll.name)


def _write_layer(path: Path, layer: np.ndarray) -> bool:
    """A layer as a picture, unless it is there; whether it took the place of another."""
    there = path.exists()
    if there and np.array_equal(np.asarray(Image.open(path)), layer):
        return False
    Image.fromarray(layer).save(path)
    return there


def _write_image(
    url: str, image: np.ndarray, emit: Emit, geometry: Geometry = GEOMETRY, side: int = 64, is_label: bool = False
) -> None:
    """The phantom as OME-Zarr; the same one stays as it is, and of another one it is said that it was replaced."""
    z, y, x = image.shape
    sink = open_sink(url)
    if sink.exists():
        there = open_volume(url)
        if there.shape == image.shape and np.array_equal(there[...], image):
            return
        emit(Event("note", REPLACED.format(url)))
    sink.remove()
    chunk = (min(side, z), min(side, y), min(side, x))
    sink.create(OutputSpec((z, y, x), 1, "uint8", chunk, chunk, geometry=geometry, pyramid="none", is_label=is_label))
    sink.write(Box.of((z, y, x)), image[np.newaxis])
