"""Models by path: one module a format."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from voxweft.backends.described import description_of, trained_with
from voxweft.backends.hub import SCHEMES, fetch
from voxweft.backends.loaded import LoadedModel
from voxweft.errors import ModelError, RequestError, VoxweftError, first_line
from voxweft.foreign import local
from voxweft.model.card import ModelCard
from voxweft.model.protocols import Model
from voxweft.model.ref import ModelRef, card_differences, model_ref
from voxweft.plugins import find_plugin

DEMO = Path(__file__).parent / "demo"
BUILT_IN = {
    "demo": DEMO,
    "demo-ink": DEMO / "ink.ckpt",
    "demo-ink3d": DEMO / "ink3d",
    "demo-particles": DEMO / "particles.pth",
}
KNOWN = (
    "an nnU-Net v2 folder (plans.json), TorchScript (.pt, .pth; with a .yaml a panoptic network), torch.export (.pt2), "
    "ONNX (.onnx), MONAI weights with the yaml of octopi (.pth), a checkpoint of vesuvius.train (.pth) "
    "or an ink checkpoint (.ckpt, .safetensors, .bin, .pt, .pth)"
)
TAKES = {
    "ink": ("model_type", "n_layers", "tile", "trust_code", "depth_output"),
    "nnunet": ("folds", "checkpoint"),
    "panoptic": ("inference_scale", "fine_boundaries", "use_quantized"),
    "monai": ("model_config",),
    "trainer": ("targets",),
    "fake": ("inference_scale", "fine_boundaries"),
}
CHECKPOINTS = (".ckpt", ".safetensors", ".bin", ".pt", ".pth")  # the first kind that a folder holds is taken
DESCRIBED = (".yaml", ".yml", ".pt", ".pth")  # files of panoptic networks
FILES = (*CHECKPOINTS, ".pt2", ".onnx")


def load_model(source: Any, *, token: str = "", **arguments: Any) -> Model:
    """Read a model; nothing is executed but the libraries of its format.

    Parameters
    ----------
    source
        Path of an nnU-Net v2 folder (also one fold of it), a TorchScript, torch.export or ONNX file, an ink checkpoint
        or a folder with one; "demo", "demo-ink" and "demo-particles" for the small networks of ``voxweft demo``;
        ``hf://owner/repo`` or ``s3://bucket/key`` for one that lies elsewhere; for tests
        ``fake://null?classes=2&patch=64,64,64``; or anything that is a :class:`~voxweft.model.Model` already.
    token
        For a private ``hf://`` repository.
    **arguments
        For an ink checkpoint: ``model_type``, ``n_layers``, ``tile``, ``trust_code``, ``depth_output`` of
        :func:`voxweft.backends.ink.load`; for an nnU-Net folder ``folds`` and ``checkpoint`` of
        :func:`voxweft.backends.nnunet.load`; for MONAI weights ``model_config``; for a checkpoint of vesuvius.train
        ``targets``, with commas between; for a panoptic network those of
        :func:`voxweft.backends.panoptic.load`. What a format does not know it ignores.

    Returns
    -------
    Model
        Its ``ref`` tells how to load it again (:func:`reload`), without secrets such as the token. An object that was
        given comes back as it is.

    Raises
    ------
    ModelError
        If it is missing, of no known format, unsafe, or does not fit together.

    Examples
    --------
    >>> load_model("demo").card.format
    'nnU-Net v2'
    >>> load_model("fake://null?classes=3&patch=32,32,32").card.n_classes
    3
    >>> load_model("nowhere.pt2")
    Traceback (most recent call last):
    voxweft.errors.ModelError: nowhere.pt2: no model lies there
    >>> model = load_model("fake://null?patch=16,16,16")
    >>> model.card.patch_zyx, model.ref.url
    ((16, 16, 16), 'fake://null?patch=16,16,16')
    """
    wanted = str(arguments.pop("targets", ""))
    if hasattr(source, "card") and hasattr(source, "open"):
        _require_targets(source.card, wanted)
        return source  # type: ignore[no-any-return]
    model = _load(str(source), token, arguments | ({"targets": wanted} if wanted else {}))
    _require_targets(model.card, wanted)
    return model


def _require_targets(card: ModelCard, wanted: str) -> None:
    """Refuse a choice of targets where there is none."""
    named = [head.name for head in card.heads]
    if wanted and sorted(name.strip() for name in wanted.split(",")) != sorted(named):
        told = (
            f"has the targets {', '.join(named)}, and gives them together" if named else "has no targets to choose from"
        )
        raise RequestError(f"--targets {wanted}: {card.path} {told}; leave it out")


def reload(ref: ModelRef) -> Model:
    """Load a model again and make sure that it is the same.

    Raises
    ------
    ModelError
        As :func:`load_model`.
    RequestError
        If its weights, or anything else on its card that decides the output, are not what they were; all that differs
        is named.

    Examples
    --------
    >>> model = load_model("fake://null?patch=16,16,16")
    >>> reload(model.ref).card == model.card
    True
    """
    model = _load(ref.url, "", ref.arguments)
    differences = ["its weights differ"] if model.ref.digest != ref.digest else []
    differences += card_differences(ref.card, model.card)
    if differences:
        raise RequestError(f"the model at {ref.url} is not the one of the plan: {'; '.join(differences)}")
    return model


def folds_of(model: Model) -> list[Model]:
    """Each fold of a model as a model of its own; one that has a single fold, or is no file, as it is.

    >>> [len(folds_of(load_model(name))) for name in ("demo", "fake://null")]
    [1, 1]
    """
    ref, files = model_ref(model), model.card.details.get("checkpoints", ())
    if model.card.n_folds < 2 or len(files) != model.card.n_folds:
        return [model]
    names = [file.rpartition("/")[::2] for file in files]
    return [
        _load(ref.url, "", {**ref.arguments, "folds": folder.removeprefix("fold_"), "checkpoint": name})
        for folder, name in names
    ]


def _load(url: str, token: str, arguments: Mapping[str, Any]) -> LoadedModel:
    if arguments.get("network") or arguments.get("cfg_path"):
        return import_module("voxweft.backends.mmengine").load_mmengine(ckpt_path=url, **arguments)  # type: ignore[no-any-return]
    if plugin := find_plugin("voxweft.backends", url):
        return _loaded(plugin(url))
    if url.startswith("fake://"):
        needed = {k: v for k, v in arguments.items() if k in TAKES["fake"]}
        return _loaded(_read("fake", url, **needed), needed)
    if url.startswith(SCHEMES):
        return _load(str(fetch(url, token)), "", arguments).at(url)
    path = BUILT_IN.get(url) or local(url)  # a folder of that name does not hide a bundled model
    path = _checkpoint_in(path) if path.is_dir() and not _plans_near(path) else path
    if path.suffix in DESCRIBED or not path.exists():
        path = description_of(path) or path
    try:
        backend = "monai" if arguments.get("model_config") else _format_of(path, url)
        needed = {k: v for k, v in arguments.items() if k in TAKES.get(backend, ())}
        return _loaded(_read(backend, path, **needed), needed)
    except (VoxweftError, OSError):
        raise
    except Exception as error:
        raise ModelError(f"{url} is damaged or odd: {type(error).__name__}, {first_line(error)}") from error


def _loaded(model: Model, arguments: Mapping[str, Any] | None = None) -> LoadedModel:
    return LoadedModel(ModelRef(model.card, arguments or {}), model)


def looks_like_a_model(url: str) -> bool:
    """Whether an URL names a model and not a volume; nothing is read."""
    path = local(url)
    if url in BUILT_IN or url.startswith(("fake://", "hf://")) or path.suffix in FILES or _plans_near(path):
        return True
    if description_of(path):
        return True
    return path.is_dir() and path.suffix != ".zarr" and any(p.suffix in FILES for p in path.iterdir())


def _plans_near(path: Path) -> bool:
    return path.is_dir() and any((p / "plans.json").exists() for p in (path, path.parent))


def _checkpoint_in(folder: Path) -> Path:
    """The one model of a folder, by the order of ``FILES``; the folder itself where there is none."""
    files = sorted(p for p in folder.iterdir() if p.suffix in FILES)
    if not files:
        return folder
    kind = min((p.suffix for p in files), key=FILES.index)
    found = [p for p in files if p.suffix == kind]
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:6])
        raise ModelError(f"{folder} holds {len(found)} models ({names}); give the path of one of them")
    return found[0]


def _format_of(path: Path, url: str) -> str:
    """The backend for a file or folder."""
    if not path.exists():
        raise ModelError(f"{url}: no model lies there")
    if path.suffix in (".yaml", ".yml") and description_of(path):
        return "panoptic"
    if path.is_dir():
        if _plans_near(path):
            return "nnunet"
        raise ModelError(f"{url} is a folder without plans.json; voxweft reads {KNOWN}")
    by_suffix = {".onnx": "onnx", ".pt2": "exported", ".ckpt": "ink", ".safetensors": "ink"}
    if path.suffix in by_suffix:
        return by_suffix[path.suffix]
    names = {Path(n).name for n in zipfile.ZipFile(path).namelist()} if zipfile.is_zipfile(path) else set()
    if "constants.pkl" in names:
        return "torchscript"
    if backend := _checkpoint_of(path):
        return backend
    if "data.pkl" in names:
        raise ModelError(
            f"{url} holds weights only, without the network; give the folder with its plans.json, "
            "or export it as .pt2 or .onnx"
        )
    raise ModelError(f"{url} is no model that voxweft knows: use {KNOWN}")


def _checkpoint_of(path: Path) -> str:
    """The backend for a file of torch.save, by what lies beside it and by the names in it; "" for none."""
    known = path.suffix in CHECKPOINTS
    if trained_with(path):
        return "monai"
    if known and import_module("voxweft.backends.ink").holds_ink(path):
        return "ink"
    return "trainer" if known and import_module("voxweft.backends.trainer").holds_targets(path) else ""


def _read(backend: str, place: Any, **arguments: Any) -> Model:
    return import_module(f"voxweft.backends.{backend}").load(place, **arguments)  # type: ignore[no-any-return]
