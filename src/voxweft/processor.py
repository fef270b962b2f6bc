"""What this machine's processor is, and which number formats it has instructions for."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

NEEDS = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),  # the last: of ARM
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm"),
}
"""Instructions that make a precision worth while, by the names of the Linux kernel; one of them must be there."""


@functools.cache
def features() -> frozenset[str]:
    """Its instructions as the Linux kernel names them; none on other systems."""
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def processor() -> str:
    """Its name as the system gives it."""
    named = (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def lacks(precision: str) -> str:
    """Why a precision is not to be used on this processor, or "".

    Emulated formats are slower than float32, and give other bits than real ones.

    >>> lacks("fp32")
    ''
    """
    wanted = NEEDS.get(precision, ())
    if not wanted or features().intersection(wanted):
        return ""
    return f"this processor has no instructions for {precision} ({' or '.join(wanted[:2])})"


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
