"""From what was asked for to layers, networks and how they are swept: one job a direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from voxweft.apps.ink.names import find_models, require, source_of, with_ending
from voxweft.apps.ink.options import (
    UNSET,
    InkModelOptions,
    InkOptions,
    LayerOptions,
    PictureOptions,
    SweepOptions,
    box_of_roi,
)
from voxweft.apps.ink.surface import is_zarr, open_surface, stack_of
from voxweft.apps.ink.window import (
    centred,
    channels_of,
    require_within,
    seen_from_behind,
    union,
    windows_around,
)
from voxweft.backends import load_model
from voxweft.engine.events import Emit, Event, silent
from voxweft.engine.planning import Target, require_alike
from voxweft.errors import ModelError, RequestError
from voxweft.image.protocols import Volume
from voxweft.image.views import Permute
from voxweft.model.card import Normalization
from voxweft.model.contract import Given, breaches
from voxweft.model.protocols import Model
from voxweft.runner.devices import devices_of
from voxweft.stores import open_volume
from voxweft.stores.url import absolute

Options = tuple[LayerOptions, InkModelOptions, InkOptions]
SIGMA_SCALE = 2.5  # tile / sigma
STRIDE = 16  # where neither the user nor the model says it
BLENDS = {"gaussian": "gaussian-centred"}  # the engine's word; its gaussian is nnU-Net's
REVERSED_FIRST = "hecate"  # networks whose layers are reversed before the window is cut, by the name of the format
WHITE = 255.0  # the largest value of a layer
DEPTH = "ink3d"  # the head of networks that tell the ink of every layer
LARGE = 1 << 21  # voxels of a tile: of larger ones a CPU takes one at a time
BREACHES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One result: its layers, in one direction, and the networks that see them.

    Attributes
    ----------
    layers
        The request, with the window as it is called in names.
    windows
        The layers of each window, by their numbers.
    reverse
        Whether a network sees the last layer first.
    ending
        What the name of the result ends in.
    volume
        The layers of all windows, as they are swept.
    urls, models
        Where the networks lie; the networks.
    places
        Of results that lie elsewhere than the picture, by the names of heads.
    """

    layers: LayerOptions
    windows: tuple[range, ...]
    reverse: bool
    ending: str
    volume: Volume = field(repr=False)
    urls: tuple[str, ...]
    models: tuple[Model, ...] = field(repr=False)
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """What the engine is told beside its options: the channels of each window; but of one all, as they are."""
        channels = channels_of(self.windows, self.reverse) if len(self.windows) > 1 else ()
        return Target(channels=channels, known=True, places=self.places, reverse=self.reverse)

    def asked(self, ink_options: InkOptions) -> str:
        """The layers in words."""
        windows = ",".join(f"{w.start}:{w.stop}" for w in self.windows)
        return f"{windows}{' reversed' if self.reverse else ''}"


def opened_jobs(options: Options, emit: Emit = silent) -> tuple[Job, ...]:
    """One job a direction, its layers opened and its networks read; nothing is read at length.

    Raises
    ------
    RequestError
        If layers are missing, or are not what the networks were trained for.
    """
    layers, model_options, ink_options = options
    require(model_options, layers)
    urls, models = find_models(model_options), tuple[Model, ...]()
    if layers.end_layer == UNSET:
        models = _networks(urls, options)
    window = window_of(layers, models)
    windows = windows_around(window, ink_options.windows, ink_options.window_step)
    source = source_of(layers)
    if len(windows) > 1 or layers.start_layer == UNSET:
        require_within(windows, stack_of(source, layers.level).layers, source)
    layers = replace(layers, start_layer=window.start, end_layer=window.stop)
    jobs = []
    for ending, reverse in layers.directions:
        taken, volume = windows, open_windows(layers, windows, reverse)
        models = models or _networks(urls, options, len(window))
        if reverse and REVERSED_FIRST in models[0].card.format.lower():
            there = stack_of(source, layers.level).layers
            taken = tuple(seen_from_behind(w, there) for w in windows)
            volume = open_windows(layers, taken, reverse)
        places = {DEPTH: absolute(with_ending(ink_options.depth_output, ending))} if ink_options.depth_output else {}
        jobs.append(Job(layers, taken, reverse, ending, volume, urls, models, places))
    if ink_options.input_contract != "off":
        check_contract(jobs, ink_options, emit)
    return tuple(jobs)


