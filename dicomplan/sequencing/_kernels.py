"""Numba kernels of leaf sequencing: integer matrices into segments of least total meterset.

Notation, after Engel (Discrete Appl. Math. 152 (2005) 35): a matrix ``levels`` (rows = leaf pairs, columns along leaf
travel) has in each row the differences ``d[j] = a[j] - a[j-1]`` (zero outside). The least total weight of a row is the sum
of its positive differences.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

IntArray = NDArray[np.int64]

_NOTHING = -1_000_000


@kernel(inline=True)
def _random(state: NDArray[np.uint64]) -> np.uint64:
    """Next number of a xorshift64 generator (Marsaglia, J. Stat. Softw. 8 (2003) 14); ``state`` (1,) is advanced."""
    word: np.uint64 = state[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    state[0] = word
    return word


@kernel()
def _seeded(seed: int) -> NDArray[np.uint64]:
    """Generator state (1,) of a seed; neighbouring seeds give unlike streams (splitmix64 step), never zero."""
    word = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = np.empty(1, np.uint64)
    state[0] = word ^ (word >> np.uint64(31)) | np.uint64(1)
    return state


@kernel()
def _differences(levels: IntArray, differences: IntArray, totals: IntArray, steps: IntArray) -> None:
    """Fill ``differences`` (rows, cols + 1), ``totals`` (rows,) of the positive and ``steps`` (rows,) of the nonzero ones."""
    rows, cols = levels.shape
    for i in range(rows):
        previous = 0
        totals[i] = 0
        steps[i] = 0
        for j in range(cols + 1):
            value = levels[i, j] if j < cols else 0
            difference = value - previous
            differences[i, j] = difference
            if difference > 0:
                totals[i] += difference
            if difference != 0:
                steps[i] += 1
            previous = value


@kernel()
def _take(
    levels: IntArray,
    differences: IntArray,
    totals: IntArray,
    steps: IntArray,
    i: int,
    left: int,
    right: int,
    weight: int,
) -> None:
    """Subtract ``weight`` from columns [left, right) of row ``i`` and keep the row's sums up to date."""
    if right <= left:
        return
    for j in range(left, right):
        levels[i, j] -= weight
    for end in range(2):
        j = left if end == 0 else right
        old = differences[i, j]
        new = old - weight if end == 0 else old + weight
        differences[i, j] = new
        totals[i] += max(new, 0) - max(old, 0)
        if old != 0:
            steps[i] -= 1
        if new != 0:
            steps[i] += 1


@kernel()
def _largest_weight(
    levels: IntArray, differences: IntArray, totals: IntArray, total: int, hardest: int
) -> tuple[int, int]:
    """Largest weight for which every row has an interval that leaves a total of at most ``total - weight``, and its row.

    A row with slack g = total - totals[i] admits [left, right] with weight u when u is at most every level in it and
    (u - d[left]+)+ + (u - (-d[right+1])+)+ <= g (Engel 2005, theorem 4, in this form). ``hardest`` is looked at first.
    """
    rows, cols = levels.shape
    largest = total
    found = hardest
    for place in range(rows):
        if place == 0:
            i = hardest
        elif place <= hardest:
            i = place - 1
        else:
            i = place
        slack = total - totals[i]
        best = slack
        for left in range(cols):
            if best >= largest:
                break
            rise = max(differences[i, left], 0)
            if rise + slack <= best:
                continue
            lowest = levels[i, left]
            for right in range(left, cols):
                lowest = min(lowest, levels[i, right])
                if lowest <= best:
                    break
                fall = max(-differences[i, right + 1], 0)
                if slack <= abs(rise - fall):
                    weight = min(rise, fall) + slack
                else:
                    weight = (rise + fall + slack) // 2
                best = max(best, min(weight, lowest))
        if best < largest:
            largest = best
            found = i
    return largest, found


