"""What the files of copick projects hold: names, objects, picks.

The layout is that of copick 1.31 (MIT, https://github.com/copick/copick); x y z and Angstrom are its axes and unit.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, field_validator

from voxweft.errors import RequestError, VolumeError
from voxweft.foreign import local, parsed, problems, small_file

UNFIT = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\s_]')
LARGEST_PICKS = 1 << 28  # bytes of a file


def fit_name(text: str) -> str:
    """A name as copick takes it for objects, users, sessions and kinds: what may not be in it becomes a hyphen.

    >>> fit_name("my_unet v2")
    'my-unet-v2'

    Raises
    ------
    RequestError
        If nothing is left.
    """
    name = UNFIT.sub("-", text).strip("-")
    if not name:
        raise RequestError(f"{text!r} is no name: nothing of it may stand in the name of a file")
    return name


@dataclass(frozen=True, slots=True)
class TomogramName:
    """A kind of tomogram at a voxel size in Angstrom: ``wbp@10.0``.

    >>> TomogramName.parse("wbp@10")
    TomogramName(kind='wbp', spacing=10.0)
    """

    kind: str
    spacing: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing", round(self.spacing, 3))  # as folders are called

    @classmethod
    def parse(cls, text: str) -> TomogramName:
        """That of ``kind@voxel size``."""
        kind, at, spacing = text.partition("@")
        try:
            found = cls(kind.strip(), float(spacing))
        except ValueError:
            found = cls("", 0)
        if not at or not found.kind or not 0 < found.spacing < 1e6:
            raise RequestError(f"{text!r} names no tomogram; write for example wbp@10.0 (kind@voxel size in Angstrom)")
        return found

    def __str__(self) -> str:
        return f"{self.kind}@{self.spacing:g}"


@dataclass(frozen=True, slots=True)
class SegmentationName:
    """A segmentation of a run: ``predict:octopi/1``, or ``predict,octopi,1``.

    >>> SegmentationName.parse("predict:octopi/1") == SegmentationName.parse("predict,octopi,1")
    True
    >>> SegmentationName.parse("predict")
    SegmentationName(name='predict', user='octopi', session='1')
    """

    name: str
    user: str = "octopi"
    session: str = "1"

    @classmethod
    def parse(cls, text: str) -> SegmentationName:
        """That of ``name:user/session``; of ``name`` alone with the user octopi and the session 1."""
        plain = text.partition("?")[0].partition("@")[0].strip()
        words = [w.strip() for w in re.split(r"[:/,]", plain)]
        if not 1 <= len(words) <= 3 or not all(words):
            raise RequestError(f"{text!r} names no segmentation; write for example predict:octopi/1")
        return cls(*map(fit_name, words))

    def feature(self, kind: str) -> str:
        """What maps that belong to it are called among the features of its tomogram."""
        return f"{self.name}-{self.user}-{self.session}-{kind}"

    @property
    def log(self) -> str:
        """The log in which octopi looks for its labels."""
        return f"segment-{self.user}_{self.session}_{self.name}.yaml"

    def __str__(self) -> str:
        return f"{self.name}:{self.user}/{self.session}"


@dataclass(frozen=True, slots=True)
class PicksName:
    """Picks of an object in a run: ``ribosome:octopi/1``."""

    object: str
    user: str
    session: str

    def __str__(self) -> str:
        return f"{self.object}:{self.user}/{self.session}"


@dataclass(frozen=True)
class Picks:
    """Where particles are.

    Attributes
    ----------
    centres
        float64 [n, 3], x y z in Angstrom; voxel i of a tomogram lies at i times its voxel size.
    scores
        float64 [n].
    turns
        float64 [n, 3, 3]: rotations from the object to the tomogram.
    """

    centres: NDArray[np.float64]
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    turns: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3, 3)))

    def __post_init__(self) -> None:
        n = len(self.centres)
        if len(self.scores) != n:
            object.__setattr__(self, "scores", np.ones(n))
        if len(self.turns) != n:
            object.__setattr__(self, "turns", np.tile(np.eye(3), (n, 1, 1)))

    def __len__(self) -> int:
        return len(self.centres)

    def where(self, kept: NDArray[Any]) -> Picks:
        """Some of them."""
        return Picks(self.centres[kept], self.scores[kept], self.turns[kept])


class PickObject(BaseModel):
    """Something that is looked for: ``label`` in label volumes, ``radius`` in Angstrom."""

    name: str
    is_particle: bool = True
    label: int | None = None
    radius: float | None = None
    color: tuple[int, int, int, int] = (128, 128, 128, 255)
    metadata: dict[str, Any] | None = None

    @field_validator("color", mode="before")
    @classmethod
    def _grey_if_none(cls, value: Any) -> Any:
        return value or (128, 128, 128, 255)

    @property
    def weight(self) -> float:
        """Of the object in a score over all of them; octopi calls it "weight", topcup "score_weight"."""
        about = self.metadata or {}
        return float(about.get("weight", about.get("score_weight", 1)))


class Config(BaseModel):
    """What a config file says, as far as it matters here."""

    config_type: str = "filesystem"
    pickable_objects: list[PickObject] = Field(default_factory=list)
    overlay_root: str | None = None
    static_root: str | None = None
    dataset_ids: list[int] = Field(default_factory=list)


class _Point(BaseModel):
    location: dict[str, float]
    transformation_: list[list[float]] | None = None
    score: float | None = None


class _PicksFile(BaseModel):
    points: list[_Point] | None = None


def read_config(path: str) -> Config:
    """Read a config file.

    Raises
    ------
    RequestError
        If it is missing, or no config.
    """
    try:
        data = parsed(small_file(local(path), RequestError), path, RequestError)
        config = Config.model_validate(data)
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no copick config lies there") from error
    except ValidationError as error:
        raise RequestError(f"{path} is no copick config: {problems(error)}") from error
    names = [one.name for one in config.pickable_objects]
    if twice := {name for name in names if names.count(name) > 1}:
        raise RequestError(f"{path}: two objects are called {', '.join(sorted(twice))}")
    return config


def read_picks(data: bytes, place: str) -> Picks:
    """The picks of a file.

    Raises
    ------
    VolumeError
        If they are none, or a coordinate is no finite number.
    """
    if len(data) > LARGEST_PICKS:
        raise VolumeError(f"{place} is larger than {LARGEST_PICKS} bytes, too large for picks")
    try:
        points = _PicksFile.model_validate(parsed(data, place, VolumeError)).points or []
        centres = np.array([[p.location[axis] for axis in "xyz"] for p in points], np.float64).reshape(-1, 3)
        matrices = np.array([p.transformation_ or np.eye(4) for p in points], np.float64).reshape(-1, 4, 4)
    except ValidationError as error:
        raise VolumeError(f"{place}: {problems(error)}") from error
    except (KeyError, ValueError) as error:
        raise VolumeError(f"{place}: a point has no x, y and z, or no 4 x 4 matrix") from error
    centres = centres + matrices[:, :3, 3]  # the centre is the location and its shift
    wrong = np.flatnonzero(~(np.isfinite(centres).all(axis=1) & np.isfinite(matrices).all(axis=(1, 2))))
    if len(wrong):
        raise VolumeError(f"{place}: point {wrong[0]} has a coordinate that is no finite number")
    scores = np.array([1.0 if p.score is None else p.score for p in points], np.float64)
    return Picks(centres, np.where(np.isfinite(scores), scores, 0.0), matrices[:, :3, :3])


def picks_text(run: str, name: PicksName, picks: Picks) -> bytes:
    """The file of picks of a run."""
    points = [
        {
            "location": dict(zip("xyz", map(float, centre), strict=True)),
            "transformation_": [*([*map(float, row), 0.0] for row in turn), [0.0, 0.0, 0.0, 1.0]],
            "instance_id": 0,
            "score": float(score),
        }
        for centre, score, turn in zip(picks.centres, picks.scores, picks.turns, strict=True)
    ]
    content = {
        "pickable_object_name": name.object,
        "user_id": name.user,
        "session_id": name.session,
        "run_name": run,
        "voxel_spacing": None,
        "unit": "angstrom",
        "points": points,
    }
    return json.dumps(content, indent=4).encode()
