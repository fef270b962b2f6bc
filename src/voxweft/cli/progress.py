"""Events made visible: a bar on a terminal or in a notebook, elsewhere a line every 30 seconds, or JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from voxweft.engine.events import Event
from voxweft.engine.fields import spell_duration
from voxweft.errors import RequestError, plain

EVERY_S = 30.0  # between lines where there is no bar
NOTEBOOK_S = 0.5  # between pictures of it in a notebook
WINDOW_S = 90.0  # over which the rate is taken
CELLS = 24  # of a bar in a notebook


def progress(quiet: bool = False, log_json: str = "") -> Listener:
    """Show how far a run is: a bar in a terminal or a notebook, a line every 30 seconds elsewhere.

    Parameters
    ----------
    quiet
        Show nothing; for the sake of ``log_json``.
    log_json
        A file to which each event is appended as a line of JSON.

    Returns
    -------
    Listener
        To be entered, and given to a function as ``emit``.

    Raises
    ------
    RequestError
        If the file cannot be written.

    Examples
    --------
    >>> import numpy as np, voxweft
    >>> image = np.random.default_rng(0).integers(0, 255, (40, 40, 40), dtype=np.uint8)
    >>> with voxweft.progress() as show:
    ...     report = voxweft.run(image, "memory://", "fake://null?patch=16,16,16", emit=show)
    """
    return Listener(quiet, log_json)


@dataclass(slots=True)
class Count:
    """What is being done, and how far it is.

    Attributes
    ----------
    text
        What.
    noun
        What is counted; "" where nothing is.
    done, total
        How many of them.
    expected_s
        Seconds for one, as measured before; None where nobody knows.
    """

    text: str = ""
    noun: str = ""
    done: int = 0
    total: int = 0
    expected_s: float | None = None
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _moves: bool = False

    def set(self, done: int, total: int) -> None:
        """So many are done now."""
        now = time.monotonic()
        self.done, self.total = done, total
        if not self._seen or done != self._seen[-1][1]:
            if len(self._seen) == 1 and not self._moves:  # the first step may be what an earlier attempt had done
                self._seen.clear()
                self._moves = True
            self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_S:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """How many a second: lately, or as expected; 0 where that is not known."""
        (t0, n0), (t1, n1) = (self._seen[0], self._seen[-1]) if self._seen else ((0.0, 0), (0.0, 0))
        if n1 > n0:
            return (n1 - n0) / max(time.monotonic() - t0, t1 - t0, 1e-6)
        return 1 / self.expected_s if self.expected_s else 0.0

    def in_words(self) -> str:
        """The numbers: how many, how fast, how much longer."""
        if not self.total:
            return ""
        words, rate = [f"{self.done:,} of {self.total:,} {self.noun}".rstrip()], self.rate
        if rate and self.noun == "patches":
            words.append(f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each")
        if rate and self.done < self.total:
            words.append(f"{spell_duration((self.total - self.done) / rate)} left")
        return ", ".join(words)


class Listener:
    """Shows events on standard error and, if asked, writes each as a line of JSON."""

    def __init__(self, quiet: bool = False, log_json: str = "") -> None:
        self._console, self._quiet = Console(stderr=True), quiet
        self._log = _appended(log_json) if log_json else None
        self._notebook = None if quiet else _Notebook.here()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("[dim]{task.fields[clock]}"),
            console=self._console,
            disable=quiet or self._notebook is not None or not sys.stderr.isatty(),
            transient=True,
            get_time=time.monotonic,
        )
        self._lock = threading.Lock()
        self._task: Any = None
        self._said = set[str]()  # what was urgent, and is a note of the plan too
        self._count, self._units = Count(), {"done": 0, "total": 0}
        self._noun, self._output, self._keeps_s = "slabs", "", 0.0
        self._begun = self._last = time.monotonic()
        self._ticking = threading.Event()

    def __enter__(self) -> Listener:
        self._bar.start()
        Listener.last = self
        if not self._bar.disable:
            threading.Thread(target=self._tick, daemon=True, name="voxweft-clock").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ticking.set()
        self._bar.stop()
        if self._log:
            self._log.close()

    last: Listener | None = None
    """The one that was entered last."""

    def kept(self) -> str:
        """What a stop leaves of the run that was told of; "" where none has begun."""
        if not self._output:
            return ""
        done, total = self._units["done"], self._units["total"]
        rest = f", and of the next what it had up to {spell_duration(self._keeps_s)} ago" if self._keeps_s else ""
        return f"{done} of {total} {self._noun} are kept in {self._output}{rest}"

    def __call__(self, event: Event) -> None:
        """Show one event; called from several threads."""
        with self._lock:
            if self._log:
                line = {"at": round(time.time(), 3), **asdict(event)}
                self._log.write(json.dumps(line, default=str) + "\n")
                self._log.flush()
            data = event.data
            match event.kind:
                case "note" | "warning" if event.text in self._said or (self._quiet and event.kind == "note"):
                    pass
                case "note" | "warning":
                    self._said.add(event.text)
                    self._say(f"{event.kind}: {event.text}")
                case "phase":
                    self._count = Count(event.text)
                    self._show()
                case "begin":
                    self._begin(data)
                case "unit":
                    self._units["done"] += 1
                    self._counted({})
                case "progress":
                    self._counted(data, event.text)
                case "statistics":
                    if self._count.text != event.text:
                        self._count = Count(event.text, "blocks")
                    self._count.set(data["done"], data["total"])
                    self._show()

    def _begin(self, data: Any) -> None:
        self._units = {"done": data["n_done"], "total": data["n_units"]}
        self._noun, stage = data.get("noun", "slabs"), data.get("stage", "")
        self._output, self._keeps_s = data.get("output", ""), data.get("keeps_s", 0.0)
        if data.get("n_patches"):
            self._count = Count(stage, "patches", expected_s=data.get("patch_s"))
        else:
            self._count = Count(stage, self._noun)
        self._counted(data)

    def _counted(self, data: Any, text: str = "") -> None:
        """Units, and patches where they are known; the bar is of patches then."""
        self._units |= {name: data[key] for name, key in (("done", "n_done"), ("total", "n_units")) if key in data}
        if self._count.noun == "patches":
            if "n_patches" in data:
                self._count.set(data["n_patches_done"], data["n_patches"])
        else:
            if self._count.noun != self._noun or not self._count.total:
                self._count = Count(self._count.text, text or self._noun)
            self._count.set(self._units["done"], self._units["total"])
        self._show()

    def _show(self) -> None:
        count, now = self._count, time.monotonic()
        text, numbers = plain(count.text or count.noun), count.in_words()
        if count.noun == "patches" and self._units["total"] > 1:
            numbers += f" ({self._units['done']} of {self._units['total']} {self._noun})"
        if self._notebook:
            self._notebook.show(text, count, numbers)
        elif self._bar.disable:
            if not self._quiet and now - self._last >= EVERY_S:
                self._last = now
                self._console.print(f"{text}: {plain(numbers)}".rstrip(": "), highlight=False, markup=False)
        else:
            known: dict[str, Any] = {"completed": count.done, "total": count.total or None}
            known |= {"numbers": plain(numbers), "clock": spell_duration(round(now - self._begun))}
            if self._task is None:
                self._task = self._bar.add_task(text, **known)
            self._bar.update(self._task, description=text, **known)

    def _tick(self) -> None:
        """The time goes on while nothing else happens."""
        while not self._ticking.wait(1.0):
            with self._lock:
                if self._task is not None:
                    self._show()

    def _say(self, text: str) -> None:
        if self._notebook:
            self._notebook.say(plain(text))
        else:
            self._console.print(plain(text), highlight=False, markup=False, soft_wrap=True)


class _Notebook:
    """One line of text in the output of a cell, replaced as the work goes on; IPython's own display does that."""

    def __init__(self, display: Any) -> None:
        self._display, self._handle, self._at, self._text = display, None, 0.0, ""

    @classmethod
    def here(cls) -> _Notebook | None:
        """That of the running cell; None outside a notebook."""
        if "IPython" not in sys.modules:
            return None
        from IPython import get_ipython
        from IPython.display import display

        shell = get_ipython()
        return cls(display) if shell is not None and shell.has_trait("kernel") else None

    def show(self, text: str, count: Count, numbers: str) -> None:
        """Replace the line, if another thing is told of or some time has passed."""
        now = time.monotonic()
        if text == self._text and now - self._at < NOTEBOOK_S and count.done < count.total:
            return
        self._at, self._text = now, text
        filled = CELLS * count.done // count.total if count.total else 0
        line = {"text/plain": f"{text} [{'#' * filled}{'.' * (CELLS - filled)}] {numbers}".rstrip()}
        if self._handle is None:
            self._handle = self._display(line, raw=True, display_id=True)
        else:
            self._handle.update(line, raw=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._display({"text/plain": text}, raw=True)


def _appended(path: str) -> IO[str]:
    try:
        return open(path, "a", encoding="utf-8")  # noqa: PTH123
    except OSError as error:
        raise RequestError(f"--log-json {path} cannot be written: {error.strerror}") from error
