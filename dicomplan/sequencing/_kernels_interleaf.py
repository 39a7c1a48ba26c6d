"""Numba kernels of leaf sequencing under the interleaf constraint: no leaf passes the opposed leaf of a neighbouring row.

A sweep (right leaf uncovers, left leaf covers, once) delivers the matrix a when its covering times t (rows, cols) satisfy

    t[i,0] >= a[i,0],   t[i,j] >= t[i,j-1] + max(0, a[i,j] - a[i,j-1]),   t[i,j] >= t[k,j] - a[k,j] for k = i - 1, i + 1,

uncovering at u = t - a; the longest path through these edges is the least total T (Kalinowski, Discrete Appl. Math. 152
(2005) 52). A segment open on [l, r) of each row, of weight w, leaves a matrix of total T - w exactly if there is such a t
that ends at T, rises by w or more at l, whose u rises by w or more at r, and in which a neighbour k uncovers the columns
of [l, r_k) w or more before row i covers them: cutting those w out of t is a sweep of what is left, and the reverse.
So the earliest and the latest t bound which intervals a row may have. Arrays have a column of zeros on both sides of the
matrix: column j of the matrix is column j + 1 here, and edges count from 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

IntArray = NDArray[np.int64]

_NOTHING = -1000
_UNLIMITED = 1 << 62
_ATTEMPTS = 2  # at each weight
_BEHIND = 1.1  # a restart that has so much more to deliver than the best pass had after as many segments is given up
_JUDGED_FROM = 4  # segments: before that all passes are much alike


@kernel(inline=True)
def _random_below(state: NDArray[np.uint64], count: int) -> int:
    """A number from 0 to ``count`` - 1 by xorshift64 (Marsaglia, J. Stat. Softw. 8 (2003) 14); ``state`` (1,) is advanced."""
    word = state[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    state[0] = word
    return int(np.int64(((word >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)))


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
def _earliest(levels: IntArray, limit: int, early: IntArray) -> int:
    """Fill ``early`` with the earliest covering times; returns their greatest, the least total.

    As soon as one is above ``limit`` it is returned and the rest left as it is. ``early[:, 0]`` must be 0.
    """
    rows, wide = levels.shape
    last = rows - 1
    for j in range(1, wide - 1):
        passed = 0
        for i in range(rows):
            time = early[i, j - 1] + max(levels[i, j] - levels[i, j - 1], 0)
            if i > 0:
                time = max(time, passed)
            early[i, j] = time
            passed = time - levels[i, j]
        top = early[last, j]
        passed = early[last, j] - levels[last, j]
        for i in range(last - 1, -1, -1):
            time = max(early[i, j], passed)
            early[i, j] = time
            passed = time - levels[i, j]
            top = max(top, time)
        if top > limit:
            return int(top)
    longest = 0
    for i in range(rows):
        longest = max(longest, early[i, wide - 2])
    return longest


@kernel()
def _latest(levels: IntArray, total: int, late: IntArray) -> None:
    """Fill ``late`` with the latest covering times of a sweep that ends at ``total``; beyond the last column ``total``."""
    rows, wide = levels.shape
    cols = wide - 2
    late[:, cols + 1] = total
    for j in range(cols, 0, -1):
        follows = 0
        for i in range(rows):
            time = late[i, j + 1]
            if j < cols:
                time -= max(levels[i, j + 1] - levels[i, j], 0)
            if i > 0:
                time = min(time, follows + levels[i, j])
            late[i, j] = time
            follows = time
        for i in range(rows - 2, -1, -1):
            follows = min(late[i, j], follows + levels[i, j])
            late[i, j] = follows


@kernel()
def _bounds(levels: IntArray, early: IntArray, late: IntArray, at: IntArray) -> None:
    """What each row alone allows; fill ``at`` (4, rows, cols + 2).

    ``at[0]``, ``at[1]``: the greatest rise of t and of u at a column. For an interval [l, r) of weight w, rising by ``rise``
    at l and falling by ``fall`` at r: at[2,i,l] + (w - rise)+ + (w - fall)+ <= at[3,i,r], or t ends after the latest.
    """
    rows, wide = levels.shape
    for i in range(rows):
        grown = 0
        for j in range(1, wide):
            step = levels[i, j] - levels[i, j - 1]
            rise, fall = max(step, 0), max(-step, 0)
            at[0, i, j] = late[i, j] - early[i, j - 1]
            at[1, i, j] = at[0, i, j] - step
            at[3, i, j] = late[i, j] - step - fall - grown
            grown += rise
            at[2, i, j] = early[i, j - 1] + rise - grown


@kernel()
def _largest_weight(levels: IntArray, at: IntArray, total: int, hardest: int) -> tuple[int, int]:
    """An upper bound of a segment's weight from the rows alone, and the row that sets it; ``hardest`` is looked at first."""
    rows, wide = levels.shape
    cols = wide - 2
    largest = total
    found = hardest
    for place in range(rows):
        if place == 0:
            i = hardest
        elif place <= hardest:
            i = place - 1
        else:
            i = place
        best = 0
        for left in range(1, cols + 2):
            if at[0, i, left] <= best:
                continue
            rise = max(levels[i, left] - levels[i, left - 1], 0)
            best = max(best, at[0, i, left] - rise)  # closed here
            if best >= largest or left > cols:
                break
            lowest = levels[i, left]
            for right in range(left + 1, cols + 2):
                lowest = min(lowest, levels[i, right - 1])
                if lowest <= best:
                    break
                weight = min(lowest, at[0, i, left], at[1, i, right])
                slack = at[3, i, right] - at[2, i, left]
                if weight <= best or slack < 0:
                    continue
                fall = max(levels[i, right - 1] - levels[i, right], 0)
                if slack <= abs(rise - fall):
                    weight = min(weight, min(rise, fall) + slack)
                else:
                    weight = min(weight, (rise + fall + slack) // 2)
                best = max(best, weight)
            if best >= largest:
                break
        if best < largest:
            largest = best
            found = i
            if largest <= 1:
                break
    return largest, found


@kernel()
def _propose(
    levels: IntArray,
    early: IntArray,
    late: IntArray,
    at: IntArray,
    weight: int,
    state: NDArray[np.uint64],
    vary: bool,
    first: int,
    left: IntArray,
    right: IntArray,
) -> bool:
    """A segment of this weight that each row and each pair of neighbours allow; False where a row is left without one.

    From row ``first`` on to the last, then back from it to row 0. In each row the interval that clears most
    differences; of equal ones the longest (with ``vary``: any).
    """
    rows, wide = levels.shape
    cols = wide - 2
    for turn in range(rows):
        if turn < rows - first:
            i = first + turn
            k = i - 1
        else:
            i = rows - 1 - turn
            k = i + 1
        low, high, least_left, most_right = 1, cols + 1, 1, cols + 1
        if turn > 0:
            low, high = left[k], right[k]
            least_left = high
            while (
                least_left > 1
                and late[i, least_left - 1] - early[k, least_left - 1] + levels[k, least_left - 1] >= weight
            ):
                least_left -= 1
            most_right = low
            while most_right <= cols and late[k, most_right] - early[i, most_right] + levels[i, most_right] >= weight:
                most_right += 1
        best, ties, best_left, best_right = _NOTHING, 1, -1, -1
        for begin in range(least_left, high + 1):
            if at[0, i, begin] < weight:
                continue
            step = levels[i, begin] - levels[i, begin - 1]
            rise = max(step, 0)
            if low <= begin <= most_right and at[0, i, begin] - rise >= weight:
                if best < 0:
                    best, ties, best_left, best_right = 0, 1, begin, begin
                elif best == 0 and vary:
                    ties += 1
                    if _random_below(state, ties) == 0:
                        best_left, best_right = begin, begin
            if begin > cols:
                break
            short = max(weight - rise, 0)
            start = (2 if step == weight else 0) - (2 if step == 0 else 0) + (1 if short == 0 else 0)
            if start + 3 < best:
                continue
            used = at[2, i, begin] + short
            for end in range(begin + 1, most_right + 1):
                if levels[i, end - 1] < weight:
                    break
                if end < low or at[1, i, end] < weight:
                    continue
                fall = levels[i, end - 1] - levels[i, end]
                lack = max(weight - max(fall, 0), 0)
                if used + lack > at[3, i, end]:
                    continue
                score = start + (2 if fall == weight else 0) - (2 if fall == 0 else 0) + (1 if lack == 0 else 0)
                if score > best:
                    best, ties, best_left, best_right = score, 1, begin, end
                elif score == best:
                    ties += 1
                    if vary:
                        better = _random_below(state, ties) == 0
                    else:
                        better = end - begin > best_right - best_left
                    if better:
                        best_left, best_right = begin, end
        if best_left < 0:
            return False
        left[i] = best_left
        right[i] = best_right
    return True


@kernel()
def _sweep_segment(levels: IntArray, early: IntArray, total: int, left: IntArray, right: IntArray) -> int:
    """The segment that lasts longest in the earliest sweep, which can always be had; returns its weight (>= 1)."""
    rows, wide = levels.shape
    events = np.zeros(total + 1, np.bool_)
    events[0] = True
    events[total] = True
    for i in range(rows):
        for j in range(1, wide - 1):
            events[early[i, j]] = True
            events[early[i, j] - levels[i, j]] = True
    begin, longest, last = 0, 0, 0
    for time in range(1, total + 1):
        if events[time]:
            if time - last > longest:
                begin, longest = last, time - last
            last = time
    for i in range(rows):
        covered, uncovered = 1, 1
        for j in range(1, wide - 1):
            if early[i, j] <= begin:
                covered += 1
            if early[i, j] - levels[i, j] <= begin:
                uncovered += 1
        left[i] = covered
        right[i] = uncovered
    return longest


@kernel()
def _most_steps(levels: IntArray) -> int:
    """The greatest number of differences that are not zero in a row: a segment changes two of them."""
    most = 0
    rows, wide = levels.shape
    for i in range(rows):
        steps = 0
        for j in range(1, wide):
            if levels[i, j] != levels[i, j - 1]:
                steps += 1
        most = max(most, steps)
    return most


@kernel()
def _pass(
    source: IntArray,
    limit: int,
    state: NDArray[np.uint64],
    vary: bool,
    ahead: IntArray,
    store: IntArray,
    weights: IntArray,
    left: IntArray,
    right: IntArray,
    totals: IntArray,
) -> int:
    """One greedy decomposition; returns the segments, or ``limit`` when it is given up or not below.

    Each step proposes segments from the largest weight downward, until one leaves a total that is less by its weight.
    ``totals`` takes the total before each segment, ``ahead`` holds those of the best pass so far.
    """
    rows, cols = source.shape
    levels, rest, early, late, after = store[0], store[1], store[2], store[3], store[4]
    at = store[5:9]
    levels[:, 1 : cols + 1] = source
    count = 0
    hardest = 0
    total = _earliest(levels, _UNLIMITED, early)
    while total > 0:
        totals[count] = total
        if vary and count >= _JUDGED_FROM and total > _BEHIND * ahead[count]:
            return limit
        if count + (_most_steps(levels) + 1) // 2 >= limit:
            return limit
        _latest(levels, total, late)
        _bounds(levels, early, late, at)
        largest, hardest = _largest_weight(levels, at, total, hardest)
        if count + (total + largest - 1) // largest >= limit:
            return limit
        if vary and largest > 1 and _random_below(state, 100) < 15:
            largest -= 1
        chosen = 0
        for attempt in range(_ATTEMPTS * largest):
            weight = largest - attempt // _ATTEMPTS
            first = _random_below(state, rows) if vary else hardest
            random = vary or attempt % _ATTEMPTS > 0
            if not _propose(levels, early, late, at, weight, state, random, first, left[count], right[count]):
                continue
            for i in range(rows):
                for j in range(cols + 2):
                    rest[i, j] = levels[i, j]
                for j in range(left[count, i], right[count, i]):
                    rest[i, j] -= weight
            if _earliest(rest, total - weight, after) <= total - weight:
                chosen = weight
                break
        if chosen == 0:
            chosen = _sweep_segment(levels, early, total, left[count], right[count])
            for i in range(rows):
                for j in range(left[count, i], right[count, i]):
                    levels[i, j] -= chosen
            total = _earliest(levels, _UNLIMITED, early)
        else:
            total -= chosen
            levels, rest = rest, levels
            early, after = after, early
        weights[count] = chosen
        count += 1
    return count


@kernel()
def interleaf_total(levels: IntArray) -> int:
    """Least total weight of ``levels`` (rows, cols) when no leaf may pass the opposed leaf of a neighbouring row."""
    rows, cols = levels.shape
    padded = np.zeros((rows, cols + 2), np.int64)
    padded[:, 1 : cols + 1] = levels
    return _earliest(padded, _UNLIMITED, np.zeros((rows, cols + 2), np.int64))


@kernel()
def largest_interleaf_weight(levels: IntArray) -> int:
    """Upper bound of the weight of a segment that leaves the least total possible, as every step of a pass begins with."""
    rows, cols = levels.shape
    store = np.zeros((7, rows, cols + 2), np.int64)
    store[0, :, 1 : cols + 1] = levels
    total = _earliest(store[0], _UNLIMITED, store[1])
    _latest(store[0], total, store[2])
    _bounds(store[0], store[1], store[2], store[3:])
    return _largest_weight(store[0], store[3:], total, 0)[0]


@kernel()
def decompose_interleaf(levels: IntArray, restarts: int, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """Segments of ``levels`` (rows, cols) >= 0: weights (S,), left and right (S, rows), at a total of :func:`interleaf_total`.

    Of ``restarts`` + 1 passes the one with fewest segments is kept; restarts that fall behind it are given up. A closed
    row has left = right at a place that its neighbours admit.
    """
    rows, cols = levels.shape
    capacity = max(interleaf_total(levels), 1)
    state = _seeded(seed)
    store = np.zeros((9, rows, cols + 2), np.int64)
    weights = np.empty(capacity, np.int64)
    left = np.empty((capacity, rows), np.int64)
    right = np.empty((capacity, rows), np.int64)
    totals = np.zeros(capacity, np.int64)
    best = _pass(levels, capacity + 1, state, False, totals, store, weights, left, right, totals)
    best_weights, best_left, best_right = weights[:best].copy(), left[:best].copy(), right[:best].copy()
    ahead = totals.copy()
    for _ in range(restarts):
        count = _pass(levels, best, state, True, ahead, store, weights, left, right, totals)
        if count < best:
            best = count
            best_weights, best_left, best_right = weights[:best].copy(), left[:best].copy(), right[:best].copy()
            ahead[:best] = totals[:best]
    return best_weights, best_left - 1, best_right - 1
