"""Mappings that cannot be changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn


class FrozenDict(dict[str, Any]):
    """A dictionary that cannot be changed, nor anything in it: dictionaries become frozen ones, lists become tuples.

    It can be hashed, pickled, copied, and written as JSON; what JSON gives back is equal once it is frozen again.

    Raises
    ------
    TypeError
        By every call that would change it.

    Examples
    --------
    >>> told = FrozenDict({"sizes": [1, 2]})
    >>> told["sizes"]
    (1, 2)
    >>> told["more"] = 3
    Traceback (most recent call last):
    TypeError: this mapping is read-only; make another, with dataclasses.replace where it belongs to a card
    """

    __slots__ = ()

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__({name: _frozen(value) for name, value in dict(items).items()})

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping is read-only; make another, with dataclasses.replace where it belongs to a card")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenDict(value)
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
