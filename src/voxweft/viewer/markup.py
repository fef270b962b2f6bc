"""Pieces of pages: the page itself, pictures with a caption, tables of facts, bars. One style for all of them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxweft.viewer import pictures

CSS = """
:root{color-scheme:light dark;--ink:#1d2126;--soft:#626b76;--line:#d9dde2;--paper:#fff;--panel:#f4f6f8;--bar:#ff7a1a;
--warn:#fff1e0;--edge:#e08a2b}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa4af;--line:#363c44;--paper:#15181c;--panel:#1f242a;
--warn:#3a2a16;--edge:#c98333}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:1.5em auto;padding:0 1em;
color:var(--ink);background:var(--paper)}
h1{font-size:1.35em;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.1em;margin:2em 0 .6em;
border-bottom:1px solid var(--line)}h3{font-size:1em;margin:1.2em 0 .4em}
.lead{color:var(--soft);margin:.2em 0 1em}.scroll{overflow-x:auto}table{border-collapse:collapse}
th{text-align:left;font-weight:500;padding:.15em 1.5em .15em 0;vertical-align:top}
td{overflow-wrap:anywhere;padding:.15em 1em .15em 0;vertical-align:top}td.n{text-align:right;white-space:nowrap}
.facts th{white-space:nowrap;color:var(--soft)}
caption,.small,figcaption{text-align:left;color:var(--soft);font-size:.85em}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,170px),1fr));gap:12px}figure{margin:0}
.grid figure{break-inside:avoid}img{max-width:100%;background:#000;image-rendering:pixelated;display:block}
.grid img{width:100%}.bars i{display:inline-block;height:.8em;background:var(--bar);max-width:40vw}
.warn,.note{padding:.5em .8em;border-left:3px solid var(--edge);background:var(--warn);margin:.5em 0;
overflow-wrap:anywhere}.note{border-color:var(--line);background:var(--panel)}
code,pre{font:12px/1.5 ui-monospace,monospace;background:var(--panel)}pre{overflow:auto;padding:.6em;
white-space:pre-wrap;overflow-wrap:anywhere}code{padding:.1em .3em;overflow-wrap:anywhere}
i.dot{display:inline-block;width:.85em;height:.85em;border-radius:50%;border:1px solid var(--line);margin-right:.4em;
vertical-align:-.08em;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.failed{color:#c33}.muted{color:var(--soft)}ul{padding-left:1.2em;margin:.4em 0}a{color:inherit}
@media(max-width:600px){.facts th,.facts td{display:block;padding:0}.facts td{padding-bottom:.4em}
body{margin:.6em auto}.grid{grid-template-columns:repeat(2,1fr);gap:6px}.grid pre{font-size:10px}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--panel:#f4f4f4;--warn:#fff}body{font-size:11px;
max-width:none;margin:0}.grid{grid-template-columns:repeat(3,1fr)}details:not([open]){display:none}h2,h3{break-after:avoid}}
"""


def page(title: str, parts: Iterable[str], more_css: str = "") -> str:
    """A whole page; the title is escaped, the parts are HTML."""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex">'
        f"<style>{CSS}{more_css}</style></head><body>{''.join(parts)}</body></html>"
    )


def figure(rgb: NDArray[np.uint8], caption: str) -> str:
    """A picture [Y, X, 3] with a caption, which is text."""
    return figure_of(pictures.png_bytes(rgb), caption)


def figure_of(png: bytes, caption: str) -> str:
    """A PNG with a caption, which is text."""
    said, data = escape(caption), base64.b64encode(png).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{said}"><figcaption>{said}</figcaption></figure>'


def fact_table(facts: Mapping[str, Any]) -> str:
    """Names and values in two columns; without those that are empty."""
    rows = "".join(f"<tr><th>{escape(k)}<td>{escape(str(v))}" for k, v in facts.items() if v not in ("", None))
    return f"<div class=scroll><table class=facts>{rows}</table></div>"


def row_table(names: Sequence[str], rows: Iterable[Sequence[str]], n_text: int = 1) -> str:
    """Rows of HTML cells below their names; the first ``n_text`` columns are text, the others numbers."""
    head = "".join(f"<th>{escape(name)}" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{'' if n < n_text else ' class=n'}>{cell}" for n, cell in enumerate(row)) for row in rows
    )
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"


def dot(rgb: Sequence[int]) -> str:
    """A spot of a colour, for legends."""
    return f"<i class=dot style='background:rgb({','.join(str(int(c)) for c in rgb[:3])})'></i>"


def bar_table(values: Mapping[str, float], unit: str) -> str:
    """Names, bars and values; ``unit``, which is text, above them."""
    top = max(values.values(), default=0) or 1
    rows = "".join(
        f"<tr><th>{escape(name)}<td><i style='width:{300 * v / top:.0f}px'></i> {v:,}" for name, v in values.items()
    )
    return f"<div class=scroll><table class=bars><caption>{escape(unit)}</caption>{rows}</table></div>"
