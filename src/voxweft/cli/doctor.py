"""``voxweft doctor``: what is here, what is missing, and what the missing would give."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from voxweft.built import cache_folder
from voxweft.cli.front_end import FrontEnd
from voxweft.cli.show import AsJson, Verbose, say, table
from voxweft.installed import install_line, missing_packages
from voxweft.processor import lacks, processor
from voxweft.version import __version__

app = typer.Typer()
GIVES = {
    "em": "TIFF and HDF5 volumes",
    "ink": "ink models and layers in TIFF",
    "medical": "NIfTI, MetaImage, NRRD, DICOM: voxweft batch",
    "dicom": "DICOM segmentations: --output-format dicom-seg",
    "serve": "a server for 3D Slicer: voxweft serve",
    "panoptic": "organelles: voxweft panoptic; connected components: voxweft label",
    "cryoet": "tomograms: MRC, voxweft particles",
    "view": "results in the browser: voxweft view",
    "napari": "results in napari",
    "onnx": "ONNX models",
    "openvino": "faster networks on CPUs: --runtime openvino, bf16",
    "int8": "8-bit networks on CPUs: --precision int8",
    "s3": "s3:// and https:// volumes",
    "hub": "models from hf://",
    "dask": "workers of Dask: --executor dask",
    "crate": "metadata for archives: --ro-crate",
    "mmengine": "models of MMEngine: voxweft batch --backend mmseg",
}
"""What each extra is for."""

PACKAGES = ("torch", "zarr", "numpy", "openvino", "onnxruntime", "SimpleITK", "tifffile", "distributed")


@app.command("doctor")
def doctor(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Say what this machine has, and what each missing extra would give."""
    found = look()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    rows = {name: str(found[name]) for name in ("voxweft", "python", "system", "processor", "memory", "cache", "gpu")}
    formats = [f"{name} yes" if not why else f"{name} no: {why}" for name, why in found["formats"].items()]
    rows["packages"] = ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items())
    table({**rows, "precisions": "\n".join(formats)})
    extras = found["extras"]
    say("extras: " + (", ".join(name for name, one in extras.items() if not one["missing"]) or "none") + " are here")
    for name, one in extras.items():
        if one["missing"]:
            say(f"missing: {name} ({', '.join(one['missing'])}) would give {one['gives']}:\n  {install_line(name)}")


def look() -> dict[str, Any]:
    """All of it, for a person or as JSON."""
    import psutil

    memory, cache = psutil.virtual_memory(), cache_folder()
    there = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    missing = missing_packages()
    return {
        "voxweft": f"{__version__}, {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "formats": {precision: lacks(precision) for precision in ("bf16", "int8")},
        "memory": f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB",
        "cache": f"{cache}, {shutil.disk_usage(there).free / 1e9:.0f} GB free on its disk",
        "gpu": _gpu(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {
            name: {"gives": gives, "missing": missing[name]} for name, gives in GIVES.items() if name in missing
        },
    }


def _gpu() -> str:
    """The devices, or why there is none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        return ", ".join(f"{one.name}, {one.total_memory / 1e9:.0f} GB" for one in devices)
    if torch.version.cuda is None:
        has = "one is here, but " if shutil.which("nvidia-smi") else ""
        return f"none: {has}this torch ({torch.__version__}) is built for CPUs"
    return f"none: torch {torch.__version__} (CUDA {torch.version.cuda}) finds no device; does nvidia-smi run?"


def _version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return ""


FRONT_END = FrontEnd(
    app,
    examples={
        "doctor": "voxweft doctor",
    },
)
