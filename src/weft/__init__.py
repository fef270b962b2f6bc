"""weft runs trained segmentation networks over very large 3-D images and weaves the patches into one result."""

from __future__ import annotations

__version__ = "0.1.0"
