"""Which files of a folder, or of a list, are cases; and where the results of each go."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxweft.errors import RequestError, VolumeError
from voxweft.foreign import small_file
from voxweft.stores.itk import SERIES, series_of

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
CHANNEL = re.compile(r"(.+)_(\d{4})")
DICOM = ".dcm"


@dataclass(frozen=True, slots=True)
class Case:
    """One item of a batch.

    Attributes
    ----------
    files
        A path a channel.
    stem
        Its name, with the folders below that of the input where these were searched too.
    ending
        That of the result's file.
    key
        A name that no other case of the batch has, for what lies beside the result.
    """

    files: tuple[str, ...]
    stem: str
    ending: str
    key: str = ""

    def __str__(self) -> str:
        return self.key or self.stem

    @property
    def result(self) -> str:
        """Path of the result below the output folder."""
        return self.stem + self.ending

    @property
    def logits(self) -> str:
        """That of the logits: the name without its last ending, as itk_infer has it."""
        name = self.result if self.key != self.stem else self.result.removesuffix(Path(self.result).suffix)
        return f"{name}.zarr"

    @property
    def stamp(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of each file."""
        paths = [p for f in self.files for p in _all_files(Path(f.partition(SERIES)[0]))]
        return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths]


def find_cases(
    source: Path, *, n_channels: int = 1, recursive: bool = False, by_channel: bool = False, listed: str = ""
) -> list[Case]:
    """The cases of a folder, a file or a list, sorted by their names.

    Parameters
    ----------
    source
        A folder with images, one image, or a folder of DICOM series.
    n_channels, by_channel
        Channels of a case; whether the files are named ``CASE_0000.nii.gz`` and so on, a file a channel.
    recursive
        Whether folders below it are searched too.
    listed
        A ``.csv`` (case, then a file a channel, by lines) or ``.json`` ({case: [files]} or [files]) in place of a
        search; paths are relative to the folder.

    Raises
    ------
    RequestError
        If there are none, or the list cannot be read.
    """
    if listed:
        cases = _from_list(Path(listed), source)
    elif source.is_file():
        stem, ending = _split(source.name)
        match = CHANNEL.fullmatch(stem) if by_channel else None
        cases = [Case((str(source),), match[1] if match else stem, ending)]
    elif source.is_dir():
        cases = _searched(source, recursive, by_channel or n_channels > 1)
    else:
        raise RequestError(f"{source}: nothing lies there; -i wants a folder with images, or an image")
    if not cases:
        raise RequestError(
            f"No input files found in {source}: no {', '.join(ENDINGS)} and no DICOM series"
            + ("" if recursive else " (folders below it are searched with --recursive)")
        )
    return _with_keys(cases)


def _searched(folder: Path, recursive: bool, by_channel: bool) -> list[Case]:
    pattern = "**/*" if recursive else "*"
    files = sorted(p for p in folder.glob(pattern) if p.is_file() and not _hidden(p, folder))
    images = [p for p in files if _ending(p.name)]
    grouped: dict[tuple[str, str], dict[int, Path]] = {}
    cases = []
    for path in images:
        stem, ending = _split(path.relative_to(folder).as_posix())
        match = CHANNEL.fullmatch(stem) if by_channel else None
        if match:
            grouped.setdefault((match[1], ending), {})[int(match[2])] = path
        else:
            cases.append(Case((str(path),), stem, ending))
    for (stem, ending), channels in grouped.items():
        paths = [channels.get(c) for c in range(max(channels) + 1)]
        cases.append(
            Case(tuple(str(p or f"{folder / stem}_{c:04d}{ending}") for c, p in enumerate(paths)), stem, ending)
        )
    return sorted([*cases, *_dicom(folder, files, recursive)], key=lambda case: (case.stem, case.ending))


def _dicom(folder: Path, files: Sequence[Path], recursive: bool) -> list[Case]:
    """The series of the folder and of those directly in it (all below it where recursive)."""
    below = {p.parent for p in files} if recursive else {folder, *(p for p in folder.iterdir() if p.is_dir())}
    cases = []
    for place in sorted(below):
        names = [p for p in place.iterdir() if p.is_file() and not _ending(p.name)]
        if not any(_looks_like_dicom(p) for p in names[:3]):
            continue
        found = series_of(place)
        name = place.name if place == folder else place.relative_to(folder).as_posix()
        for n, series in enumerate(found):
            one = len(found) == 1
            cases.append(
                Case((str(place) if one else f"{place}{SERIES}{series}",), name if one else f"{name}-{n}", DICOM)
            )
    return cases


def _looks_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _from_list(listed: Path, folder: Path) -> list[Case]:
    try:
        text = small_file(listed, RequestError).decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise RequestError(f"--list {listed} cannot be read: {error}") from error
    if listed.suffix.lower() == ".json":
        try:
            rows = _json_rows(json.loads(text))
        except ValueError as error:
            raise RequestError(f"--list {listed} is no JSON: {error}") from error
    else:
        rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(io.StringIO(text))]
        rows = [row for row in rows if row and row[0].lower() not in ("case", "file", "image")]
    cases = []
    for row in rows:
        name, *files = row if len(row) > 1 else ["", *row]
        paths = [str(folder / f) for f in files]
        stem, ending = _split(Path(files[0]).name)
        cases.append(Case(tuple(paths), name or stem, ending or DICOM))
    return cases


def _json_rows(value: Any) -> list[list[str]]:
    if isinstance(value, dict):
        return [[str(name), *([files] if isinstance(files, str) else map(str, files))] for name, files in value.items()]
    if isinstance(value, list):
        return [[row] if isinstance(row, str) else ["", *map(str, row)] for row in value]
    raise ValueError("a list of files, or cases with their files, is wanted")


def _with_keys(cases: Iterable[Case]) -> list[Case]:
    """Each with a name of its own: the stem, or the whole file name where two have one stem."""
    cases = list(cases)
    stems = Counter(case.stem for case in cases)
    keyed = [replace(case, key=case.stem if stems[case.stem] == 1 else case.result) for case in cases]
    doubled = [key for key, n in Counter(case.key for case in keyed).items() if n > 1]
    if doubled:
        raise RequestError(f"two cases are called {doubled[0]!r}: their results would be one file; rename one")
    return keyed


def require_files(case: Case, n_channels: int) -> None:
    """Refuse a case that lacks a channel.

    Raises
    ------
    VolumeError
        Naming what is missing.
    """
    missing = [Path(f).name for f in case.files if not Path(f.partition(SERIES)[0]).exists()]
    if missing:
        raise VolumeError(f"{case}: channel file {missing[0]} is missing")
    if len(case.files) != n_channels:
        raise VolumeError(f"{case} has {len(case.files)} channel(s), the model takes {n_channels}")


def _all_files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path] if path.exists() else []


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _ending(name: str) -> str:
    return next((e for e in ENDINGS if name.lower().endswith(e)), "")


def _split(name: str) -> tuple[str, str]:
    """A file name without and with its ending.

    >>> _split("a/b.nii.gz"), _split("c.txt")
    (('a/b', '.nii.gz'), ('c.txt', ''))
    """
    ending = name[len(name) - len(_ending(name)) :]
    return name[: len(name) - len(ending)], ending
