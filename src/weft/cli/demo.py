"""The demo: a fresh phantom, the small network that weft brings, a score against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from weft.apps.execute import Execution
from weft.apps.run import run
from weft.engine.events import Emit
from weft.engine.options import RunOptions
from weft.errors import RequestError
from weft.geometry.box import Box
from weft.image.info import Geometry, OutputSpec
from weft.stores import open_sink
from weft.testing.phantom import make_phantom
from weft.viewer.page import save_report

VOXEL_NM, SMALLEST = 10.0, 32


def run_demo(folder: str, size: int, seed: int, emit: Emit) -> list[str]:
    """Make a phantom, segment it, score it; the lines to print."""
    if size < SMALLEST:
        raise RequestError(f"--size {size} is too small for a phantom; use {SMALLEST} or more")
    target = Path(folder)
    phantom = make_phantom((size, size, size), seed=seed)
    image, result = target / "phantom.zarr", target / "membranes.zarr"
    _write_image(str(image), phantom.image)
    execution = Execution(overwrite=True, command=f"weft demo {folder} --size {size} --seed {seed}")
    report = run(str(image), str(result), "demo", RunOptions(), execution=execution, emit=emit)
    sink = open_sink(str(result))
    spec = sink.open()
    found = sink.read(Box.of(spec.shape_zyx))[0] > 127
    dice = 2 * float((found & phantom.membrane).sum()) / max(1, int(found.sum()) + int(phantom.membrane.sum()))
    page = save_report(str(result), "")
    return [
        f"phantom:   {image} ({size} x {size} x {size} voxels, noise and missing wedge)",
        f"membranes: {result} (OME-Zarr, probability 0 to 255)",
        f"report:    {page}",
        f"Dice against the truth: {dice:.3f}; {report.elapsed_s:.1f} s, {report.voxels_per_s / 1e6:.2f} Mvoxel/s",
    ]


def _write_image(url: str, image: np.ndarray) -> None:
    """The phantom as OME-Zarr, 10 nm voxels."""
    z, y, x = image.shape
    sink = open_sink(url)
    sink.remove()
    chunk = (min(64, z), min(64, y), min(64, x))
    geometry = Geometry((VOXEL_NM,) * 3, "nanometer")
    sink.create(OutputSpec((z, y, x), 1, "uint8", chunk, chunk, geometry=geometry, pyramid="none"))
    sink.write(Box.of((z, y, x)), image[np.newaxis])
