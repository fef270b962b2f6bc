"""Where volumes come from and where results go, chosen by URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import Any

from voxweft.errors import RequestError, VolumeError, VoxweftError, first_line
from voxweft.image.axes import Select
from voxweft.image.explored import Explored, ExploredVolume
from voxweft.image.info import OutputSpec
from voxweft.image.order import AS_IT_IS, Order
from voxweft.image.protocols import Sink, Volume
from voxweft.image.ref import STACK, VolumeRef
from voxweft.image.views import Stack
from voxweft.plugins import find_plugin
from voxweft.remote import is_remote
from voxweft.stores.file_formats import ending_of, format_of, zarr_for
from voxweft.stores.url import local_path

FORMATS = {
    ".tif": "voxweft.stores.tiff:TiffVolume",
    ".tiff": "voxweft.stores.tiff:TiffVolume",
    ".h5": "voxweft.stores.hdf5:Hdf5Volume",
    ".hdf5": "voxweft.stores.hdf5:Hdf5Volume",
    ".zarr": "voxweft.stores.zarr:ZarrVolume",
    ".nii": "voxweft.stores.nifti:NiftiVolume",
    ".nii.gz": "voxweft.stores.nifti:NiftiVolume",
    ".hdr": "voxweft.stores.nifti:NiftiVolume",
    ".mha": "voxweft.stores.itk:ItkVolume",
    ".mhd": "voxweft.stores.itk:ItkVolume",
    ".nrrd": "voxweft.stores.itk:ItkVolume",
    "dicom": "voxweft.stores.itk:ItkVolume",
    **dict.fromkeys((".mrc", ".rec", ".map", ".st"), "voxweft.stores.mrc:MrcVolume"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), "voxweft.stores.picture:PictureVolume"),
}
OPENERS = {"layers": "voxweft.stores.layers:LayersVolume", "sparse": "voxweft.stores.sparse:SparseVolume"}
ALONG_SURFACES = {
    "surface-mask": "voxweft.stores.segments:SurfaceMask",
    "flattened": "voxweft.stores.segments:Flattened",
}
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def open_volume(
    source: Any, *, level: int = 0, cache: tuple[str, int] | None = None, select: Select | None = None
) -> Explored:
    """Open a volume; beside being read box by box it can be looked at and sliced as numpy arrays are.

    Parameters
    ----------
    source
        Path or URL of a zarr array or OME-Zarr group (local, s3://, http://), of a TIFF file, of a folder of numbered
        TIFF files, or of an HDF5 file (``file.h5`` or ``file.h5::/path/of/dataset``); an array [Z, Y, X] or
        [C, Z, Y, X]; or anything that is a :class:`~voxweft.image.Volume` already.
    level
        Resolution level of a multi-scale group; 0 is the finest.
    cache
        Folder and most bytes of a cache on disk for zarr that is read from s3:// or http(s)://.
    select
        Time point, channel or series of a file that has several.

    Raises
    ------
    VolumeError
        If nothing lies there, or no known format, or a kind that voxweft refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from voxweft.geometry.box import Box
    >>> volume = open_volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    >>> volume.info.shape_zyx, volume.read(Box((1, 0, 0), (2, 1, 4))).tolist()
    ((2, 3, 4), [[[[12, 13, 14, 15]]]])
    >>> volume.shape, volume[1, 0].tolist()
    ((2, 3, 4), [12, 13, 14, 15])
    >>> open_volume("nowhere.zarr")
    Traceback (most recent call last):
    voxweft.errors.VolumeError: nowhere.zarr: nothing lies there
    """
    import numpy as np

    if isinstance(source, np.ndarray):
        from voxweft.stores.memory import MemoryVolume

        return ExploredVolume(MemoryVolume(source))
    if isinstance(source, Volume):
        return source if isinstance(source, Explored) else ExploredVolume(source)
    if not isinstance(source, str | os.PathLike):
        raise VolumeError(f"a {type(source).__name__} is no volume; give a path, an URL or a numpy array [Z, Y, X]")
    url = str(source)
    volume: Any
    opener, select = _opener(url), select or Select()
    if level and not opener.__name__.startswith("Zarr"):
        raise VolumeError(f"{url} has one resolution; --level {level} needs an OME-Zarr")
    if opener.__module__.partition(".")[0] != "voxweft":
        volume = opener(url)  # of a plug-in
    else:
        more = {"level": level, "cache": cache if is_remote(url) else None} if opener.__name__ == "ZarrVolume" else {}
        try:
            volume = opener(url, select=select, **more)
        except (VoxweftError, OSError):
            raise
        except Exception as error:  # libraries of formats raise anything over damaged files
            raise VolumeError(f"{url} is damaged or odd: {type(error).__name__}, {first_line(error)}") from error
    if select != Select():
        volume.ref = VolumeRef(url, level, arguments={k: v for k, v in asdict(select).items() if v is not None})
    return ExploredVolume(volume)


def open_ref(ref: VolumeRef) -> Volume:
    """Open what a reference names, seen as it says.

    Raises
    ------
    VolumeError
        As :func:`open_volume`, or if the volume cannot be seen so.
    RequestError
        If the opener is unknown.
    """
    volume: Volume = _open_base(ref)
    for view in ref.views:
        volume = view.of(volume)
    return volume


def _open_base(ref: VolumeRef) -> Volume:
    if not ref.opener:
        return open_volume(ref.url, level=ref.level, select=Select(**ref.arguments))  # type: ignore[arg-type]
    if ref.opener == STACK:
        return Stack([open_ref(r) for r in ref.volumes])
    if place := (OPENERS | ALONG_SURFACES).get(ref.opener):
        return _load(place)(ref.url, *map(open_ref, ref.volumes), **ref.arguments)  # type: ignore[no-any-return]
    known = ", ".join((*OPENERS, STACK, *ALONG_SURFACES))
    raise RequestError(f"{ref.url}: nothing opens {ref.opener!r}; use {known}, or none for open_volume")


def open_sink(target: Any, *, layout: str = "ome-zarr", order: Order = AS_IT_IS) -> Sink:
    """Open where a result is to go: the path or s3:// URL of an OME-Zarr (``*.zarr``), "memory://", or a ready sink.

    For a file (``out.tif``, ``.h5``, ``.nii``, ``.nii.gz``, ``.mrc``) that is the OME-Zarr beside it (``out.zarr``),
    from which a run writes the file in the end.

    Parameters
    ----------
    target
        A ready sink is taken as it is.
    layout
        "vesuvius" makes it the plain zarr v2 array of the scroll pipeline.
    order
        The stored axes, see :class:`~voxweft.image.OutputSpec`.

    Raises
    ------
    RequestError
        If nothing can be written there.

    Examples
    --------
    >>> open_sink("memory://").exists()
    False
    >>> open_sink("result.png")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    voxweft.errors.RequestError: cannot write 'result.png': OUTPUT must end in .zarr (a path or an s3:// URL), ...
    """
    if hasattr(target, "write") and hasattr(target, "records"):
        return target  # type: ignore[no-any-return]
    sink = _open_sink(target, layout)
    if order == AS_IT_IS:
        return sink
    from voxweft.stores.permuted import PermutedSink

    return PermutedSink(sink, order)


def open_sink_for(target: Any, spec: OutputSpec) -> Sink:
    """Open where the array of a spec is to go, in its layout, its order of axes, and with its channels as it says."""
    if not spec.stacked:
        return open_sink(target, layout=spec.layout, order=spec.order)
    from voxweft.stores.permuted import PermutedSink
    from voxweft.stores.stacked import StackedSink

    return PermutedSink(StackedSink(_open_sink(target, spec.layout)), spec.order)


def _open_sink(target: Any, layout: str) -> Sink:
    url = str(target).rstrip("/")
    if str(target) == "memory://":
        from voxweft.stores.memory import MemorySink

        return MemorySink()
    if plugin := _plugin("voxweft.sinks", url):
        return plugin(url)  # type: ignore[no-any-return]
    file = url if ending_of(url) and layout == "ome-zarr" else ""
    url = zarr_for(url) if file else url
    if not url.endswith(".zarr"):
        raise RequestError(
            f"cannot write {url!r}: OUTPUT must end in .zarr (a path or an s3:// URL), .tif, .h5, .nii.gz or .mrc"
        )
    if url.startswith(("http://", "https://")):
        raise RequestError(f"cannot write {url}: http is read-only; give a path or an s3:// URL")
    if layout == "vesuvius":
        from voxweft.stores.zarr2 import Zarr2Sink

        return Zarr2Sink(url)
    from voxweft.stores.ome_zarr import OmeZarrSink

    sink = OmeZarrSink(url)
    if file:
        format_of(file)
        sink.file = file
    return sink


def in_memory() -> Sink:
    """An OME-Zarr that lies in memory, compressed and with its resolution levels, to measure what writing costs."""
    from zarr.storage import MemoryStore

    from voxweft.stores.memory import MemoryRecords
    from voxweft.stores.ome_zarr import OmeZarrSink

    return OmeZarrSink("memory.zarr", store=MemoryStore(), records=MemoryRecords())


def _opener(url: str) -> Callable[..., Any]:
    if plugin := _plugin("voxweft.volumes", url):
        return plugin  # type: ignore[no-any-return]
    if not is_remote(url) and "://" in url and not url.startswith("file://"):
        raise VolumeError(f"{url}: the scheme is unknown; use a path, s3:// or http(s)://")
    path = local_path(url.partition("::")[0])
    if not is_remote(url) and ".h5/" not in url and not path.exists():
        raise VolumeError(f"{url}: nothing lies there")
    if is_remote(url) or any((path / name).exists() for name in ZARR_FILES):
        return _load(FORMATS[".zarr"])
    if path.is_dir():
        names = [p.name.lower() for p in path.iterdir()]
        if any(name.endswith((".tif", ".tiff")) for name in names):
            return _load(FORMATS[".tif"])
        if "::" in url or any(name.endswith((".dcm", ".ima")) or "." not in name for name in names):
            return _load(FORMATS["dicom"])
        raise VolumeError(f"{url} is a folder without a zarr array, TIFF files or a DICOM series")
    suffix = ".h5" if ".h5/" in url else ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    if suffix in FORMATS and suffix != ".zarr":
        return _load(FORMATS[suffix])
    raise VolumeError(
        f"{url} is no volume that voxweft knows: use zarr, OME-Zarr, TIFF (file or folder), HDF5, "
        "NIfTI (.nii, .nii.gz), MetaImage (.mha, .mhd), NRRD, MRC, a picture or a folder with a DICOM series"
    )


def _load(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)  # type: ignore[no-any-return]


def _plugin(group: str, url: str) -> Any:
    """The installed plug-in for a suffix or scheme; a suffix that voxweft reads itself is not given away."""

    def claims(name: str) -> bool:
        return name not in FORMATS and (url.endswith(name) or url.startswith(name))

    return find_plugin(group, url, claims)
