"""Particles in tomograms of copick projects: segment, localize, evaluate; lists of other programs."""

from __future__ import annotations

from voxweft.apps.particles.evaluate import evaluate
from voxweft.apps.particles.exchange import export_picks, import_picks, import_tomograms
from voxweft.apps.particles.find import Wanted
from voxweft.apps.particles.localize import localize, localize_array
from voxweft.apps.particles.segment import segment, segment_array
from voxweft.stores.copick import Project
from voxweft.stores.copick_files import Picks, PicksName

__all__ = [
    "Picks",
    "PicksName",
    "Project",
    "Wanted",
    "evaluate",
    "export_picks",
    "import_picks",
    "import_tomograms",
    "localize",
    "localize_array",
    "segment",
    "segment_array",
]
