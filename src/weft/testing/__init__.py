"""For tests of weft and of plug-ins: contract suites and phantoms."""

from __future__ import annotations

from weft.testing.contracts import ModelContract, RecordsContract, SinkContract, VolumeContract
from weft.testing.phantom import Phantom, make_phantom

__all__ = ["ModelContract", "Phantom", "RecordsContract", "SinkContract", "VolumeContract", "make_phantom"]