@kernel()
def _remaining_at_least(steps: IntArray, total: int, largest: int) -> int:
    """Segments still needed at least: one changes two differences of a row, and none weighs more than ``largest``."""
    most = 0
    for i in range(len(steps)):
        most = max(most, steps[i])
    return max((most + 1) // 2, (total + largest - 1) // largest)


@kernel()
def _free_pass(
    source: IntArray,
    limit: int,
    state: NDArray[np.uint64],
    vary: bool,
    weights: IntArray,
    left: IntArray,
    right: IntArray,
) -> int:
    """One greedy decomposition without interleaf constraint; returns the segments, or ``limit`` when it is not below.

    Each step takes the largest weight (with ``vary`` at random a smaller one) and in each row the interval that
    clears most differences; of equal ones those whose ends use up no slack, then the longest (with ``vary``: any).
    """
    rows, cols = source.shape
    levels = source.copy()
    differences = np.empty((rows, cols + 1), np.int64)
    totals = np.empty(rows, np.int64)
    steps = np.empty(rows, np.int64)
    _differences(levels, differences, totals, steps)
    count = 0
    hardest = 0
    while True:
        total = 0
        for i in range(rows):
            total = max(total, totals[i])
        if total == 0:
            return count
        if count + _remaining_at_least(steps, total, total) >= limit:
            return limit
        weight, hardest = _largest_weight(levels, differences, totals, total, hardest)
        if count + _remaining_at_least(steps, total, weight) >= limit:
            return limit
        if vary and weight > 1 and _random(state) % np.uint64(100) < np.uint64(15):
            weight -= 1 + int(np.int64(_random(state) % np.uint64(max(1, weight // 2))))
        for i in range(rows):
            slack = total - totals[i]
            first, last, best, ties = 0, 0, _NOTHING, 1
            if weight <= slack:
                best = 0
            for j in range(cols):
                step = differences[i, j]
                short = max(weight - max(step, 0), 0)
                if short > slack or levels[i, j] < weight:
                    continue
                start = (2 if step == weight else 0) - (2 if step == 0 else 0) + (1 if short == 0 else 0)
                if start + 3 < best:
                    continue
                for k in range(j, cols):
                    if levels[i, k] < weight:
                        break
                    fall = -differences[i, k + 1]
                    lack = max(weight - max(fall, 0), 0)
                    if short + lack > slack:
                        continue
                    score = start + (2 if fall == weight else 0) - (2 if fall == 0 else 0) + (1 if lack == 0 else 0)
                    if score > best:
                        first, last, best, ties = j, k + 1, score, 1
                    elif score == best:
                        ties += 1
                        if vary:
                            better = _random(state) % np.uint64(ties) == np.uint64(0)
                        else:
                            better = k + 1 - j > last - first
                        if better:
                            first, last = j, k + 1
            left[count, i] = first
            right[count, i] = last
            _take(levels, differences, totals, steps, i, first, last, weight)
        weights[count] = weight
        count += 1


@kernel()
def decompose_free(levels: IntArray, restarts: int, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """Segments of ``levels`` (rows, cols) >= 0 without interleaf constraint: weights (S,), left and right (S, rows).

    The total weight is the least possible; of ``restarts`` + 1 passes the one with fewest segments is kept.
    """
    rows, cols = levels.shape
    capacity = 1
    for i in range(rows):
        total = levels[i, 0]
        for j in range(1, cols):
            total += max(levels[i, j] - levels[i, j - 1], 0)
        capacity = max(capacity, total)
    state = _seeded(seed)
    weights = np.empty(capacity, np.int64)
    left = np.empty((capacity, rows), np.int64)
    right = np.empty((capacity, rows), np.int64)
    best = _free_pass(levels, capacity + 1, state, False, weights, left, right)
    best_weights, best_left, best_right = weights[:best].copy(), left[:best].copy(), right[:best].copy()
    for _ in range(restarts):
        count = _free_pass(levels, best, state, True, weights, left, right)
        if count < best:
            best = count
            best_weights, best_left, best_right = weights[:best].copy(), left[:best].copy(), right[:best].copy()
    return best_weights, best_left, best_right
