"""Numba kernel of the images room: edges of a mask followed round its outlines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

IntArray = NDArray[np.int64]


@kernel()
def follow(following: IntArray, order: IntArray, cycle: IntArray) -> int:
    """Walk the cycles of a permutation; returns their number.

    ``following[e]`` is the element after e. ``order`` lists the elements cycle by cycle, ``cycle`` their cycle; both have
    its length and are written. A cycle starts with its least element, cycles come in the order of these.
    """
    seen = np.zeros(len(following), dtype=np.bool_)
    count = 0
    place = 0
    for start in range(len(following)):
        if seen[start]:
            continue
        element = start
        while not seen[element]:
            seen[element] = True
            order[place] = element
            cycle[place] = count
            place += 1
            element = following[element]
        count += 1
    return count
