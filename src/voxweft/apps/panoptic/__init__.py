"""Panoptic segmentation of electron microscopy: images, stacks, ortho-planes, and stacks of labels that exist."""

from __future__ import annotations

from voxweft.apps.panoptic.folder import images, is_folder_of_images
from voxweft.apps.panoptic.job import consensus, image, match, ortho, stack

__all__ = ["consensus", "image", "images", "is_folder_of_images", "match", "ortho", "stack"]
