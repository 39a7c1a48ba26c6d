"""Numba kernel of sliding windows: when each leaf pair's leading leaf may pass each column at the earliest.

All demands on the passage times are differences (this leaf not before that one plus so much), so the earliest times are
longest paths, found by relaxation: the same idea as for step-and-shoot segments (Kalinowski, Discrete Appl. Math. 152
(2005) 52), in meterset instead of whole steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]

_SAME = 1e-10


@kernel()
def earliest_passages(
    fluence: FloatArray,
    widths: FloatArray,
    pace: float,
    gap: float,
    coupled: NDArray[np.bool_],
    synchronised: bool,
    most: int,
) -> tuple[FloatArray, int]:
    """Earliest meterset (rows, cols), MU, at which the leading leaf of each row enters each column; and the rounds taken.

    ``fluence`` (rows, cols) MU >= ``gap``: meterset between the leading and the trailing leaf's passage. ``widths``
    (cols,) mm. Within a column both leaves move with ``pace`` (MU per mm); they wait at column edges, the leading leaf
    where the fluence falls, the trailing one where it rises. ``gap`` (MU): pace times the minimum gap (no wider than a
    column): the trailing leaf follows not nearer; without a gap both may wait at one place, closed. Rows i and i + 1
    with ``coupled[i]`` are bound to each other: no leaf passes the opposed one, or, if ``synchronised``, at each place
    the row with less fluence is open only while the other is (no tongue-and-groove underdose: Kamath et al., Phys. Med.
    Biol. 49 (2004) N7). After ``most`` rounds without an end there is no answer: rows of little fluence cannot wait, as
    the gap between their leaves would not.
    """
    rows, cols = fluence.shape
    times = np.zeros((rows, cols))
    for turn in range(most):
        changed = False
        for j in range(cols):
            for i in range(rows):
                at = times[i, j]
                if j > 0:
                    fall = max(fluence[i, j - 1] - fluence[i, j], 0.0)
                    at = max(at, times[i, j - 1] + pace * widths[j - 1] + fall)
                if i > 0 and coupled[i - 1]:
                    other = fluence[i - 1, j] if synchronised else 0.0
                    at = max(at, times[i - 1, j] + min(0.0, other - fluence[i, j]))
                if at > times[i, j] + _SAME:
                    times[i, j] = at
                    changed = True
            for i in range(rows - 2, -1, -1):
                if coupled[i]:
                    other = fluence[i + 1, j] if synchronised else 0.0
                    at = times[i + 1, j] + min(0.0, other - fluence[i, j])
                    if at > times[i, j] + _SAME:
                        times[i, j] = at
                        changed = True
        for j in range(cols - 2, -1, -1):
            if gap <= 0.0:
                break
            for i in range(rows):
                at = times[i, j + 1] + gap - pace * widths[j] - fluence[i, j]
                if at > times[i, j] + _SAME:
                    times[i, j] = at
                    changed = True
        if not changed:
            return times, turn
    return times, most
