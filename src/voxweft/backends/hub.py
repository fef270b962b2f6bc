"""Models that lie elsewhere: hf:// from the Hugging Face hub, s3:// from a bucket; kept in a folder of this machine."""

from __future__ import annotations

import hashlib
import sys
import uuid
from pathlib import Path, PurePosixPath

from voxweft.built import cache_folder
from voxweft.errors import ModelError, first_line
from voxweft.installed import install_line
from voxweft.remote import object_store, remote_errors

SCHEMES = ("hf://", "s3://")
BESIDE_FOLDS = ("plans.json", "dataset.json")
MODEL_FILES = ("*.json", "*.pth", "*.pt", "*.pt2", "*.onnx", "*.yaml", "*.yml", "*.ckpt", "*.safetensors", "*.bin")


def fetch(url: str, token: str = "") -> Path:
    """The local folder or file of a model at ``hf://owner/repo[/folder or file][@revision]`` or ``s3://bucket/key``.

    What was fetched before is used again. hf:// obeys HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, and without
    a connection falls back to what is cached; s3:// is kept in VOXWEFT_CACHE (default ~/.cache/voxweft), by object
    version.

    Raises
    ------
    ModelError
        If it is not there, not allowed, or cannot be reached and is not cached.
    """
    return _from_hub(url, token) if url.startswith("hf://") else _from_bucket(url)


def _from_hub(url: str, token: str) -> Path:
    try:
        import huggingface_hub.utils
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ModelError(f"{url} needs the extra 'hub': {install_line('hub')}") from error
    repo, folder, revision = hub_place(url)
    above = [p for p in PurePosixPath(folder).parents if folder]  # plans.json lies beside the folds
    patterns = [f"{folder}/*", folder] + [str(p / name) for p in above for name in BESIDE_FOLDS]
    patterns = patterns if folder else [*MODEL_FILES]
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        root = snapshot_download(repo, revision=revision or None, token=token or None, allow_patterns=patterns)
    except LocalEntryNotFoundError as error:
        raise ModelError(f"{url} is not cached here and the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = {401: "private or missing; give --hf-token", 403: "not open to you; give --hf-token", 404: "missing"}
        raise ModelError(f"{url}: {reason.get(status or 0, first_line(error))}") from error
    return Path(root) / folder


def hub_place(url: str) -> tuple[str, str, str]:
    """Repository, folder or file in it ("" for all), and revision ("" for the newest) of an ``hf://`` URL.

    >>> hub_place("hf://owner/repo/sub/fold_0@v1.2"), hub_place("hf://owner/repo@main")
    (('owner/repo', 'sub/fold_0', 'v1.2'), ('owner/repo', '', 'main'))
    """
    owner, _, rest = url.removeprefix("hf://").strip("/").partition("/")
    name, _, folder = rest.partition("/")
    name, _, early = name.partition("@")
    folder, _, late = folder.partition("@")
    return f"{owner}/{name}" if name else owner, folder.strip("/"), late or early


def _from_bucket(url: str) -> Path:
    """Fetch every object below the URL (or the object itself) into a folder named after their versions."""
    try:
        parent, _, name = url.rstrip("/").rpartition("/")
        store, prefix = object_store(url), ""
        objects = [o for page in store.list() for o in page]
        if not objects:
            store, prefix = object_store(parent), name
            objects = [dict(store.head(name))]
        versions = "".join(
            f"{o['path']} {o.get('e_tag')} {o['size']};" for o in sorted(objects, key=lambda o: o["path"])
        )
        folder = _cache() / hashlib.sha256(f"{url} {versions}".encode()).hexdigest()[:24]
        for item in objects:
            target = folder / item["path"]
            if not (target.exists() and target.stat().st_size == item["size"]):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f"{uuid.uuid4().hex}.tmp")
                temporary.write_bytes(bytes(store.get(item["path"]).bytes()))
                temporary.replace(target)
    except FileNotFoundError as error:
        raise ModelError(f"{url}: nothing lies there") from error
    except remote_errors() as error:
        raise ModelError(f"{url} cannot be fetched: {first_line(error)}") from error
    return folder / prefix if prefix else folder


def _cache() -> Path:
    return cache_folder() / "models"
