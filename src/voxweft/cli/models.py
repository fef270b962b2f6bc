"""``voxweft models``: what --model may name without a path."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from voxweft.built import cache_folder
from voxweft.cli.front_end import FrontEnd
from voxweft.cli.show import AsJson, Verbose, say, table

app = typer.Typer()
FOR = {
    "demo": "membranes in grey volumes: voxweft run, pipeline, batch, demo",
    "demo-ink": "ink in 12 layers of a surface volume: voxweft ink run, demo --ink",
    "demo-ink3d": "ink in a scroll, near a surface: voxweft ink volume",
    "demo-particles": "particles of three kinds in tomograms: voxweft particles segment, demo --particles",
}
TITLES = {
    "bundled": "Bundled, for a first try; they need no network",
    "known": "Known by name",
    "cached": "Fetched before, used again without a network",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that a name or a URL leads to; ``kind`` is a key of ``TITLES``."""

    name: str
    kind: str
    what: str
    place: str = ""
    n_bytes: int = 0


@app.command("models")
def models(
    table_of: Annotated[str, typer.Option("--models", help="Table of ink models (TOML) in place of voxweft's.")] = "",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the models that are bundled, known by name, or cached here."""
    found = [*_bundled(), *_known(table_of), *_cached()]
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
        return
    for kind, title in TITLES.items():
        say(f"{title}:")
        rows = {f"  {one.name}": f"{one.what}{_size(one.n_bytes)}" for one in found if one.kind == kind}
        table(rows or {"  none": ""})
    say("Any path of an nnU-Net folder, .pt, .pt2, .onnx, .ckpt or .pth is a model too: voxweft info PATH")


def _bundled() -> Iterator[Listed]:
    from voxweft.backends import BUILT_IN

    return (Listed(name, "bundled", FOR.get(name, ""), str(place)) for name, place in BUILT_IN.items())


def _known(table_of: str) -> Iterator[Listed]:
    from voxweft.apps.ink.names import read_table
    from voxweft.backends import BUILT_IN
    from voxweft.backends.described import REGISTRY

    for name, place in read_table(table_of).items():
        if name not in BUILT_IN:
            yield Listed(name, "known", f"ink: voxweft ink run --model {name}, from {place}", place)
    for path in sorted((REGISTRY.expanduser() / "configs").glob("*.y*ml")):
        yield Listed(path.stem, "known", f"organelles: voxweft panoptic --model {path.stem}, {path}", str(path))


def _cached() -> Iterator[Listed]:
    """Of the hub's cache and of voxweft's own (models from s3://)."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    for folder in sorted(hub.glob("models--*--*")):
        name = "hf://" + "/".join(folder.name.split("--")[1:])
        yield Listed(name, "cached", str(folder), str(folder), _bytes(folder))
    for folder in sorted((cache_folder() / "models").glob("*")):
        files = ", ".join(sorted(p.name for p in folder.rglob("*") if p.is_file())[:3])
        yield Listed(folder.name, "cached", f"of s3://, {files}: {folder}", str(folder), _bytes(folder))


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _size(n_bytes: int) -> str:
    return f" ({n_bytes / 1e6:.0f} MB)" if n_bytes else ""


FRONT_END = FrontEnd(
    app,
    examples={
        "models": "voxweft models",
    },
)