def window_of(layers: LayerOptions, models: Sequence[Model]) -> range:
    """The window that is meant: as asked, else as long as the networks take, from the start or in the middle."""
    if layers.end_layer != UNSET:
        return range(layers.start_layer, layers.end_layer)
    n_wanted, source = models[0].card.n_inputs, source_of(layers)
    if layers.start_layer != UNSET:
        return range(layers.start_layer, layers.start_layer + n_wanted)
    there = stack_of(source, layers.level).layers
    if len(there) < n_wanted:
        raise RequestError(
            f"No layers found: {source} holds {len(there)} layers, {there.start} to {there.stop - 1}; "
            f"{models[0].card.path} takes {n_wanted}"
        )
    return centred(there, n_wanted)


def named_layers(layers: LayerOptions, model_options: InkModelOptions) -> LayerOptions:
    """The options with the window that names tell; where it was not asked for, networks and stack are looked at."""
    if layers.end_layer != UNSET:
        return layers
    require(model_options, layers)
    window = window_of(layers, _networks(find_models(model_options)[:1], (layers, model_options, InkOptions())))
    return replace(layers, start_layer=window.start, end_layer=window.stop)


def open_windows(layers: LayerOptions, windows: Sequence[range], reverse: bool, source: str = "") -> Volume:
    """The layers of all windows, as they are swept."""
    wanted = union(windows)
    return open_surface(
        source or source_of(layers), layers.level, start=wanted.start, stop=wanted.stop, reverse=reverse
    )


def _networks(urls: Sequence[str], options: Options, n_layers: int = 0) -> tuple[Model, ...]:
    """The networks of an ensemble, which take the same and give the same."""
    _, model_options, ink_options = options
    models = tuple(
        load_model(
            url,
            token=model_options.hf_token,
            model_type=model_options.model_type,
            n_layers=n_layers,
            tile=ink_options.tile_size,
            trust_code=model_options.trust_code,
            depth_output=bool(ink_options.depth_output),
        )
        for url in urls
    )
    cards = [model.card for model in models]
    for card in cards:
        if not card.format.startswith("ink") or card.patch_zyx is None:
            raise ModelError(f"{card.path} is a {card.format} model, no network for ink; voxweft run takes it")
        if card.patch_zyx != cards[0].patch_zyx:
            raise ModelError(
                f"{card.path} takes tiles of {card.patch_zyx[0]} pixels, {cards[0].path} of "
                f"{(cards[0].patch_zyx or (0,))[0]}; an ensemble needs the same"
            )
    require_alike(cards)
    return models


def check_contract(jobs: Sequence[Job], ink_options: InkOptions, emit: Emit) -> None:
    """Tell what of the layers is not what the networks were trained for.

    Raises
    ------
    RequestError
        If something is wrong with them, and not told as a warning only.
    """
    errors, strict = dict[str, None](), ink_options.input_contract == "error"
    for job in jobs:
        stack = stack_of(source_of(job.layers), job.layers.level) if _is_listed(job.layers) else None
        there, info = stack.layers if stack else union(job.windows), job.volume.info
        side = job.layers.voxel_size_um
        given = Given(
            n_layers_there=len(there) if stack else None,
            spacing_um=(side, side, side) if side else stack.spacing_um if stack else None,
            dtype=(stack.dtype if stack else "") or str(info.details.get("stored_as", info.dtype)),
            form=stack.form if stack else "",
            source_level=stack.source_level if stack else "",
            source_planes=stack.source_planes if stack else None,
            reverse=job.reverse,
            tile=ink_options.tile_size or None,
        )
        for window, model in ((w, m) for w in job.windows for m in job.models):
            given = replace(given, start=window.start - there.start, stop=window.stop - there.start)
            for breach in breaches(model.card.contract, given):
                if strict and breach.severity == "error":
                    errors[f"{breach.code}: {breach.text}"] = None
                else:
                    emit(Event("note", f"{breach.code}: {breach.text}"))
    if errors:
        more = f" ({len(errors) - BREACHES_SHOWN} more)" if len(errors) > BREACHES_SHOWN else ""
        lines = [*errors][:BREACHES_SHOWN]
        lines[-1] += f"{more}. Give --input-contract warn to run all the same."
        raise RequestError(*lines)


def _is_listed(layers: LayerOptions) -> bool:
    """Whether it can be said what layers there are."""
    source = source_of(layers)
    return is_zarr(source) or not source.startswith("http")


