"""Ink detection on surface volumes: prepare, infer, reduce."""

from __future__ import annotations

from weft.apps.ink.infer import infer, reduce, request
from weft.apps.ink.prepare import prepare

__all__ = ["infer", "prepare", "reduce", "request"]
