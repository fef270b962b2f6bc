"""The reader plug-in for napari: its manifest, and the layers that it gives."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import voxweft.viewer
from voxweft.viewer.in_napari import get_reader

npe2 = pytest.importorskip("npe2", reason="the extra 'napari' is not installed")
MANIFEST = Path(voxweft.viewer.__file__).with_name("napari.yaml")


def test_the_manifest_is_valid_and_leads_to_the_reader() -> None:
    manifest = npe2.PluginManifest.from_file(MANIFEST)
    (command,) = manifest.contributions.commands
    assert command.python_name == "voxweft.viewer.in_napari:get_reader"
    (reader,) = manifest.contributions.readers
    assert reader.command == command.id
    assert reader.accepts_directories
    found = [e.value for e in entry_points(group="napari.manifest") if e.name == "voxweft"]
    if not found:
        pytest.skip("voxweft was installed here before it had a plug-in for napari")
    assert found == ["voxweft.viewer:napari.yaml"]


def test_labels_come_as_labels_with_names_colours_size_and_levels(tmp_path: Path) -> None:
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[5:, 6:, 7:] = 2
    group = zarr.open_group(tmp_path / "o.zarr", mode="w", zarr_format=3)
    scales = []
    for n, array in enumerate((labels, labels[:, ::2, ::2])):
        group.create_array(str(n), data=array, chunks=(8, 8, 8))
        steps = [{"type": "scale", "scale": [3.0, 2.0**n, 2.0**n]}]
        scales.append({"path": str(n), "coordinateTransformations": steps})
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    about = {
        "properties": [{"label-value": 2, "name": "cell"}],
        "colors": [{"label-value": 2, "rgba": [255, 0, 0, 255]}],
    }
    multiscales = [{"axes": axes, "datasets": scales}]
    ome = dict[str, Any](version="0.5", multiscales=multiscales) | {"image-label": about}
    group.attrs.update({"ome": ome})
    read = get_reader(str(tmp_path / "o.zarr"))
    assert read
    ((data, settings, kind),) = read(str(tmp_path / "o.zarr"))
    assert kind == "labels"
    assert [level.shape for level in data] == [(20, 30, 40), (20, 15, 20)]
    assert np.array_equal(np.asarray(data[0][4:9, 10, ::3]), labels[4:9, 10, ::3])
    assert settings["scale"] == [3.0, 1.0, 1.0]
    assert settings["units"] == ["micrometer"] * 3
    assert settings["features"]["name"] == ["background", "cell"]
    assert settings["colormap"][2] == "#ff0000"
    assert get_reader(str(tmp_path)) is None
    (tmp_path / "nothing.zarr").mkdir()
    assert get_reader(str(tmp_path / "nothing.zarr")) is None
