"""The input of the scroll pipeline: a volume by URL or from the table, and the model's normalisation."""

from __future__ import annotations

import re
from typing import Any

from voxweft.apps.scroll.options import SourceOptions
from voxweft.engine.events import Emit, Event
from voxweft.engine.fields import parse_bytes
from voxweft.engine.plan import InputRef, PatchesRef
from voxweft.errors import ModelError, RequestError
from voxweft.image.axes import Select
from voxweft.image.protocols import Volume
from voxweft.image.views import AtLeast
from voxweft.model.card import Intensity, ModelCard, Normalization
from voxweft.runner.tables import read_toml
from voxweft.stores import open_volume
from voxweft.stores.url import absolute

AIR = re.compile(r"air<(\d+(?:\.\d+)?)(?:@(.+?)(?:#((?:\w+=\d+,?)+))?)?")


def open_source(url: Any, options: SourceOptions) -> Volume:
    """The volume that is asked for.

    Raises
    ------
    RequestError
        If the table does not list it.
    """
    if options.input_format == "volume":
        url = find_volume(options)
    elif url is None or (isinstance(url, str) and not url):
        raise RequestError("the input is missing: give --input-dir, or --input-format volume with --scroll-id")
    size = parse_bytes(options.cache_size) or 0
    cache = (options.cache_dir, size) if options.cache_dir else None
    select = Select.of(options.channel, options.time, options.series)
    return open_volume(url, level=options.level, cache=cache, select=select)


def open_support(text: str, scan: Volume | None = None) -> Volume | None:
    """The support volume of ``--support``: an URL, or ``air<VALUE`` for where a scan is not below a value.

    Parameters
    ----------
    text
        "": there is none. ``air<VALUE@URL`` names the scan.
    scan
        The one that is meant where none is named.

    Raises
    ------
    RequestError
        If the value is none, or no scan is known.
    """
    if not is_air(text):
        return open_volume(text) if text else None
    found = AIR.fullmatch(text)
    if not found:
        raise RequestError(f"--support {text!r} is no support; write for example 'air<30', or give a volume")
    chosen = {
        name: int(value) for name, _, value in (word.partition("=") for word in (found[3] or "").split(",") if word)
    }
    level = chosen.pop("level", 0)
    seen = open_volume(found[2], level=level, select=Select(**chosen)) if found[2] else scan
    if seen is None:
        raise RequestError(f"--support {text} needs the scan; write {text}@URL")
    return AtLeast(float(found[1])).of(seen)


def support_text(mask: InputRef | None) -> str:
    """What :func:`open_support` makes of the mask of a plan again; "" where there is none."""
    if mask is None or isinstance(mask.ref, PatchesRef):
        return ""
    ref, url = mask.ref, absolute(mask.ref.url)
    if not (ref.views and isinstance(ref.views[0], AtLeast)):
        return url
    chosen = ",".join(f"{name}={value}" for name, value in {"level": ref.level, **ref.arguments}.items())
    return f"air<{ref.views[0].value:g}@{url}#{chosen}"


def is_air(text: str) -> bool:
    """Whether a support is a bound of the scan and no volume."""
    return text.startswith("air<")


def find_volume(options: SourceOptions) -> str:
    """The URL of a scroll's or segment's volume from the table."""
    entries = read_table(options.volumes)
    scroll = options.scroll_id.lower().removeprefix("scroll")
    wanted = {"segment": options.segment_id}
    wanted |= {"scroll": scroll} if scroll else {}
    wanted |= {k: v for k, v in (("energy", options.energy), ("resolution", options.resolution)) if v}
    for entry in entries:
        if all(_same(entry.get(k, ""), v) for k, v in wanted.items()):
            return str(entry["url"])
    known = "; ".join(
        " ".join(f"{k} {entry[k]}" for k in ("scroll", "segment", "energy", "resolution") if k in entry)
        for entry in entries
    )
    asked = ", ".join(f"{k} {v}" for k, v in wanted.items() if v)
    raise RequestError(
        f"no volume with {asked} in the table; it has: {known}", "Give --volumes FILE for another table."
    )


def read_table(path: str) -> list[dict[str, Any]]:
    """The entries of a table of volumes (TOML): scroll, energy, resolution, url, and segment for a segment."""
    entries = read_toml("--volumes", path, "voxweft.apps.scroll/volumes.toml").get("volume", [])
    if not entries or not all(isinstance(e, dict) and "url" in e for e in entries):
        raise RequestError(f"--volumes {path}: every [[volume]] needs an url, and there must be one")
    return list(entries)


def _same(stored: Any, asked: str) -> bool:
    try:
        return float(stored) == float(asked)
    except ValueError:
        return str(stored) == asked


def scope_of(card: ModelCard, asked: str, emit: Emit) -> tuple[Normalization, ...]:
    """The normalisation of this pipeline: what its plans say, or what was asked for; by patch.

    nnU-Net's z-score is over the case; here it is over each patch, as in the pipeline that trained these networks.

    Raises
    ------
    ModelError
        If the scheme needs numbers that the model does not give.
    """
    own = tuple(
        Normalization("instance_zscore") if n.scheme == "global_zscore" and n.mean is None else n
        for n in card.normalization
    )
    wanted = own if asked == "auto" else tuple(_scheme(card, asked, c) for c in range(card.n_inputs))
    if asked != "auto" and any(a.scheme != b.scheme for a, b in zip(own * card.n_inputs, wanted, strict=False)):
        text = f"--normalization {asked} differs from the model's training, {', '.join(n.scheme for n in own)}"
        emit(Event("warning", f"{text}; the prediction may be much worse"))
    return wanted


def _scheme(card: ModelCard, name: str, channel: int) -> Normalization:
    """A scheme with the numbers of the model's training data, where it takes any."""
    if name not in ("ct", "global_zscore"):
        return Normalization(name)
    numbers = card.intensity[channel] if channel < len(card.intensity) else Intensity()
    if numbers.mean is None or numbers.std is None:
        raise ModelError(
            f"--normalization {name} needs the mean and standard deviation of training; {card.path} has none"
        )
    limits = (numbers.percentile_00_5, numbers.percentile_99_5) if name == "ct" else (None, None)
    return Normalization(name, numbers.mean, numbers.std, *limits)
