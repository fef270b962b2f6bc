"""weft runs trained segmentation networks over very large 3-D images and weaves the patches into one result.

>>> import numpy as np, weft
>>> image = np.random.default_rng(0).integers(0, 255, (40, 40, 40), dtype=np.uint8)
>>> sink = weft.open_sink("memory://")
>>> weft.run(image, sink, "fake://null?patch=16,16,16").status
'complete'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from weft.version import __version__

if TYPE_CHECKING:
    from weft.apps.execute import Execution, verify
    from weft.apps.forecast import forecast
    from weft.apps.run import run, run_many
    from weft.apps.status import status
    from weft.backends import load_model
    from weft.engine.options import RunOptions
    from weft.engine.plan import Plan, make_plan
    from weft.engine.report import Report
    from weft.errors import WeftError
    from weft.geometry.box import Box
    from weft.stores import open_sink, open_volume

__all__ = [
    "Box",
    "Execution",
    "Plan",
    "Report",
    "RunOptions",
    "WeftError",
    "__version__",
    "forecast",
    "load_model",
    "make_plan",
    "open_sink",
    "open_volume",
    "run",
    "run_many",
    "status",
    "verify",
]

_HOMES = {
    "weft.apps.forecast": ("forecast",),
    "weft.apps.execute": ("Execution", "verify"),
    "weft.apps.run": ("run", "run_many"),
    "weft.apps.status": ("status",),
    "weft.backends": ("load_model",),
    "weft.engine.options": ("RunOptions",),
    "weft.engine.plan": ("Plan", "make_plan"),
    "weft.engine.report": ("Report",),
    "weft.errors": ("WeftError",),
    "weft.geometry.box": ("Box",),
    "weft.stores": ("open_sink", "open_volume"),
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import weft`` is quick."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'weft' has no attribute {name!r}")
