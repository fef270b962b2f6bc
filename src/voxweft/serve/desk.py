"""What the server does, without HTTP: one model at a time, images one after the other, each with its progress."""

from __future__ import annotations

import shutil
import tempfile
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voxweft.apps.medical.cases import Case
from voxweft.apps.medical.job import Job
from voxweft.apps.medical.models import Ensemble, ensemble_of, require_window
from voxweft.apps.medical.options import MedicalOptions
from voxweft.engine.events import Event
from voxweft.errors import RequestError, VoxweftError
from voxweft.runner.devices import devices_of
from voxweft.runner.workers import Workers

KEPT = 100  # jobs whose end is remembered
ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for.

    Attributes
    ----------
    models
        The folder below which models lie; None: only the bundled one, "demo".
    upload_bytes
        Longest image.
    waiting
        Images that may wait for their turn.
    """

    models: Path | None = None
    upload_bytes: int = 4 << 30
    waiting: int = 64


class BusyError(VoxweftError):
    """Too many images wait already."""


class CancelledError(VoxweftError):
    """The client did not want it any more."""


@dataclass(slots=True)
class Inference:
    """One image on its way.

    Attributes
    ----------
    state
        "waiting", "running", "done", "failed" or "cancelled".
    done, total
        Units that are finished, and all of them, once they are known.
    message
        Why it failed.
    """

    state: str = "waiting"
    done: int = 0
    total: int = 0
    message: str = ""
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def told(self, event: Event) -> None:
        """Count; stop where that is wanted."""
        if self.stop.is_set():
            raise CancelledError("cancelled")
        if event.kind == "begin":
            self.done, self.total = int(event.data.get("n_done", 0)), int(event.data.get("n_units", 0))
        elif event.kind == "unit":
            self.done += 1


class Desk:
    """Loads models and segments images.

    Parameters
    ----------
    limits
        What clients may ask for.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._waiting = 0
        self._model: tuple[dict[str, Any], Ensemble, MedicalOptions] | None = None
        self._jobs: OrderedDict[str, Inference] = OrderedDict()

    @property
    def model(self) -> dict[str, Any] | None:
        """The loaded model in words; None where there is none."""
        return self._model[0] if self._model else None

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a model in place of the one before: ``backend_type``, ``model_path``, ``inference_config``.

        Raises
        ------
        RequestError
            If it may not be opened, or cannot.
        """
        backend, path = str(request.get("backend_type") or "auto"), request.get("model_path")
        if backend == "mmengine":
            raise RequestError("MMEngine configurations are code; the server does not run any")
        if not isinstance(path, str) or not path:
            raise RequestError("model_path is missing")
        config = request.get("inference_config") or {}
        if not isinstance(config, dict):
            raise RequestError("inference_config is no object")
        options = MedicalOptions(
            backend=backend,
            model=(self._allowed(path),),
            patch_size=_three(config.get("patch_size"), "patch_size"),
            patch_stride=_three(config.get("patch_stride"), "patch_stride"),
            fp16=bool(config.get("fp16", False)),
        )
        ensemble = ensemble_of(options)
        about = {
            "name": Path(path).name,
            "backend_type": backend,
            "config_path": None,
            "model_path": path,
            "inference_config": config,
            "labels": list(ensemble.card.class_names),
            "loaded": True,
        }
        with self._lock:
            self._model = (about, ensemble, options)
        return about

    def unload(self) -> bool:
        """Let the model go; whether there was one."""
        with self._lock:
            found, self._model = self._model is not None, None
        return found

    def job(self, name: str) -> Inference | None:
        """An image on its way, or one of the last that ended."""
        return self._jobs.get(name)

    def cancel(self, name: str) -> bool:
        """Stop at the next unit; whether there is anything to stop."""
        job = self._jobs.get(name)
        if job is None or job.state not in ("waiting", "running"):
            return False
        job.stop.set()
        return True

    def infer(self, name: str, ending: str, save: Callable[[Path], None], wanted: dict[str, str]) -> tuple[bytes, str]:
        """The segmentation of an image, on its own grid; the bytes of a file, and its ending.

        Parameters
        ----------
        name
            Of the job; "" for one that nobody asks for.
        ending
            Of the image's file.
        save
            Writes the image to a path.
        wanted
            ``window_level``, ``window_width``, ``force_cpu``, ``orientation``; empty texts for what the model says.

        Raises
        ------
        RequestError
            If there is no model, or the request is wrong.
        BusyError
            If too many wait.
        """
        model = self._model
        if model is None:
            raise RequestError("no model is loaded; POST /api/model first")
        if ending not in ENDINGS:
            raise RequestError(f"the image should be one of {', '.join(ENDINGS)}")
        _, ensemble, options = model
        options = replace(
            options,
            wl=wanted.get("window_level", ""),
            ww=wanted.get("window_width", ""),
            orientation=wanted.get("orientation") or "original",
            device="cpu" if wanted.get("force_cpu", "").lower() in ("1", "true", "yes") else options.device,
        )
        require_window(ensemble.card, options)
        job = self._take(name or uuid.uuid4().hex)
        try:
            with tempfile.TemporaryDirectory(prefix="voxweft-serve-") as folder:
                image = Path(folder) / f"image{ending}"
                save(image)
                with self._turn:
                    return self._segmented(job, image, ensemble, options, Path(folder) / "out"), ending
        except CancelledError:
            job.state = "cancelled"
            raise
        except Exception as error:
            job.state, job.message = "failed", str(error)
            raise
        finally:
            with self._lock:
                self._waiting -= 1

    def _segmented(
        self, job: Inference, image: Path, ensemble: Ensemble, options: MedicalOptions, output: Path
    ) -> bytes:
        if job.stop.is_set():
            raise CancelledError("cancelled")
        job.state = "running"
        ending = image.name.removeprefix("image")
        case = Case((str(image),), "image", ending, "image")
        work = Job(ensemble.refs, ensemble.is_nnunet, options, str(output), "", "")
        devices = devices_of(options.device)
        try:
            work.run(case, Workers("serial", 1, 1, tuple(devices[:1])), job.told)
            job.state = "done"
            return (output / case.result).read_bytes()
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def _take(self, name: str) -> Inference:
        with self._lock:
            if self._waiting >= self.limits.waiting:
                raise BusyError(f"{self._waiting} images wait already; try again later")
            if name in self._jobs and self._jobs[name].state in ("waiting", "running"):
                raise RequestError(f"a job {name!r} is on its way already")
            self._waiting += 1
            self._jobs[name] = Inference()
            self._jobs.move_to_end(name)
            while len(self._jobs) > KEPT + self.limits.waiting:
                self._jobs.popitem(last=False)
            return self._jobs[name]

    def _allowed(self, path: str) -> str:
        """A path of a client, where it leads below the folder of models and nowhere else."""
        if path == "demo":
            return path
        root = self.limits.models
        if root is None:
            raise RequestError("this server offers the model 'demo' only; it was started without --models")
        found = (root / path).resolve()
        if not found.is_relative_to(root.resolve()) or not found.exists():
            raise RequestError("there is no such model below the folder of models")
        return str(found)


def _three(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, list) or len(value) != 3 or not all(type(n) is int and 0 < n <= 1024 for n in value):
        raise RequestError(f"{name} should be three integers, z y x")
    return ",".join(map(str, value))
