"""Pieces of pages: pictures with a caption, tables of facts, bars."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.viewer import pictures

CSS = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.3em;word-break:break-all}h2{font-size:1.1em;margin-top:2em;border-bottom:1px solid #ccc}
table{border-collapse:collapse}th{text-align:left;font-weight:500;padding:.15em 1.5em .15em 0;vertical-align:top;
white-space:nowrap}td{word-break:break-word}caption,.small,figcaption{text-align:left;color:#666;font-size:.85em}
.grid{display:grid;grid-template-columns:repeat(3,1fr);gap:10px}figure{margin:0}img{width:100%;image-rendering:pixelated}
.bars i{display:inline-block;height:.8em;background:#ff7a1a}.warn{background:#fff0e0;padding:.5em}
.note{background:#f2f2f2;padding:.5em}pre{font-size:12px;overflow:auto}
"""


def figure(rgb: NDArray[np.uint8], caption: str) -> str:
    """A picture [Y, X, 3] with a caption."""
    return f'<figure><img src="{pictures.png(rgb)}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def fact_table(facts: Mapping[str, Any]) -> str:
    """Names and values in two columns; without those that are empty."""
    rows = "".join(f"<tr><th>{escape(k)}<td>{escape(str(v))}" for k, v in facts.items() if v not in ("", None))
    return f"<table>{rows}</table>"


def bar_table(values: Mapping[str, float], unit: str) -> str:
    """Names, bars and values; ``unit`` above them."""
    top = max(values.values(), default=0) or 1
    rows = "".join(
        f"<tr><th>{escape(name)}<td><i style='width:{300 * v / top:.0f}px'></i> {v:,}" for name, v in values.items()
    )
    return f"<table class=bars><caption>{unit}</caption>{rows}</table>"
