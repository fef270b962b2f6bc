"""Picks to and from the lists of other programs, and projects from folders of MRC files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from voxweft.apps.particles.options import ProjectOptions, name_problems, words_of
from voxweft.apps.particles.runs import runs_of
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.fields import Options, option
from voxweft.errors import RequestError, RunError, VolumeError, VoxweftError
from voxweft.geometry.box import Box, Zyx
from voxweft.image.kept import Kept
from voxweft.image.protocols import Volume
from voxweft.ops.peaks import apart
from voxweft.stores import open_volume
from voxweft.stores.copick import Project, create_project
from voxweft.stores.copick_files import Picks, PicksName, SegmentationName, TomogramName, fit_name
from voxweft.stores.durable import replace as replace_file
from voxweft.stores.ngff04 import write_group
from voxweft.stores.particle_lists import Listed, as_text, format_of, read_list

RULE = re.compile(r"\s*score\s*(>=|<=|>|<)\s*([-+.\deE]+)\s*")
MRC = (".mrc", ".rec", ".map", ".st")
LEVELS = 3


@dataclass(frozen=True)
class PickList(ProjectOptions):
    """Which picks of a project."""

    title: ClassVar[str] = "Picks"

    pick_user_id: str = option("octopi", "User of the picks.", names=("--pick-user-id", "-pui"))
    pick_session_id: str = option("1", "Session of the picks.", names=("--pick-session-id", "-psid"))
    objects: str = option(
        "", "Only these objects, NAME1,NAME2; of a list that names none: this one.", names=("--objects", "-obj")
    )
    tomo_uri: str = option(
        "wbp@10.0", "Tomograms whose middles and voxels count, kind@voxel size.", names=("--tomo-uri", "-uri")
    )

    def problems(self) -> list[str]:
        """What is wrong with them."""
        return name_problems(
            tomo_uri=(TomogramName.parse, self.tomo_uri),
            pick_user_id=(fit_name, self.pick_user_id),
            pick_session_id=(fit_name, self.pick_session_id),
        )

    @property
    def tomogram(self) -> TomogramName:
        """The tomogram of every run."""
        return TomogramName.parse(self.tomo_uri)


@dataclass(frozen=True)
class ExportOptions(PickList):
    """Which picks are exported."""

    title: ClassVar[str] = "Which of them"

    format: str = option(
        "", "relion5, relion4 or csv; default: relion5 for .star, csv for .csv.", names=("--format", "-f")
    )
    filter: str = option("", "Only picks with such a score, for example score>0.3.")
    min_distance: float = option(0.0, "Angstrom; of picks nearer to each other the best one stays.")
    inside: str = option("", "Only where this segmentation is not 0, name:user/session.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = name_problems(inside=(SegmentationName.parse, self.inside))
        if self.filter and not RULE.fullmatch(self.filter):
            found.append(f"--filter {self.filter!r}: write for example score>0.3, with >, >=, < or <=")
        if self.min_distance < 0:
            found.append(f"--min-distance {self.min_distance} is negative")
        return found


@dataclass(frozen=True)
class ImportOptions(Options):
    """How tomograms become a project."""

    title: ClassVar[str] = "Project"

    config: str = option("", "The project; made where there is none.", names=("--config", "-c"))
    tomo_alg: str = option("wbp", "Kind of the tomograms.", names=("--tomo-alg", "-alg"))
    input_voxel_size: float = option(
        0.0, "Voxel size, Angstrom; 0: that of the files.", names=("--input-voxel-size", "--voxel-size", "-ivs")
    )
    objects: str = option(
        "", "Objects of a new project, NAME=RADIUS,NAME=RADIUS in Angstrom.", names=("--objects", "-obj")
    )
    overwrite: bool = option(False, "Replace tomograms that are there.")

    def problems(self) -> list[str]:
        """What is wrong with them."""
        found = [] if self.config else ["--config is missing; give the project's CONFIG.json, which may be new"]
        if self.input_voxel_size < 0:
            found.append(f"--input-voxel-size {self.input_voxel_size} is negative")
        return found + name_problems(objects=(_radii, self.objects))


def export_picks(options: ExportOptions, path: str) -> dict[str, int]:
    """Write the picks of a project as a list; how many of each object.

    Raises
    ------
    RequestError
        If the request is wrong, or there are no such picks; nothing was written.
    """
    kind, project = format_of(path, options.format), Project(options.config)
    wanted = _chosen(project, options.objects)
    found: list[tuple[str, str, Picks]] = []
    for run in runs_of(project, options.runs):
        names = [
            n for n in project.picks(run) if (n.user, n.session) == (options.pick_user_id, options.pick_session_id)
        ]
        for name in names:
            if name.object in wanted:
                picks = _kept(project, run, project.read_picks(run, name), options)
                found.append((run, name.object, _moved(project, run, picks, options, kind, -1)))
    if not found:
        asked = f"{options.pick_user_id}/{options.pick_session_id}"
        raise RequestError(f"the project has no picks {asked} of {', '.join(wanted) or 'anything'}")
    listed = Listed(
        [run for run, _, picks in found for _ in range(len(picks))],
        [name for _, name, picks in found for _ in range(len(picks))],
        np.concatenate([picks.centres for _, _, picks in found]),
        np.concatenate([picks.scores for _, _, picks in found]),
        np.concatenate([picks.turns for _, _, picks in found]),
    )
    numbers = {name: one.label or n for n, (name, one) in enumerate(project.particles.items(), start=1)}
    _write(Path(path), as_text(listed, kind, numbers))
    return {name: sum(len(p) for _, n, p in found if n == name) for name in dict.fromkeys(n for _, n, _ in found)}


def import_picks(options: PickList, path: str, *, emit: Emit = silent) -> dict[str, int]:
    """Take the picks of a list into a project; how many of each object.

    Raises
    ------
    RequestError
        If runs or objects of the list are not in the project; nothing was written.
    """
    project, listed = Project(options.config), read_list(path)
    runs = runs_of(project, options.runs)
    by_class = {f"class {one.label}": name for name, one in project.particles.items()}
    only = words_of(options.objects)
    names = [by_class.get(o, o) or (only[0] if len(only) == 1 else "") for o in listed.objects]
    problems = [
        f"{path}: {run!r} is no run of the project" for run in dict.fromkeys(listed.runs) if run not in project.runs()
    ]
    problems += [
        f"{path}: {name!r} is no object of the project" if name else f"{path} names no objects; give --objects NAME"
        for name in dict.fromkeys(names)
        if name not in project.particles
    ]
    if problems:
        raise RequestError(*problems[:3])
    counts: dict[str, int] = {}
    kind = "relion5" if listed.centred else "relion4" if listed.in_pixels else "csv"
    for run in dict.fromkeys(listed.runs):
        if run not in runs:
            continue
        for name in dict.fromkeys(names):
            if only and name not in only:
                continue
            mine = np.array([r == run and n == name for r, n in zip(listed.runs, names, strict=True)])
            picks = Picks(listed.centres[mine], listed.scores[mine], listed.turns[mine])
            target = PicksName(name, fit_name(options.pick_user_id), fit_name(options.pick_session_id))
            project.write_picks(run, target, _moved(project, run, picks, options, kind, 1))
            counts[name] = counts.get(name, 0) + int(mine.sum())
    emit(Event("note", f"{sum(counts.values())} picks of {path}"))
    return counts


def import_tomograms(options: ImportOptions, folder: str, *, emit: Emit = silent) -> tuple[list[str], dict[str, str]]:
    """Take the MRC files of a folder into a project, a run each; the runs, and those that failed with the reason.

    Raises
    ------
    RequestError
        If there are no such files, or the request is wrong; nothing was written.
    """
    source = Path(folder)
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in MRC) if source.is_dir() else []
    if not files:
        raise RequestError(f"{folder} holds no tomograms: {', '.join(MRC)}")
    config = Path(options.config)
    if config.exists():
        project = Project(options.config)
    else:
        objects = [
            {"name": name, "is_particle": True, "label": n, "radius": radius, "color": [*_colour(n), 255]}
            for n, (name, radius) in enumerate(_radii(options.objects).items(), start=1)
        ]
        project = create_project(config, config.absolute().parent, objects, config.stem)
    done, failed = list[str](), dict[str, str]()
    emit(Event("begin", data={"n_units": len(files), "n_done": 0, "noun": "tomograms"}))
    for n, file in enumerate(files, start=1):
        run = re.sub(r"[^\w.-]", "-", file.stem)
        try:
            _take(project, run, file, options)
            done.append(run)
        except VoxweftError as error:
            failed[run] = str(error)
        emit(Event("progress", "tomograms", {"n_done": n, "n_units": len(files)}))
    return done, failed


def _take(project: Project, run: str, file: Path, options: ImportOptions) -> None:
    """One file as the tomogram of a run."""
    volume = open_volume(str(file))
    sizes, unit = volume.info.geometry.voxel_size_zyx, volume.info.geometry.unit
    spacing = options.input_voxel_size
    if not spacing:
        if not unit:
            raise VolumeError(f"{file.name} does not say its voxel size; give --voxel-size in Angstrom")
        if max(sizes) - min(sizes) > 0.001 * max(sizes):
            raise VolumeError(f"{file.name} has voxels of {sizes} A; copick wants cubes, give --voxel-size")
        spacing = round(sizes[2], 3)
    name = TomogramName(fit_name(options.tomo_alg), spacing)
    if name in project.tomograms(run) and not options.overwrite:
        raise RunError(f"{run} has a tomogram {name} already; give --overwrite to replace it")
    kept = {"float32": "float32", "float16": "float32"}.get(volume.info.dtype, volume.info.dtype)
    write_group(
        project.tomogram_place(run, name),
        lambda box: volume.read(box).astype(kept),
        shape_zyx=volume.info.shape_zyx,
        dtype=kept,
        voxel_size=spacing,
        n_levels=LEVELS,
    )


def _kept(project: Project, run: str, picks: Picks, options: ExportOptions) -> Picks:
    """Those that pass the filters."""
    if found := RULE.fullmatch(options.filter):
        limit = float(found[2])
        passed = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[found[1]]
        picks = picks.where(passed(picks.scores, limit))
    if options.inside:
        spacing = options.tomogram.spacing
        url = project.segmentation(run, SegmentationName.parse(options.inside), spacing)
        if url is None:
            raise RequestError(f"--inside {options.inside}: {run} has no such segmentation at {spacing:g} A")
        picks = picks.where(_inside(Kept(open_volume(url)), picks.centres[:, ::-1] / spacing))
    if options.min_distance:
        picks = picks.where(apart(picks.centres[:, ::-1], picks.scores, options.min_distance))
    return picks


def _inside(mask: Volume, places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a mask is not 0 at places z y x in voxels."""
    whole, found = Box.of(mask.info.shape_zyx), []
    for place in np.rint(places).astype(int):
        z, y, x = (int(n) for n in place)
        voxel = Box((z, y, x), (z + 1, y + 1, x + 1))
        found.append(voxel in whole and bool(mask.read(voxel).any()))
    return np.array(found, np.bool_)


