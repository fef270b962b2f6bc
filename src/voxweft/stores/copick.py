"""copick projects: runs with tomograms, segmentations and picks, as folders of JSON and OME-Zarr.

CONFIG.json                                            objects, and where the roots lie
ROOT/ExperimentRuns/RUN/VoxelSpacing10.000/KIND.zarr   tomograms
ROOT/ExperimentRuns/RUN/Segmentations/10.000_USER_SESSION_NAME-multilabel.zarr
ROOT/ExperimentRuns/RUN/Picks/USER_SESSION_OBJECT.json

There may be two roots: what voxweft writes goes into the overlay, what is only in the static one is read from there.
The layout is that of copick 1.31 (MIT, https://github.com/copick/copick); x y z and Angstrom are its axes and unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from voxweft.errors import ReadError, RequestError, VolumeError
from voxweft.foreign import local, parsed
from voxweft.remote import is_remote, remote_errors
from voxweft.stores.copick_files import (
    PickObject,
    Picks,
    PicksName,
    SegmentationName,
    TomogramName,
    fit_name,
    picks_text,
    read_config,
    read_picks,
)
from voxweft.stores.url import children, records_at

RUNS = "ExperimentRuns"
SPACING = re.compile(r"VoxelSpacing(\d+(?:\.\d+)?)")
PORTAL = "s3://cryoet-data-portal-public"


class Root(Protocol):
    """A place with runs."""

    url: str

    def runs(self) -> list[str]:
        """Names of the runs."""

    def tomograms(self, run: str) -> dict[TomogramName, str]:
        """The tomograms of a run, and where they lie."""


class Folder:
    """A root as copick lays it out.

    Parameters
    ----------
    url
        A path, or an s3:// or http(s):// URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def runs(self) -> list[str]:
        """Names of the runs."""
        return [name for name in self.names(RUNS) if not name.startswith(".")]

    def tomograms(self, run: str) -> dict[TomogramName, str]:
        """The tomograms of a run, and where they lie."""
        found = {}
        for folder, spacing in self.spacings(f"{RUNS}/{run}"):
            for name in self.names(f"{RUNS}/{run}/{folder}"):
                if name.endswith(".zarr") and not name.endswith("_features.zarr") and not name.startswith("."):
                    kind = TomogramName(name.removesuffix(".zarr"), spacing)
                    found[kind] = f"{self.url}/{RUNS}/{run}/{folder}/{name}"
        return found

    def spacings(self, folder: str) -> list[tuple[str, float]]:
        """The folders of voxel sizes in a folder, and the sizes."""
        found = [(name, SPACING.fullmatch(name)) for name in self.names(folder)]
        return [(name, float(match[1])) for name, match in found if match]

    def names(self, folder: str) -> list[str]:
        """What lies in a folder; nothing where there is none."""
        try:
            return sorted(children(f"{self.url}/{folder}"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except remote_errors() as error:
            raise VolumeError(f"{self.url}/{folder} cannot be listed: {error}"[:200]) from error


class Portal:
    """Data sets of the CryoET Data Portal, as they lie in its bucket; runs are called as there.

    DATASET/RUN/Reconstructions/VoxelSpacing10.012/Tomograms/100/NAME.zarr, and tomogram_metadata.json beside it
    """

    def __init__(self, dataset_ids: Sequence[int], url: str = PORTAL) -> None:
        self.url = url
        self._folder, self._ids = Folder(url), dataset_ids

    def runs(self) -> list[str]:
        """Names of the runs."""
        return [
            run
            for number in self._ids
            for run in self._folder.names(str(number))
            if "Reconstructions" in self._folder.names(f"{number}/{run}")
        ]

    def tomograms(self, run: str) -> dict[TomogramName, str]:
        """The tomograms of a run, by the names that copick gives them."""
        return {name: url for number in self._ids for name, url in self._of_run(f"{number}/{run}/Reconstructions")}

    def _of_run(self, base: str) -> Iterator[tuple[TomogramName, str]]:
        for folder, spacing in self._folder.spacings(base):
            for one in self._folder.names(f"{base}/{folder}/Tomograms"):
                place = f"{base}/{folder}/Tomograms/{one}"
                data = records_at(f"{self.url}/{place}").get("tomogram_metadata.json")
                about = parsed(data, f"{self.url}/{place}/tomogram_metadata.json", VolumeError) if data else {}
                parts = [
                    _camel(str(about.get("reconstruction_method", "wbp"))),
                    _camel(str(about.get("processing", "raw"))),
                    _camel(str(about.get("processing_software") or "")),
                    "ctfdeconv" if about.get("ctf_corrected") else "",
                ]
                for name in self._folder.names(place):
                    if name.endswith(".zarr"):
                        kind = "-".join(filter(None, parts))
                        yield TomogramName(kind, spacing), f"{self.url}/{place}/{name}"


def _camel(text: str) -> str:
    words = re.sub(r"[_\- ]+", " ", text).title().replace(" ", "")
    return words[:1].lower() + words[1:]


class Project:
    """A copick project.

    Parameters
    ----------
    path
        Of its config, JSON. ``local://`` roots that are no absolute paths are relative to its folder.

    Raises
    ------
    RequestError
        If it is missing, no config, or names no overlay.

    Examples
    --------
    >>> Project("nowhere.json")
    Traceback (most recent call last):
    voxweft.errors.RequestError: nowhere.json: no copick config lies there
    """

    def __init__(self, path: str) -> None:
        self.path = str(local(path).resolve())
        self.config = read_config(path)
        folder, config = local(path).resolve().parent, self.config
        if config.config_type not in ("filesystem", "cryoet_data_portal"):
            kinds = "filesystem and cryoet_data_portal"
            raise RequestError(f"{path}: config_type {config.config_type!r} is not read; {kinds} are")
        if not config.overlay_root:
            raise RequestError(
                f"{path} names no overlay_root, so there is no place to write to.",
                'Add for example "overlay_root": "local:///path/of/the/project".',
            )
        self.overlay = Folder(_root(config.overlay_root, folder, path))
        if is_remote(self.overlay.url) and not self.overlay.url.startswith("s3://"):
            raise RequestError(f"{path}: overlay_root {config.overlay_root} is read-only; give local:// or s3://")
        self._static: Root | None = None
        if config.config_type == "cryoet_data_portal":
            self._static = Portal(config.dataset_ids)
        elif config.static_root:
            self._static = Folder(_root(config.static_root, folder, path))

    @property
    def objects(self) -> tuple[PickObject, ...]:
        """What is looked for, in the order of the config."""
        return tuple(self.config.pickable_objects)

    @property
    def particles(self) -> dict[str, PickObject]:
        """Those that are particles, by their names."""
        return {one.name: one for one in self.objects if one.is_particle}

    def runs(self) -> list[str]:
        """Names of all runs, sorted."""
        return sorted({name for root in self._roots for name in root.runs()})

    def tomograms(self, run: str) -> dict[TomogramName, str]:
        """The tomograms of a run, and where they lie; those of the overlay before the others."""
        return {name: url for root in reversed(self._roots) for name, url in root.tomograms(run).items()}

    def tomogram(self, run: str, name: TomogramName) -> str:
        """Where a tomogram lies.

        Raises
        ------
        VolumeError
            If the run has none of the name; those that it has are named.
        """
        found = self.tomograms(run)
        if name not in found:
            have = ", ".join(map(str, sorted(found, key=str))) or "none"
            raise VolumeError(f"{run} has no tomogram {name}; it has {have}")
        return found[name]

    def tomogram_place(self, run: str, name: TomogramName) -> str:
        """Where a tomogram is to be written."""
        return f"{self.overlay.url}/{RUNS}/{run}/VoxelSpacing{name.spacing:.3f}/{name.kind}.zarr"

    def segmentation_files(self, run: str) -> list[str]:
        """The segmentations of a run, as their files are called."""
        folders = (folder.names(f"{RUNS}/{run}/Segmentations") for folder in self._folders)
        return sorted({name for names in folders for name in names if not name.startswith(".")})

    def segmentation(self, run: str, name: SegmentationName, spacing: float) -> str | None:
        """Where a segmentation of several labels, or of one, lies; None where there is none."""
        files = (self._segmentation_file(name, spacing, suffix) for suffix in ("-multilabel", ""))
        wanted = [*files]
        for folder in self._folders:
            there = folder.names(f"{RUNS}/{run}/Segmentations")
            for file in wanted:
                if file in there:
                    return f"{folder.url}/{RUNS}/{run}/Segmentations/{file}"
        return None

    def segmentation_place(self, run: str, name: SegmentationName, spacing: float, suffix: str = "-multilabel") -> str:
        """Where a segmentation is to be written."""
        return f"{self.overlay.url}/{RUNS}/{run}/Segmentations/{self._segmentation_file(name, spacing, suffix)}"

    def features_place(self, run: str, tomogram: TomogramName, feature: str) -> str:
        """Where maps that belong to a tomogram are to be written, [C, Z, Y, X]."""
        folder = f"{RUNS}/{run}/VoxelSpacing{tomogram.spacing:.3f}"
        return f"{self.overlay.url}/{folder}/{tomogram.kind}_{fit_name(feature)}_features.zarr"

    def features(self, run: str, spacing: float, feature: str) -> str | None:
        """Where maps of a name lie, of any kind of tomogram; None where there are none."""
        folder = f"{RUNS}/{run}/VoxelSpacing{spacing:.3f}"
        ending = f"_{fit_name(feature)}_features.zarr"
        found = [name for name in self.overlay.names(folder) if name.endswith(ending) and not name.startswith(".")]
        return f"{self.overlay.url}/{folder}/{found[0]}" if found else None

    def picks(self, run: str) -> list[PicksName]:
        """Names of all picks of a run, those of the overlay before the others."""
        found: dict[PicksName, None] = {}
        for folder in self._folders:
            for file in folder.names(f"{RUNS}/{run}/Picks"):
                words = file.removesuffix(".json").split("_", 2)
                if file.endswith(".json") and len(words) == 3:
                    found[PicksName(words[2], words[0], words[1])] = None
        return [*found]

    def read_picks(self, run: str, name: PicksName) -> Picks:
        """Read picks.

        Raises
        ------
        VolumeError
            If they are missing, no picks, or a coordinate is no finite number.
        """
        key = picks_key(run, name)
        for folder in self._folders:
            try:
                data = records_at(folder.url).get(key)
            except remote_errors() as error:
                raise ReadError(f"{folder.url}/{key} cannot be read: {error}"[:200]) from error
            if data is not None:
                return read_picks(data, f"{folder.url}/{key}")
        raise VolumeError(f"{run} has no picks {name}")

    def write_picks(self, run: str, name: PicksName, picks: Picks) -> None:
        """Write picks into the overlay, in place of those that may be there."""
        records_at(self.overlay.url).put(picks_key(run, name), picks_text(run, name, picks))

    def log(self, name: str) -> bytes | None:
        """A log that octopi or voxweft left, such as ``segment-octopi_1_predict.yaml``."""
        for folder in self._folders:
            if (data := records_at(f"{folder.url}/logs").get(name)) is not None:
                return data
        return None

    def write_log(self, name: str, data: bytes) -> None:
        """Leave a log where octopi looks for it."""
        records_at(f"{self.overlay.url}/logs").put(name, data)

    @property
    def _roots(self) -> list[Root]:
        return [self.overlay, *([self._static] if self._static else [])]

    @property
    def _folders(self) -> list[Folder]:
        return [root for root in self._roots if isinstance(root, Folder)]

    @staticmethod
    def _segmentation_file(name: SegmentationName, spacing: float, suffix: str) -> str:
        return f"{spacing:.3f}_{name.user}_{name.session}_{name.name}{suffix}.zarr"


def create_project(path: Path, root: Path, objects: Sequence[Mapping[str, Any]], name: str = "project") -> Project:
    """Write the config of a new project whose overlay is a folder, and open it."""
    config = {
        "config_type": "filesystem",
        "name": name,
        "description": "made by voxweft",
        "version": "1.31.0",
        "pickable_objects": [*objects],
        "overlay_root": f"local://{root.resolve()}",
        "overlay_fs_args": {"auto_mkdir": True},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
    (root / RUNS).mkdir(parents=True, exist_ok=True)
    return Project(str(path))


def picks_key(run: str, name: PicksName) -> str:
    """Where picks lie below a root."""
    return f"{RUNS}/{run}/Picks/{name.user}_{name.session}_{name.object}.json"


def _root(text: str, folder: Path, path: str) -> str:
    """Where a root lies, from what copick's file systems call it."""
    if is_remote(text):
        return text
    scheme, mark, rest = text.partition("://")
    if mark and scheme not in ("local", "file"):
        raise RequestError(f"{path}: {text} is on a file system that voxweft does not reach; local, s3 and http(s) are")
    place = local(rest if mark else text)
    if place.is_absolute():
        return str(place)
    beside, here = (folder / place).resolve(), place.resolve()
    return str(here if (here / RUNS).is_dir() and not (beside / RUNS).is_dir() else beside)
