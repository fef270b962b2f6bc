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
    (path, editable), tool = _source(), _tool()
    if tool:  # makes the environment anew: what is there must be named too
        extras = (*(e for e, missing in missing_packages().items() if not missing and e not in extras), *extras)
    wanted = f"[{','.join(extras)}]" if extras else ""
    what = f"{'--editable ' * editable}'{path or NAME}{wanted}'"
    if tool:
        return f"{tool} install --force {what}"
    return f"{_installer()} {what}"


def package_line(package: str) -> str:
    """A shell line that adds a package of others to this installation, whichever tool made it.

    Examples
    --------
    >>> package_line("napari[all]").endswith(" 'napari[all]'")
    True
    """
    if _tool() == "uv tool":  # takes what else is wanted along with what is there
        return f"{install_line()} --with '{package}'"
    return f"{f'pipx inject {NAME}' if _tool() else _installer()} '{package}'"


def _tool() -> str:
    """What made an environment for voxweft alone; "" in any other."""
    prefix = sys.prefix.replace("\\", "/")
    return "uv tool" if "/uv/tools/" in prefix else "pipx" if "/pipx/venvs/" in prefix else ""


def _installer() -> str:
    python = shlex.quote(sys.executable or "python")
    return f"uv pip install --python {python}" if find_spec("pip") is None else f"{python} -m pip install"


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
