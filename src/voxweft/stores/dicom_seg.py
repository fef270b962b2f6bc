"""DICOM segmentations, by highdicom, for a series that was segmented."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.errors import VolumeError, first_line
from voxweft.installed import install_line
from voxweft.stores.url import local_path
from voxweft.version import __version__

EXTRA = f"DICOM segmentations need the extra 'dicom': {install_line('dicom')}"
TISSUE = ("85756007", "SCT", "Tissue")  # category and type where the labels have names, but no codes


def write_dicom_seg(path: Path, files: list[str], labels: NDArray[Any], names: Mapping[str, str], model: str) -> None:
    """Write labels [Z, Y, X] as a binary segmentation of the series whose files are given in the order of z.

    Parameters
    ----------
    path
        A ``.dcm`` to write.
    files
        One file a plane.
    labels
        Unsigned integers, on the grid of the series.
    names
        Of the labels, by number as text; those that occur become segments.
    model
        Name of what made them.

    Raises
    ------
    VolumeError
        If highdicom is not installed, or the files are no series that can be referred to.
    """
    try:
        import highdicom
        import pydicom
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise VolumeError(EXTRA) from error
    found = [number for number in names if (labels == int(number)).any()]
    if not found:
        raise VolumeError(
            f"{local_path(files[0]).parent}: nothing was found in it, and a DICOM-SEG must have a segment"
        )
    planes = [pydicom.dcmread(file) for file in files]
    code = highdicom.sr.CodedConcept(*TISSUE)
    family = codes.DCM.ArtificialIntelligence
    made_by = highdicom.AlgorithmIdentificationSequence(name=model, version=__version__, family=family)
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label=names[number][:64],
            segmented_property_category=code,
            segmented_property_type=code,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for n, number in enumerate(found, start=1)
    ]
    masks = np.stack([labels == int(number) for number in found], axis=-1).astype(np.uint8)
    try:
        highdicom.seg.Segmentation(
            source_images=planes,
            pixel_array=masks,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=highdicom.UID(),
            series_number=900,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="voxweft",
            manufacturer_model_name="voxweft",
            software_versions=__version__,
            device_serial_number="0",
            omit_empty_frames=True,
        ).save_as(path)
    except Exception as error:  # what highdicom finds wrong with a series
        raise VolumeError(f"{local_path(files[0]).parent} cannot have a DICOM-SEG: {first_line(error)}") from error
