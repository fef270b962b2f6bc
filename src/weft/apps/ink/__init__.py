"""Ink detection on surface volumes: prepare, infer, reduce."""

from __future__ import annotations

from weft.apps.ink.infer import estimate, infer, reduce
from weft.apps.ink.prepare import prepare

__all__ = ["estimate", "infer", "prepare", "reduce"]
