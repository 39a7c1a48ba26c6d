"""Plain twins of the sequencing kernels, straight from the definitions."""

from __future__ import annotations

import itertools

import numpy as np


def least_total_free(levels):
    """Largest row sum of positive differences (Engel 2005)."""
    most = 0
    for row in levels.tolist():
        padded = [0, *row]
        most = max(most, sum(max(0, b - a) for a, b in itertools.pairwise(padded)))
    return most


def least_total_interleaf(levels):
    """Longest path by relaxing all edges until nothing changes (Bellman-Ford), edges as in Kalinowski (2005)."""
    rows, cols = levels.shape
    a = levels.tolist()
    length = [[a[i][0]] + [-(10**9)] * (cols - 1) for i in range(rows)]
    changed = True
    while changed:
        changed = False
        for i in range(rows):
            for j in range(cols):
                reach = [length[i][j]]
                if j > 0:
                    reach.append(length[i][j - 1] + max(0, a[i][j] - a[i][j - 1]))
                reach += [length[k][j] - a[k][j] for k in (i - 1, i + 1) if 0 <= k < rows]
                if max(reach) > length[i][j]:
                    length[i][j] = max(reach)
                    changed = True
    return max(row[-1] for row in length)


def shapes(rows, cols, interleaf):
    """Every leaf shape (list of (left, right) per row) that the machine can take; closed pairs stand somewhere."""
    intervals = [(left, right) for left in range(cols + 1) for right in range(left, cols + 1)]
    for shape in itertools.product(intervals, repeat=rows):
        crossing = any(a[0] > b[1] or b[0] > a[1] for a, b in itertools.pairwise(shape))
        if not (interleaf and crossing):
            yield shape


def least_total_by_linear_program(levels, interleaf):
    """Least total weight over all shapes as a linear program: knows no formula at all."""
    from scipy.optimize import linprog

    rows, cols = levels.shape
    columns = set()
    for shape in shapes(rows, cols, interleaf):
        opened = [[left <= j < right for j in range(cols)] for left, right in shape]
        columns.add(tuple(np.array(opened, float).ravel()))
    matrix = np.array(sorted(columns)).T
    answer = linprog(np.ones(matrix.shape[1]), A_eq=matrix, b_eq=levels.ravel(), method="highs")
    assert answer.status == 0
    return answer.fun


def greedy_free(levels):
    """The first (not random) greedy pass, from the definition: every interval is tried by subtracting it."""

    def total(row):
        return sum(max(0, b - a) for a, b in itertools.pairwise([0, *row, 0]))

    def take(row, left, right, weight):
        return [value - weight if left <= j < right else value for j, value in enumerate(row)]

    rest = [list(map(int, row)) for row in levels.tolist()]
    cols = len(rest[0])
    intervals = [(0, 0)] + [(left, right) for left in range(cols) for right in range(left + 1, cols + 1)]
    weights, lefts, rights = [], [], []
    while any(map(any, rest)):
        aim = max(map(total, rest))

        def fits(row, weight, aim=aim):
            for left, right in intervals:
                less = take(row, left, right, weight)
                if min(less) >= 0 and total(less) <= aim - weight:
                    yield left, right, less

        weight = max(u for u in range(1, aim + 1) if all(any(True for _ in fits(row, u)) for row in rest))
        chosen = []
        for row in rest:
            best = None
            for left, right, less in fits(row, weight):
                score = 0
                if right > left:
                    for before, after in ((row, less),):
                        d_before = np.diff([0, *before, 0])
                        d_after = np.diff([0, *after, 0])
                        score += 2 * int((d_after == 0).sum() - (d_before == 0).sum())
                        score += int(d_before[left] >= weight) + int(-d_before[right] >= weight)
                if best is None or (score, right - left) > best[0]:
                    best = (score, right - left), left, right, less
            chosen.append(best)
        weights.append(weight)
        lefts.append([left for _, left, _, _ in chosen])
        rights.append([right for _, _, right, _ in chosen])
        rest = [less for _, _, _, less in chosen]
    return np.array(weights), np.array(lefts), np.array(rights)


def fluence_by_sampling(left_mm, right_mm, metersets, x_edges_mm, samples=1000):
    """(rows, cols) open fluence by counting points in each column."""
    left_mm, right_mm = np.asarray(left_mm), np.asarray(right_mm)
    result = np.zeros((left_mm.shape[1], len(x_edges_mm) - 1))
    for j, (low, high) in enumerate(itertools.pairwise(x_edges_mm)):
        points = low + (np.arange(samples) + 0.5) / samples * (high - low)
        for s, meterset in enumerate(metersets):
            inside = (left_mm[s][:, None] < points) & (points < right_mm[s][:, None])
            result[:, j] += meterset * inside.mean(axis=1)
    return result


def earliest_by_linear_program(fluence, widths, pace, gap, synchronised):
    """Least sum of the times at which leading leaves enter the columns, all demands as inequalities; None: infeasible."""
    from scipy.optimize import linprog

    rows, cols = fluence.shape

    def number(i, j):
        return i * cols + j

    above, limits = [], []

    def later(after, before, by):
        """times[after] >= times[before] + by."""
        row = np.zeros(rows * cols)
        row[before] += 1.0
        row[after] -= 1.0
        above.append(row)
        limits.append(-by)

    for i in range(rows):
        for j in range(cols - 1):
            later(number(i, j + 1), number(i, j), pace * widths[j] + max(fluence[i, j] - fluence[i, j + 1], 0.0))
            # the trailing leaf is at the next column's start no earlier than the leading one a gap beyond it
            if gap > 0:
                later(number(i, j), number(i, j + 1), gap - pace * widths[j] - fluence[i, j])
        for other in (i - 1, i + 1):
            if 0 <= other < rows:
                for j in range(cols):
                    if not synchronised:
                        later(number(i, j), number(other, j), -fluence[i, j])
                    elif fluence[i, j] <= fluence[other, j]:
                        later(number(i, j), number(other, j), 0.0)
                        later(number(other, j), number(i, j), fluence[i, j] - fluence[other, j])
    if not above:
        return np.zeros((rows, cols))
    found = linprog(np.ones(rows * cols), np.array(above), np.array(limits), bounds=(0.0, None))
    return found.x.reshape(rows, cols) if found.status == 0 else None


def largest_weight_interleaf(levels):
    """Greatest weight of a segment that leaves a total less by its weight: every shape and weight is tried."""
    rows, cols = levels.shape
    total = least_total_interleaf(levels)
    most = 0
    for shape in shapes(rows, cols, interleaf=True):
        opened = np.array([[left <= j < right for j in range(cols)] for left, right in shape])
        for weight in range(most + 1, total + 1):
            rest = levels - weight * opened
            if rest.min() >= 0 and least_total_interleaf(rest) == total - weight:
                most = weight
    return most
