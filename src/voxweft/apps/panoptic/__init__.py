"""Panoptic segmentation of electron microscopy: images, stacks, ortho-planes, and stacks of labels that exist."""

from __future__ import annotations

from voxweft.apps.panoptic.job import consensus, image, match, ortho, stack

__all__ = ["consensus", "image", "match", "ortho", "stack"]