def engine_options(job: Job, ink_options: InkOptions, picture_options: PictureOptions) -> SweepOptions:
    """What the engine is asked for."""
    card = job.models[0].card
    tile, (height, _, width) = (card.patch_zyx or (0,))[0], job.volume.info.shape_zyx
    stride, device = stride_of(job, ink_options), devices_of(ink_options.device)[0]
    if stride > tile:
        raise RequestError(f"--stride {stride} leaves gaps between tiles of {tile}; use at most that")
    large = device == "cpu" and tile**2 * card.n_inputs > LARGE
    if ink_options.combine == "max" and len(job.models) > 1 and len(job.windows) > 1:
        raise RequestError("--combine max with several models: the mean of models and the maximum of windows exclude "
                           "each other here; give one model, or --combine mean")  # fmt: skip
    return SweepOptions(
        overlap=1.0 - stride / tile,
        window=BLENDS.get(ink_options.window, ink_options.window),
        sigma_scale=tile / (ink_options.gaussian_sigma or max(1.0, tile / SIGMA_SCALE)),
        fit="snap",
        tta=ink_options.tta,
        batch_size=1 if large else ink_options.batch_size,
        skip_empty=ink_options.skip_empty,
        output="probability" if ink_options.bits == 8 else "probability16",
        bbox=_bbox(ink_options.roi, height, width),
        mask=ink_options.mask,
        chunk="256,1,1024",
        compressor="zstd"
        if picture_options.output_path.endswith(".zarr") or picture_options.use_zarr_compression
        else "none",
        accept_labels=True,
        runtime=_runtime(ink_options, large),
        compile_mode=ink_options.compile_mode,
        precision=ink_options.precision,
        tolerance=ink_options.tolerance,
        device=ink_options.device,
        memory=ink_options.memory,
        divisor=float(ink_options.divisor or card.divisor or 0),
        clip=ink_options.clip,
        layers=job.asked(ink_options),
        depth_output=bool(ink_options.depth_output),
        combine=ink_options.combine if len(job.windows) > 1 else "mean",
    )


def stride_of(job: Job, ink_options: InkOptions) -> int:
    """Pixels between tiles."""
    prescribed = job.models[0].card.stride_zyx
    return ink_options.stride or (prescribed[0] if prescribed else STRIDE)


def target_of(job: Job, ink_options: InkOptions) -> Target:
    """The windows as passes of one sweep, and how they become one result."""
    largest = ink_options.combine == "max" and len(job.windows) > 1
    return replace(job.target, average="maximum" if largest else "logits")  # networks for ink give probabilities


def schemes_of(job: Job, ink_options: InkOptions) -> tuple[Normalization, ...]:
    """The normalisation that was asked for; nothing where each network's own is taken."""
    if not ink_options.divisor and ink_options.clip == UNSET:
        return ()
    divisor = float(ink_options.divisor or job.models[0].card.divisor or WHITE)
    clip = divisor if ink_options.clip == UNSET else ink_options.clip or WHITE
    return (Normalization("ct", mean=0.0, std=divisor, lower=0.0, upper=float(clip)),)


def open_mask(url: str) -> Volume | None:
    """A picture, or an array of one plane, as the mask of rows that are swept; None where there is none."""
    if not url:
        return None
    mask = open_volume(url)
    if mask.info.shape_zyx[0] != 1:
        raise RequestError(f"--mask {url} has {mask.info.shape_zyx[0]} planes; give a picture, or an array of one")
    return Permute((1, 0, 2)).of(mask)


def _runtime(ink_options: InkOptions, large: bool) -> str:
    """What the engine may choose from: without COMPILE on a GPU, and for large tiles on a CPU, only plain torch.

    Others hold the weights twice, and all maps of a tile at once.
    """
    if large and ink_options.runtime == "auto":
        return "torch"
    if ink_options.runtime != "auto" or ink_options.compile or devices_of(ink_options.device)[0] == "cpu":
        return ink_options.runtime
    return "torch"


def _bbox(roi: str, height: int, width: int) -> str:
    if not roi:
        return ""
    x0, y0, x1, y1 = box_of_roi(roi) or (0, 0, width, height)
    if x1 > width or y1 > height:
        raise RequestError(f"--roi {roi} leaves the surface of {width} x {height} pixels")
    return f"{y0}:{y1},0:1,{x0}:{x1}"
