"""Which yaml describes a network; nothing heavy is imported, since every path that is opened is asked."""

from __future__ import annotations

from pathlib import Path

REGISTRY = Path("~/.empanada")
"""Where empanada keeps its models, and their descriptions in ``configs``."""


def description_of(path: Path) -> Path | None:
    """The yaml that describes a model at a path, or that a name of the registry stands for; None: there is none."""
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path if b"padding_factor" in path.read_bytes()[:100_000] else None
    beside = path.with_suffix(".yaml")
    if path.suffix in (".pth", ".pt") and beside.is_file() and b"padding_factor" in beside.read_bytes()[:100_000]:
        return beside
    named = REGISTRY.expanduser() / "configs" / f"{path.name}.yaml"
    return named if not path.exists() and path.parent == Path() and named.is_file() else None


def trained_with(path: Path) -> Path | None:
    """The yaml of octopi beside the weights of a MONAI network; None: there is none.

    That of ``best_model.pth`` is ``best_model_config.yaml`` or ``best_model.yaml``; failing that ``config.yaml``, or
    ``model_config.yaml``.
    """
    if path.suffix not in (".pth", ".pt"):
        return None
    names = (f"{path.stem}_config", path.stem, "model_config", "config")
    beside = [path.with_name(f"{name}{suffix}") for name in names for suffix in (".yaml", ".yml")]
    return next((p for p in beside if p.is_file() and b"architecture" in p.read_bytes()[:100_000]), None)
