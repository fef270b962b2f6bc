"""The scroll pipeline: predict, blend, finalize, and all three in one sweep."""

from __future__ import annotations

from weft.apps.scroll.blend import blend
from weft.apps.scroll.finalize import finalize
from weft.apps.scroll.pipeline import pipeline
from weft.apps.scroll.predict import predict

__all__ = ["blend", "finalize", "pipeline", "predict"]
