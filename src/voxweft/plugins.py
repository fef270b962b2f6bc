"""What other packages bring: volumes, sinks, backends and launchers, by entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from voxweft.errors import RequestError


def find_plugin(group: str, what: str, claims: Callable[[str], bool] | None = None) -> Any:
    """The installed plug-in whose name claims ``what``, loaded; None where there is none.

    Parameters
    ----------
    group
        "voxweft.volumes", "voxweft.sinks", "voxweft.backends" or "voxweft.launchers".
    what
        An URL, or a name.
    claims
        Whether a plug-in's name fits; default: ``what`` begins or ends with it (scheme or suffix).

    Raises
    ------
    RequestError
        If two packages claim it.
    """
    fits = claims or (lambda name: what.endswith(name) or what.startswith(name))
    found = [e for e in entry_points(group=group) if fits(e.name)]
    if len(found) > 1:
        owners = " and ".join(sorted(str(e.dist.name) if e.dist else e.value for e in found))
        raise RequestError(f"{what}: the packages {owners} both claim {found[0].name!r}; uninstall one of them")
    return found[0].load() if found else None
