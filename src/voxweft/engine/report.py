"""What a run was and did, as plain data."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxweft.engine.part import State
from voxweft.engine.totals import n_cores
from voxweft.processor import processor
from voxweft.shown import Shown, counted
from voxweft.version import __version__

REDONE_SHOWN = 5  # lines of a report's ``redone`` that are shown to a person


@dataclass(frozen=True, slots=True)
class Report(Shown):
    """What a run was and did.

    Attributes
    ----------
    output, plan_digest
        Where the result lies, and the plan it is made by.
    status
        Complete, partial (other parts are missing) or failed.
    n_units, n_units_done
        Units of the main stage (slabs of the output), and those that are complete.
    totals
        Seconds an activity, patches, voxels, bytes of this call (summed over its workers).
    elapsed_s
        Wall-clock seconds.
    peak_memory_bytes
        Largest resident memory of any one process.
    notes, warnings
        What the user should know.
    parts
        What each part did.
    failures
        Why parts failed, by their numbers.
    redone
        Parts that were begun more than once: by whom, and what became of each attempt.
    stages
        Of each stage the units that are complete, and all.
    environment
        Versions, host, processor, device.
    beside
        Where further arrays lie, by their names.

    Examples
    --------
    >>> report = Report("o.zarr", "", State.COMPLETE, 8, 8, {"n_voxels": 4_000_000}, 2.0, peak_memory_bytes=10**9)
    >>> report.voxels_per_s, report.to_dict()["status"]
    (2000000.0, 'complete')
    """

    output: str
    plan_digest: str
    status: State
    n_units: int
    n_units_done: int
    totals: Mapping[str, Any]
    elapsed_s: float
    peak_memory_bytes: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    parts: tuple[Mapping[str, Any], ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    redone: tuple[str, ...] = ()
    stages: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)
    ended_at: float = field(default_factory=time.time)

    @property
    def voxels_per_s(self) -> float:
        """Output voxels a second of wall clock."""
        return float(self.totals.get("n_voxels", 0)) / max(self.elapsed_s, 1e-9)

    def __repr__(self) -> str:
        took = f"{self.n_units_done} of {counted(self.n_units, 'units')}, {self.elapsed_s:.1f} s"
        return f"<report of {self.output}: {self.status}, {took}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"voxels_per_s": round(self.voxels_per_s)}


def trial_in_words(trial: Mapping[str, Any]) -> str:
    """A candidate of a plan, measured or not, as :class:`~voxweft.engine.calibrate.Trial` has it.

    >>> trial_in_words({"runtime": "torch", "precision": "fp32", "batch_size": 1, "patch_s": 0.2, "remark": ""})
    'torch fp32, batch 1: 200 ms a patch'
    """
    more = f", {n} cores a pass" if (n := trial.get("n_threads", 1)) > 1 else ""
    more += ", channels last" if trial.get("channels_last") else ""
    speed = f"{1000 * trial['patch_s']:.3g} ms a patch" if trial["patch_s"] else "not measured"
    said = f"{trial['runtime']} {trial['precision']}, batch {trial['batch_size']}{more}: {speed}"
    if found := trial.get("agreement"):
        said += f"; {_share(found['flips'])} of labels change, probabilities by {found['mean']:.1e} on average"
        said += f" and up to {found['p999']:.1e} in 99.9 % of voxels"
        said += f", Dice {', '.join(f'{one:.4f}' for one in found['dice'])}" if found["dice"] else ""
    return said + (f" ({trial['remark']})" if trial["remark"] else "")


def precision_note(found: Mapping[str, Any] | None, precision: str, tolerance: float | None) -> str:
    """What a reduced precision changes, in a line, as far as it was judged; "" of fp32.

    ``found``: its agreement with fp32; ``tolerance``: what is allowed, None where it was asked for by name.
    """
    if precision == "fp32":
        return ""
    if not found:
        return f"the network runs in {precision}; what that changes was not looked at"
    allowed = f", {_share(tolerance)} are allowed; --tolerance 0 changes none" if tolerance is not None else ""
    return (
        f"the network runs in {precision}: {_share(found['flips'])} of labels change against fp32 on samples of the "
        f"volume{allowed}"
    )


def _share(share: float) -> str:
    return f"{share:.3%}"


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    On Linux from /proc: ``getrusage`` would begin with what the parent process had when it started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware that a reader of the report may ask for."""
    name = processor()
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name(device)
    return {
        "voxweft": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "zarr")},  # nothing is imported for it
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "device": f"{device} ({name})",
        "n_cores": n_cores(),
    }
