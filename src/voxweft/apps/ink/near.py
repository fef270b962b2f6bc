"""The chunks of a scroll near a surface, and whether the surface belongs to the scroll at all."""

from __future__ import annotations

from pathlib import PurePosixPath

from voxweft.engine.events import Emit, Event
from voxweft.errors import RequestError
from voxweft.geometry.box import Zyx
from voxweft.image.info import VolumeInfo
from voxweft.image.units import METERS
from voxweft.stores.segments import SurfaceMask
from voxweft.stores.surface import SurfaceInfo, Survey

CHUNK = 128  # of volumes that are not stored in blocks
SIDES = (8, 512)  # of a chunk that is one
SAME_SIZE = 0.02  # voxel sizes that differ by less are the same
MICROMETER = METERS["micrometer"]


def chunk_of(info: VolumeInfo) -> Zyx:
    """The chunk of a volume, or a cube where it is not stored in blocks.

    >>> chunk_of(VolumeInfo("v", "TIFF", (90, 4000, 5000), "uint8", chunk_zyx=(1, 4000, 5000)))
    (128, 128, 128)
    """
    return info.chunk_zyx if all(SIDES[0] <= n <= SIDES[1] for n in info.chunk_zyx) else (CHUNK, CHUNK, CHUNK)


def text_of(zyx: Zyx) -> str:
    """Three numbers as options take them."""
    return ",".join(map(str, zyx))


def checked_mask(
    segment: str, scroll: VolumeInfo, chunks: tuple[str, int], voxel_size_um: float, emit: Emit
) -> SurfaceMask:
    """The mask of a surface in a scroll.

    Parameters
    ----------
    segment, scroll
        The surface; the level of the scroll that is read.
    chunks
        Chunk "z,y,x", and how many around those that are touched.
    voxel_size_um
        Of the volume that the surface was made on, in micrometres; 0 where nobody says it.
    emit
        Told of what looks wrong, but need not be.

    Raises
    ------
    RequestError
        If the surface has no points, none of them lies in the scroll, or its voxels are of another size.
    """
    mask = SurfaceMask(segment, scroll.level, chunks[0], text_of(scroll.shape_zyx), chunks[1])
    check_inside(mask.survey, segment, scroll, emit)
    check_origin(mask.surface.info, scroll, voxel_size_um, emit)
    return mask


def check_origin(surface: SurfaceInfo, scroll: VolumeInfo, voxel_size_um: float, emit: Emit) -> None:
    """Warn where a surface names another volume; refuse voxels of another size."""
    named, here = (PurePosixPath(url.rstrip("/")).name.removesuffix(".zarr") for url in (surface.source, scroll.url))
    if named and named != here:
        text = (
            f"{surface.url} was made on {surface.source}, not on {scroll.url}; the result lies elsewhere if they differ"
        )
        emit(Event("warning", text))
    if not voxel_size_um:
        return
    unit = METERS.get(scroll.geometry.unit)
    if unit is None:
        emit(Event("warning", f"{scroll.url} does not say its voxel size, so --surface-voxel-size says nothing"))
        return
    found = scroll.geometry.voxel_size_zyx[2] * unit / MICROMETER / 2**scroll.level
    if abs(found / voxel_size_um - 1) > SAME_SIZE:
        raise RequestError(
            f"{surface.url} is in voxels of {voxel_size_um:g} micrometres, those of {scroll.url} are {found:g}.",
            "Give the scroll that the surface was made on, or a surface that is scaled to it.",
        )


def check_inside(found: Survey, segment: str, scroll: VolumeInfo, emit: Emit) -> None:
    """Refuse a surface without points in the scroll; warn where some of them lie outside."""
    if not found.n_points:
        raise RequestError(f"{segment} is empty: none of its points is there (finite, and not negative)")
    extent = " x ".join(map(str, scroll.shape_zyx))
    if not found.n_inside:
        sides = zip("zyx", found.low_zyx, found.high_zyx, strict=True)
        where = ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in sides)
        raise RequestError(
            f"{segment} lies outside {scroll.url}: its points are at {where}, the volume has {extent} voxels (level "
            f"{scroll.level})"
        )
    if found.n_inside < found.n_points:
        share = 1 - found.n_inside / found.n_points
        text = f"{share:.1%} of the points of {segment} lie outside {scroll.url} of {extent} voxels, and are left out"
        emit(Event("warning", text))
