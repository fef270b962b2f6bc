"""What sinks have in common that keep a result in another one, seen otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from voxweft.image.protocols import Sink


class WrappedSink:
    """All that another sink does in the same way; what differs is written anew by those that are made of this.

    Parameters
    ----------
    inner
        Where it is stored.
    """

    def __init__(self, inner: Sink) -> None:
        self._inner = inner
        self.url, self.records = inner.url, inner.records
        self.file: str = getattr(inner, "file", "")

    @property
    def guard(self) -> Callable[[], None]:
        """Called before each write; raises where this output is another run's by now."""
        found: Callable[[], None] = getattr(self._inner, "guard", lambda: None)
        return found

    @guard.setter
    def guard(self, guard: Callable[[], None]) -> None:
        inner: Any = self._inner
        if hasattr(inner, "guard"):
            inner.guard = guard

    def exists(self) -> bool:
        """Whether anything lies there."""
        return self._inner.exists()

    def n_levels(self) -> int:
        """How many resolution levels there are."""
        return self._inner.n_levels()

    def n_files(self, level: int = 0) -> int | None:
        """How many files hold a level."""
        return self._inner.n_files(level)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Merge attributes."""
        self._inner.set_attributes(attributes)

    def remove(self) -> None:
        """Delete everything."""
        self._inner.remove()
