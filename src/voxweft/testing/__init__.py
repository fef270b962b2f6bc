"""For tests of voxweft and of plug-ins: contract suites, phantoms, and Hypothesis strategies.

Those in ``strategies`` make what stages are made of, those in ``odd`` volumes and models as they should not be.
"""

from __future__ import annotations

from voxweft.testing.contracts import LauncherContract, ModelContract, RecordsContract, SinkContract, VolumeContract
from voxweft.testing.phantom import Phantom, make_phantom
from voxweft.testing.roll import Roll
from voxweft.testing.surface import InkPhantom, make_ink_phantom

__all__ = [
    "InkPhantom",
    "LauncherContract",
    "ModelContract",
    "Phantom",
    "RecordsContract",
    "Roll",
    "SinkContract",
    "VolumeContract",
    "make_ink_phantom",
    "make_phantom",
]
