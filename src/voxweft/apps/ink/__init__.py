"""Ink detection on surface volumes: prepare, infer, reduce."""

from __future__ import annotations

from voxweft.apps.ink.infer import estimate, infer, reduce
from voxweft.apps.ink.prepare import prepare

__all__ = ["estimate", "infer", "prepare", "reduce"]
