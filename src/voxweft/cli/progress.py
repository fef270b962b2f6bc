"""Events made visible: a bar on a terminal, a line every 30 seconds elsewhere, JSON lines on demand."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voxweft.engine.events import Event
from voxweft.errors import RequestError, plain

EVERY_S = 30.0


def _appended(path: str) -> IO[str]:
    try:
        return open(path, "a", encoding="utf-8")  # noqa: PTH123
    except OSError as error:
        raise RequestError(f"--log-json {path} cannot be written: {error.strerror}") from error


class Listener:
    """Shows events on standard error and, if asked, writes each as a line of JSON."""

    def __init__(self, quiet: bool = False, log_json: str = "") -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._log = _appended(log_json) if log_json else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._lock = threading.Lock()
        self._task: Any = None
        self._said = set[str]()  # what was urgent, and is a note of the plan too
        self._noun = "slabs"
        self._counts = {"done": 0, "total": 0, "voxels": 0}
        self._begun = self._last = time.monotonic()

    def __enter__(self) -> Listener:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
        if self._log:
            self._log.close()

    def __call__(self, event: Event) -> None:
        """Show one event; called from several threads."""
        with self._lock:
            if self._log:
                line = {"at": round(time.time(), 3), **asdict(event)}
                self._log.write(json.dumps(line, default=str) + "\n")
                self._log.flush()
            match event.kind:
                case "note" | "warning" if event.text in self._said:
                    pass
                case "note" | "warning":
                    self._said.add(event.text)
                    self._console.print(
                        plain(f"{event.kind}: {event.text}"), highlight=False, markup=False, soft_wrap=True
                    )
                case "begin":
                    self._counts |= {"done": event.data["n_done"], "total": event.data["n_units"], "voxels": 0}
                    self._begun = time.monotonic()
                    self._noun = event.data.get("noun", "slabs")
                    self._show(self._noun)
                case "unit":
                    self._counts["done"] += 1
                    self._counts["voxels"] += event.data["n_voxels"]
                    self._show(self._noun)
                case "progress":
                    self._counts |= {"done": event.data["n_done"], "total": event.data["n_units"]}
                    self._show(event.text or self._noun)
                case "statistics":
                    self._counts |= {"done": event.data["done"], "total": event.data["total"]}
                    self._show(event.text)

    def _show(self, text: str) -> None:
        done, total, voxels = (self._counts[k] for k in ("done", "total", "voxels"))
        elapsed = max(time.monotonic() - self._begun, 1e-6)
        rate = f"{voxels / elapsed / 1e6:.2f} Mvoxel/s" if voxels else ""
        if self._task is None:
            self._task = self._bar.add_task(text, rate=rate)
        self._bar.update(self._task, description=text, completed=done, total=total, rate=rate)
        now = time.monotonic()
        if self._bar.disable and now - self._last >= EVERY_S:
            self._last = now
            self._console.print(f"{plain(text)}: {done} of {total} {rate}", highlight=False)
