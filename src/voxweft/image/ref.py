"""What it takes to open the same volume again, anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from voxweft.image.protocols import Volume
from voxweft.image.resampled import Resample, Standardize
from voxweft.image.views import Stack, View, ViewedVolume

STACK = "stack"


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """Where a volume lies, how it is opened and how it is seen: plain JSON, no open handle.

    ``voxweft.stores.open_ref`` opens it, :func:`volume_ref` makes it.

    Attributes
    ----------
    url, level
        As for ``open_volume``.
    opener
        "" for ``open_volume``; else a name of the table in ``voxweft.stores``: "layers" for numbered pictures,
        "flattened" for a volume along a surface, ...; or "stack" for several volumes as one.
    arguments
        More that the opener needs.
    volumes
        What "stack" joins, or what the opener is given.
    views
        Applied one after the other, the first one first.

    Examples
    --------
    >>> from voxweft.image import Permute
    >>> VolumeRef("scan.zarr", level=1, views=(Permute((1, 0, 2)),)).views[0].kind
    'permute'
    """

    url: str
    level: int = 0
    opener: str = ""
    arguments: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    volumes: tuple[VolumeRef, ...] = ()
    views: tuple[View | Resample | Standardize, ...] = ()


def volume_ref(volume: Volume) -> VolumeRef:
    """What opens a volume again; one that knows better carries it as ``ref``.

    Of a volume in memory it is an URL that nothing opens.

    >>> import numpy as np
    >>> from voxweft import open_volume
    >>> volume_ref(open_volume(np.zeros((5, 6, 7)))).url
    'memory://'
    """
    if isinstance(volume, ViewedVolume):
        base = volume_ref(volume.base)
        return replace(base, views=(*base.views, volume.view))  # type: ignore[arg-type]
    if isinstance(volume, Stack):
        return VolumeRef(volume.info.url, opener=STACK, volumes=tuple(volume_ref(v) for v in volume.volumes))
    own = getattr(volume, "ref", None)
    return own if isinstance(own, VolumeRef) else VolumeRef(volume.info.url, volume.info.level)
