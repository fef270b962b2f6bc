"""The form of the input that an ink model was trained on, and what a given input breaches of it.

An ink network takes layers of any other depth, pitch or range without a word and then answers at chance. The conditions
are those of villa's ``inference/input_contract.py`` and of the runner of Hecate; nothing here proves an input right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ERROR, WARNING = "error", "warning"
TOLERATED = 0.02  # of the voxel size
Pitch = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class InputContract:
    """What the layers of a model must be.

    Attributes
    ----------
    n_layers
        Layers of its window.
    trained_layers
        Layers of the surface volumes that training cut its windows from; None where any number will do.
    jitter
        How far from the centre training moved the window, in layers.
    spacing_um
        Distance of layers, rows and columns in micrometres, or None.
    dtypes
        numpy dtypes that its scaling is made for; empty where every dtype will do.
    tile
        Side of a tile at training, in pixels.
    usual_um
        Least and largest distance of rows and columns that are known to work, where the file does not say it; or None.
    form
        Tag of the prepared surface volumes it was trained on, or "".
    source_level, reduction
        Of that form: the level of the pyramid that was rendered, and how many planes were averaged to one layer.
    """

    n_layers: int
    trained_layers: int | None = None
    jitter: int = 0
    spacing_um: Pitch | None = None
    dtypes: tuple[str, ...] = ()
    tile: int | None = None
    usual_um: tuple[float, float] | None = None
    form: str = ""
    source_level: str = ""
    reduction: int = 1


@dataclass(frozen=True, slots=True)
class Given:
    """An input as it is. What is not known (None, "") breaches nothing.

    Attributes
    ----------
    n_layers_there, start, stop
        Layers of the surface volume, and the window of them, ``start <= layer < stop``.
    spacing_um
        Distance of layers, rows and columns in micrometres.
    dtype
        numpy dtype of the layers.
    form
        Its ``format`` attribute.
    reverse
        Whether the layers are read from the last to the first.
    tile
        Side of a tile that was asked for.
    source_level, source_planes
        Of a prepared volume: the level it was made from, and the planes that went into all its layers.
    """

    n_layers_there: int | None = None
    start: int | None = None
    stop: int | None = None
    spacing_um: Pitch | None = None
    dtype: str = ""
    form: str = ""
    reverse: bool = False
    tile: int | None = None
    source_level: str = ""
    source_planes: int | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """Something that is not as at training: a stable code, "error" or "warning", and a sentence."""

    code: str
    severity: str
    text: str


def breaches(contract: InputContract | None, given: Given) -> tuple[Breach, ...]:
    """What an input breaches, errors first; nothing where the model has no contract.

    Examples
    --------
    >>> contract = InputContract(62, spacing_um=(2.4, 2.4, 2.4), dtypes=("uint8",))
    >>> breaches(contract, Given(109, 23, 85, (2.4, 2.4, 2.4), "uint8"))
    ()
    >>> for breach in breaches(contract, Given(65, 1, 60, (2.4, 7.91, 7.91), "uint16")):
    ...     print(breach.severity, breach.code)
    error WINDOW_SIZE
    error SCALE_MISMATCH
    error DTYPE
    """
    if contract is None:
        return ()
    found = [b for check in (_depth, _window, _pitch, _form, _values) for b in check(contract, given)]
    return tuple(sorted(found, key=lambda b: b.severity != ERROR))


def _depth(contract: InputContract, given: Given) -> Iterator[Breach]:
    there, trained = given.n_layers_there, contract.trained_layers
    if there is None:
        return
    if there < contract.n_layers:
        yield Breach("DEPTH_TOO_SHALLOW", ERROR, f"there are {there} layers, the model takes {contract.n_layers}")
    elif trained and there < trained:
        form = f": the centred {trained * contract.reduction} planes, means of {contract.reduction}"
        yield Breach(
            "DEPTH_NOT_TRAINED_FORM",
            ERROR,
            f"there are {there} layers; the model was trained on windows of {contract.n_layers} in volumes of {trained}"
            f"{form if contract.reduction > 1 else ''}",
        )
    elif trained and there > trained:
        text = f"there are {there} layers, more than the {trained} of training; the same sheet must be in the middle"
        yield Breach("DEPTH_DEEPER_THAN_TRAINED", WARNING, text)


def _window(contract: InputContract, given: Given) -> Iterator[Breach]:
    start, stop, n = given.start, given.stop, contract.n_layers
    if start is None or stop is None:
        return
    if stop - start != n:
        text = f"the window {start}..{stop} has {stop - start} layers, the model takes {n}"
        yield Breach("WINDOW_SIZE", ERROR, text)
    elif given.n_layers_there is not None and given.n_layers_there >= n:
        centred, far = (given.n_layers_there - n) // 2, max(1, contract.jitter)  # halves are rounded either way
        if abs(start - centred) > far:
            text = f"the window begins at layer {start}; centred it would begin at {centred}"
            yield Breach("Z_WINDOW_OFF_CENTRE", WARNING, f"{text}, and training moved it by {contract.jitter} at most")


def _pitch(contract: InputContract, given: Given) -> Iterator[Breach]:
    if contract.usual_um and given.spacing_um and min(given.spacing_um) > 0:
        low, high = contract.usual_um
        if not low * (1 - TOLERATED) <= given.spacing_um[2] <= high * (1 + TOLERATED):
            usual = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            text = f"pixels are {given.spacing_um[2]:g} micrometres, models of this kind were published for {usual}"
            yield Breach("SCALE_UNUSUAL", WARNING, f"{text}; the file does not say it")
    if contract.spacing_um is None or given.spacing_um is None or min(given.spacing_um) <= 0:
        return
    factors = [there / trained for there, trained in zip(given.spacing_um, contract.spacing_um, strict=True)]
    off = [abs(f - 1) > TOLERATED for f in factors]
    here, trained = (" x ".join(f"{size:g}" for size in sizes) for sizes in (given.spacing_um, contract.spacing_um))
    text = f"voxels are {here} micrometres (layer, row, column), the model was trained on {trained}"
    if any(off[1:]):
        yield Breach("SCALE_MISMATCH", ERROR, f"{text}; resample the volume or take another level")
    elif off[0]:
        advice = f"average {round(1 / factors[0])} layers to one" if factors[0] < 0.75 else "render the layers anew"
        yield Breach("Z_POOL_MISMATCH", ERROR, f"{text}; {advice}")


def _form(contract: InputContract, given: Given) -> Iterator[Breach]:
    if not contract.form or not given.form:
        return
    if given.form != contract.form:
        text = f"the volume says format {given.form!r}, the model was trained on {contract.form!r}"
        yield Breach("UNKNOWN_FORMAT", WARNING, text)
        return
    if given.source_level and contract.source_level and given.source_level != contract.source_level:
        text = f"the volume was made from level {given.source_level}, the model was trained on {contract.source_level}"
        yield Breach("SCALE_MISMATCH", ERROR, text)
    planes = (contract.trained_layers or 0) * contract.reduction
    if given.source_planes is not None and planes and given.source_planes != planes:
        text = f"{given.source_planes} planes went into the layers, {planes} at training"
        yield Breach("Z_POOL_MISMATCH", ERROR, text)


def _values(contract: InputContract, given: Given) -> Iterator[Breach]:
    if given.dtype and contract.dtypes and given.dtype not in contract.dtypes:
        text = f"the layers are {given.dtype}, the model's scaling is made for {' or '.join(contract.dtypes)}"
        yield Breach("DTYPE", ERROR, text)
    elif given.dtype not in ("", "uint8") and contract.form and given.form == contract.form:
        yield Breach("DTYPE", WARNING, f"volumes of format {given.form} are uint8, this one is {given.dtype}")
    if given.tile and contract.tile and given.tile != contract.tile:
        text = f"tiles of {given.tile} pixels were asked for, the model was trained on {contract.tile}"
        yield Breach("TILE_SIZE", WARNING, text)
    if given.reverse:
        text = "the layers are read in reverse; a wrong direction gives a confident map at chance"
        yield Breach("DIRECTION", WARNING, f"{text}, so look at both where it is not known")
