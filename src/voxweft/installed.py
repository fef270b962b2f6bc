"""How this voxweft was installed, so that a message can print the line that adds what is missing."""

from __future__ import annotations

import functools
import json
import re
import shlex
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from urllib.parse import urlparse
from urllib.request import url2pathname

NAME = "voxweft"
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([^\]]*)\])?.*\bextra *== *.([\w-]+)")


def install_line(*extras: str) -> str:
    """A shell line that adds extras to this installation, whichever tool made it.

    ============================  =====================================================
    made by                       the line
    ============================  =====================================================
    ``pip install`` of a release  ``/path/to/python -m pip install 'voxweft[em]'``
    a checkout, editable or not   ``... -m pip install -e '/path/to/checkout[em]'``
    an environment of uv, no pip  ``uv pip install --python /path/to/python ...``
    ``uv tool install``           ``uv tool install --force '...'``
    ``pipx install``              ``pipx install --force '...'``
    ============================  =====================================================

    Examples
    --------
    >>> install_line("em", "s3").endswith("[em,s3]'")
    True
    """
    path, editable = _source()
    prefix = sys.prefix.replace("\\", "/")
    tool = "uv tool" if "/uv/tools/" in prefix else "pipx" if "/pipx/venvs/" in prefix else ""
    if tool:  # makes the environment anew: what is there must be named too
        extras = (*(e for e, missing in missing_packages().items() if not missing and e not in extras), *extras)
    what = f"{'--editable ' * editable}'{path or NAME}[{','.join(extras)}]'"
    if tool:
        return f"{tool} install --force {what}"
    python = shlex.quote(sys.executable or "python")
    return f"uv pip install --python {python} {what}" if find_spec("pip") is None else f"{python} -m pip install {what}"


def missing_packages() -> dict[str, list[str]]:
    """The extras of this version, and which of their packages are not here; none where voxweft was not installed."""
    needs: dict[str, set[str]] = {}  # an extra within an extra: "[em]"
    with suppress(PackageNotFoundError):
        for line in distribution(NAME).requires or ():
            if found := REQUIREMENT.match(line):
                name, inner, extra = found.groups()
                wanted = {f"[{e.strip()}]" for e in (inner or "").split(",")} if name == NAME else {name}
                needs.setdefault(extra, set()).update(wanted)
    return {extra: sorted(p for p in _packages(extra, needs) if not _is_here(p)) for extra in needs}


def _packages(extra: str, needs: dict[str, set[str]]) -> set[str]:
    named = needs.get(extra, set())
    inner = (_packages(name[1:-1], needs) for name in named if name.startswith("["))
    return {name for name in named if not name.startswith("[")}.union(*inner)


def _is_here(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


@functools.cache
def _source() -> tuple[str, bool]:
    """The folder that voxweft was installed from, "" where it was an index; whether it is used from there."""
    with suppress(PackageNotFoundError, ValueError):
        told = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
        url = urlparse(str(told.get("url", "")))
        if url.scheme == "file":
            return url2pathname(url.path), bool(told.get("dir_info", {}).get("editable"))
    return "", False
