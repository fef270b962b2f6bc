"""Ink detection on surface volumes: prepare, infer, reduce; probe and sweep."""

from __future__ import annotations

from voxweft.apps.ink.infer import estimate, infer, reduce
from voxweft.apps.ink.prepare import prepare
from voxweft.apps.ink.probe import probe
from voxweft.apps.ink.trials import sweep

__all__ = ["estimate", "infer", "prepare", "probe", "reduce", "sweep"]
