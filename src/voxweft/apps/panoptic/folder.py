"""A folder of images, each by itself and of its own size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxweft.apps.panoptic.job import image
from voxweft.apps.panoptic.options import ImageJob
from voxweft.engine.events import Emit, silent
from voxweft.engine.report import Report
from voxweft.errors import RequestError
from voxweft.foreign import local
from voxweft.runner.batch import Outcome, for_each
from voxweft.runner.devices import devices_of
from voxweft.runner.execution import Execution
from voxweft.runner.workers import Workers
from voxweft.stores.url import absolute

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


def images(
    source: str,
    output: str,
    model: Any,
    options: ImageJob | None = None,
    *,
    execution: Execution | None = None,
    emit: Emit = silent,
) -> list[Outcome]:
    """Objects of every image of a folder; one that fails does not stop the others.

    Parameters
    ----------
    source, output
        A folder of images, and the folder of the results: ``NAME.zarr`` and ``NAME_objects.csv`` an image.
    model, options, execution, emit
        As for :func:`voxweft.apps.panoptic.image`.

    Raises
    ------
    RequestError
        If the folder holds no image, or two have one name.
    ItemsError
        If images failed; the others are complete.
    """
    options, execution = options or ImageJob(), execution or Execution()
    found = sorted(p for p in local(source).iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise RequestError(f"{source} holds no image; {', '.join(SUFFIXES)} are read")
    names = [p.stem for p in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RequestError(f"{source} holds two images of the name {min(twice)}; their results would be one")
    target = local(output)
    target.mkdir(parents=True, exist_ok=True)
    items = [(absolute(str(p)), absolute(str(target / f"{p.stem}.zarr"))) for p in found]
    workers = Workers.of(execution, devices_of(options.device))
    return for_each(items, Each(str(model), options, execution), workers, num_parts=1, cost=_size, emit=emit)


def _size(item: tuple[str, str]) -> float:
    return float(Path(item[0]).stat().st_size)


@dataclass(frozen=True, slots=True)
class Each:
    """What all images of a folder share."""

    model: str
    options: ImageJob
    execution: Execution

    def __call__(self, item: tuple[str, str], share: tuple[int, int], workers: Workers) -> Report:
        """One image."""
        own = Execution("serial", overwrite=self.execution.overwrite, command=self.execution.command)
        return image(*item, self.model, replace(self.options, device=workers.devices[0]), execution=own)


def is_folder_of_images(source: str, output: str) -> bool:
    """Whether a command means every image of a folder, and not the folder as one stack (``output`` an OME-Zarr)."""
    return not output.endswith(".zarr") and "://" not in source and local(source).is_dir()
