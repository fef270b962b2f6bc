"""Layer windows: centred, around a window, seen from behind, as channels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voxweft.apps.ink.window import centred, channels_of, seen_from_behind, union, windows_around

stacks = st.builds(lambda first, n: range(first, first + n), st.integers(0, 200), st.integers(1, 200))
cases = stacks.flatmap(lambda there: st.tuples(st.just(there), st.integers(1, len(there))))


@given(cases)
def test_the_centred_window_lies_in_the_middle(case: tuple[range, int]) -> None:
    there, n = case
    window = centred(there, n)
    before, behind = window.start - there.start, there.stop - window.stop
    assert len(window) == n
    assert 0 <= behind - before <= 1, "where it cannot be in the middle one more layer lies behind"


@given(cases)
def test_from_behind_the_same_layers_lie_as_far_from_the_other_end(case: tuple[range, int]) -> None:
    there, n = case
    window = centred(there, n)
    other = seen_from_behind(window, there)
    assert [*there[::-1]][window.start - there.start : window.stop - there.start] == [*other][::-1]
    assert seen_from_behind(other, there) == window
    assert (other == window) == ((len(there) - n) % 2 == 0), "the same exactly where it is centred"


@given(cases, st.integers(1, 7), st.integers(1, 4), st.booleans())
def test_windows_and_their_channels(case: tuple[range, int], count: int, step: int, reverse: bool) -> None:
    window = centred(*case)
    windows = windows_around(window, count, step)
    assert window in windows
    assert {b.start - a.start for a, b in pairwise(windows)} <= {step}
    assert 0 <= windows[-1].stop - window.stop - (window.start - windows[0].start) <= step
    layers = np.array(union(windows))[:: -1 if reverse else 1]  # as they are swept
    for one, channels in zip(windows, channels_of(windows, reverse), strict=True):
        seen = layers[list(channels)]
        assert np.array_equal(seen, np.array(one)[:: -1 if reverse else 1])
