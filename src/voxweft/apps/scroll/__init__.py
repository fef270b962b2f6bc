"""The scroll pipeline: predict, blend, finalize, and all three in one sweep."""

from __future__ import annotations

from voxweft.apps.scroll.blend import blend
from voxweft.apps.scroll.finalize import finalize
from voxweft.apps.scroll.pipeline import pipeline
from voxweft.apps.scroll.predict import predict

__all__ = ["blend", "finalize", "pipeline", "predict"]
