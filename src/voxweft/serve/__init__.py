"""The HTTP server that a viewer asks for segmentations."""

from __future__ import annotations

from voxweft.serve.api import make_app
from voxweft.serve.desk import Desk, Limits

__all__ = ["Desk", "Limits", "make_app"]
