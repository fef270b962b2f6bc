"""Writing a volume as a dataset of an HDF5 file, chunk by chunk."""

from __future__ import annotations

import json
from pathlib import Path

from voxweft.image.units import METERS
from voxweft.stores.outgoing import Outgoing
from voxweft.version import __version__

DATASET = "data"


def write_hdf5(path: Path, image: Outgoing) -> None:
    """The dataset ``data`` of z y x, or c z y x, with the axes as ilastik writes them and the voxel size.

    ``axistags`` names the axes, ``element_size_um`` has the voxel size z y x in micrometres, ``names`` what channels
    or labels mean.
    """
    import h5py

    sides, many = image.info.shape_zyx, len(image.channels) > 1
    chunk = tuple(min(a, b) for a, b in zip(sides, image.info.chunk_zyx, strict=True))
    keys, place = "czyx" if many else "zyx", image.info.geometry
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            DATASET,
            (len(image.channels), *sides) if many else sides,
            image.dtype,
            chunks=(1, *chunk) if many else chunk,
            compression="gzip",
            compression_opts=3,
            shuffle=True,
        )
        for n, key in enumerate(keys):
            data.dims[n].label = key
        flags = {"c": 1}  # vigra's AxisType: a channel; 2 is a length
        axes = [{"key": k, "typeFlags": flags.get(k, 2), "resolution": 0, "description": ""} for k in keys]
        data.attrs["axistags"] = json.dumps({"axes": axes})
        if place.unit in METERS:
            um = METERS[place.unit] / METERS["micrometer"]
            data.attrs["element_size_um"] = [round(size * um, 15) for size in place.voxel_size_zyx]
        if image.names:
            data.attrs["names"] = json.dumps({str(number): name for number, name in image.names})
        data.attrs["software"] = f"voxweft {__version__}"
        for channel, box, values in image.boxes():
            data[(channel, *box.slices) if many else box.slices] = values