def _moved(project: Project, run: str, picks: Picks, options: PickList, kind: str, sign: int) -> Picks:
    """Coordinates of a list as those of a project (sign 1), or the other way round (-1)."""
    if kind == "csv":
        return picks
    if kind == "relion4":
        return replace(picks, centres=picks.centres * options.tomogram.spacing**sign)
    shape: Zyx = open_volume(project.tomogram(run, options.tomogram)).info.shape_zyx
    middle = np.array(shape[::-1]) / 2 * options.tomogram.spacing
    return replace(picks, centres=picks.centres + sign * middle)


def _chosen(project: Project, text: str) -> list[str]:
    wanted = words_of(text)
    if unknown := [name for name in wanted if name not in project.particles]:
        raise RequestError(
            f"--objects {', '.join(unknown)}: no such particle; the project has {', '.join(project.particles)}"
        )
    return wanted or [*project.particles]


def _radii(text: str) -> dict[str, float]:
    """Radii in Angstrom by the names of objects."""
    found = {}
    for word in words_of(text):
        name, _, radius = word.partition("=")
        try:
            found[fit_name(name)] = float(radius)
        except ValueError:
            raise RequestError(f"{word!r}: write NAME=RADIUS, for example ribosome=150") from None
    return found


def _colour(n: int) -> Iterator[int]:
    """A colour that differs from its neighbours."""
    import colorsys

    return (round(255 * c) for c in colorsys.hsv_to_rgb(n * 0.618 % 1, 0.85, 0.95))


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error
