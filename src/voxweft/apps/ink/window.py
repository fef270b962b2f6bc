"""Which layers a network sees: integers only. Layers are counted by their own numbers."""

from __future__ import annotations

from collections.abc import Sequence

from voxweft.errors import RequestError


def centred(there: range, n_wanted: int) -> range:
    """The window in the middle of the layers that are there: it begins at ``first + (N - W) // 2``.

    >>> centred(range(109), 62), centred(range(65), 62), centred(range(10, 15), 4)
    (range(23, 85), range(1, 63), range(10, 14))
    """
    start = there.start + (len(there) - n_wanted) // 2
    return range(start, start + n_wanted)


def windows_around(window: range, count: int, step: int = 1) -> tuple[range, ...]:
    """So many windows of one length, ``step`` layers apart, with the given one in their middle.

    Of an even number one more lies behind than before.

    >>> windows_around(range(23, 85), 3)
    (range(22, 84), range(23, 85), range(24, 86))
    >>> [w.start for w in windows_around(range(10, 15), 4, step=2)]
    [8, 10, 12, 14]
    """
    offsets = [(n - (count - 1) // 2) * step for n in range(count)]
    return tuple(range(window.start + k, window.stop + k) for k in offsets)


def union(windows: Sequence[range]) -> range:
    """From the first layer of any window to the last of any."""
    return range(min(w.start for w in windows), max(w.stop for w in windows))


def seen_from_behind(window: range, there: range) -> range:
    """The layers that a window takes of a stack that was reversed before it was cut.

        there      0 1 2 3 4 5 6        reversed   6 5 4 3 2 1 0
        window       1 2 3              of that      5 4 3

    >>> seen_from_behind(range(1, 4), range(7))
    range(3, 6)
    """
    return range(there.start + there.stop - window.stop, there.start + there.stop - window.start)


def channels_of(windows: Sequence[range], reverse: bool) -> tuple[tuple[int, ...], ...]:
    """Of each window its channels in the stack of the layers of all of them, which may be reversed.

    >>> channels_of([range(4, 7), range(5, 8)], reverse=False)
    ((0, 1, 2), (1, 2, 3))
    >>> channels_of([range(4, 7), range(5, 8)], reverse=True)
    ((1, 2, 3), (0, 1, 2))
    """
    of_all = union(windows)
    return tuple(
        tuple(sorted(of_all.stop - 1 - n if reverse else n - of_all.start for n in window)) for window in windows
    )


def require_within(windows: Sequence[range], there: range, source: str) -> None:
    """Refuse windows that leave the stack.

    Raises
    ------
    RequestError
        Naming the first of them.
    """
    for window in windows:
        if window.start < there.start or window.stop > there.stop:
            asked = f"{window.start} to {window.stop - 1}"
            raise RequestError(
                f"No layers found: {source} holds layers {there.start} to {there.stop - 1}, {asked} are asked for"
                f"{'; fewer --windows, or a smaller --window-step' if len(windows) > 1 else ''}."
            )
