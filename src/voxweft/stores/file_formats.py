"""The files of other programs that a result can be written to, by their endings."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from voxweft.errors import RequestError
from voxweft.installed import install_line
from voxweft.remote import is_remote


class FileFormat(NamedTuple):
    """How a file is written.

    ``writer``: module and function. ``dtypes``: that it can hold; none for any. ``library``, ``extra``: what writes it,
    and the extra that brings it. ``channels``: whether it can hold several.
    """

    writer: str
    dtypes: str
    library: str
    extra: str
    channels: bool = True

    def load(self) -> tuple[Callable[..., None], tuple[str, ...]]:
        """The function that writes it, and the dtypes that it can hold."""
        module = import_module(f"voxweft.stores.{self.writer.partition(':')[0]}")
        return getattr(module, self.writer.partition(":")[2]), getattr(module, self.dtypes) if self.dtypes else ()


_TIFF = FileFormat("tiff_file:write_tiff", "DTYPES", "tifffile", "em")
_HDF5 = FileFormat("hdf5_file:write_hdf5", "", "h5py", "em")
_NIFTI = FileFormat("nifti_file:write_nifti", "DTYPES", "nibabel", "medical")
_MRC = FileFormat("mrc_file:write_mrc", "DTYPES", "mrcfile", "cryoet", channels=False)
FILES = {
    ".ome.tif": _TIFF, ".ome.tiff": _TIFF, ".tif": _TIFF, ".tiff": _TIFF, ".h5": _HDF5, ".hdf5": _HDF5,
    ".nii.gz": _NIFTI, ".nii": _NIFTI, ".mrc": _MRC, ".rec": _MRC, ".map": _MRC,
}  # fmt: skip


def ending_of(url: str) -> str:
    """The ending by which a file is known, "" for none.

    >>> ending_of("seg.ome.tif"), ending_of("T1.nii.gz"), ending_of("out.zarr")
    ('.ome.tif', '.nii.gz', '')
    """
    return next((ending for ending in FILES if url.lower().endswith(ending)), "")


def zarr_for(url: str) -> str:
    """The OME-Zarr that a file is written from, beside it.

    >>> zarr_for("results/seg.ome.tif")
    'results/seg.zarr'
    """
    return url[: -len(ending_of(url))] + ".zarr"


def format_of(url: str) -> FileFormat:
    """The format of a file that is to be written; whether it can be is checked.

    Raises
    ------
    RequestError
        If its ending is unknown, it does not lie on this machine, or a library is missing.
    """
    if not (ending := ending_of(url)):
        raise RequestError(f"cannot write {url!r}: a file ends in {', '.join(FILES)}")
    if is_remote(url):
        raise RequestError(f"cannot write {url}: a {ending} is written to a local path; only .zarr may lie on s3://")
    found = FILES[ending]
    try:
        import_module(found.library)
    except ImportError as error:
        message = f"{url} needs the extra {found.extra!r}: {install_line(found.extra)}"
        raise RequestError(message) from error
    return found
