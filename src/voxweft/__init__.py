"""voxweft runs trained segmentation networks over very large 3-D images and weaves the patches into one result.

>>> import numpy as np, voxweft
>>> image = np.random.default_rng(0).integers(0, 255, (40, 40, 40), dtype=np.uint8)
>>> sink = voxweft.open_sink("memory://")
>>> voxweft.run(image, sink, "fake://null?patch=16,16,16").status
'complete'
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from voxweft.shown import draw_with
from voxweft.version import __version__

INTERRUPTED = 130  # as shells say of what Ctrl-C ended
if (
    os.path.basename(sys.argv[0]) == "voxweft" or (sys.argv[0] == "-m" and "voxweft" in sys.orig_argv)  # noqa: PTH119
) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # this is the command: quiet from the first import on
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))

if TYPE_CHECKING:
    from voxweft.apps.run import run, run_many
    from voxweft.backends import load_model
    from voxweft.cli.progress import progress
    from voxweft.engine.options import RunOptions
    from voxweft.engine.plan import Plan
    from voxweft.engine.report import Report
    from voxweft.errors import VoxweftError
    from voxweft.geometry.box import Box
    from voxweft.runner.asked import make_plan
    from voxweft.runner.execution import Execution
    from voxweft.runner.exporting import export
    from voxweft.runner.forecast import forecast
    from voxweft.runner.status import status
    from voxweft.runner.verify import verify
    from voxweft.stores import open_sink, open_volume

__all__ = [
    "Box",
    "Execution",
    "Plan",
    "Report",
    "RunOptions",
    "VoxweftError",
    "__version__",
    "export",
    "forecast",
    "load_model",
    "make_plan",
    "open_sink",
    "open_volume",
    "progress",
    "run",
    "run_many",
    "status",
    "verify",
]

_HOMES = {
    "voxweft.apps.run": ("run", "run_many"),
    "voxweft.backends": ("load_model",),
    "voxweft.cli.progress": ("progress",),
    "voxweft.engine.options": ("RunOptions",),
    "voxweft.engine.plan": ("Plan",),
    "voxweft.engine.report": ("Report",),
    "voxweft.errors": ("VoxweftError",),
    "voxweft.geometry.box": ("Box",),
    "voxweft.runner.asked": ("make_plan",),
    "voxweft.runner.execution": ("Execution",),
    "voxweft.runner.exporting": ("export",),
    "voxweft.runner.forecast": ("forecast",),
    "voxweft.runner.status": ("status",),
    "voxweft.runner.verify": ("verify",),
    "voxweft.stores": ("open_sink", "open_volume"),
}


def _page(shown: Any) -> str:
    """What a notebook shows of an object; what draws it is imported when somebody looks."""
    from voxweft.viewer.notebook import html_of

    return html_of(shown)


draw_with(_page)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import voxweft`` is quick."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'voxweft' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names only, for ``dir`` and completion."""
    return sorted(__all__)
