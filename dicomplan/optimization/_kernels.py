"""Numba kernels of the objective: sums over the voxels of one structure and their gradients.

They run on one thread: a structure of 300,000 voxels takes half a millisecond to five, the dose itself
a hundred, and sums have one order whatever the number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BINS = 4096


@kernel()
def squares(
    dose: FloatArray,
    indices: IntArray,
    weights: FloatArray,
    level: float,
    below: float,
    above: float,
    gradient: FloatArray,
) -> float:
    """Sum of c w (d - level)^2 with c = ``below`` or ``above`` by the sign of d - level; gradient is added.

    ``dose``, ``gradient`` (voxels,); ``indices``, ``weights`` (n,).
    """
    total = 0.0
    for k in range(len(indices)):
        excess = dose[indices[k]] - level
        factor = (above if excess > 0.0 else below) * weights[k] * excess
        if factor != 0.0:
            total += factor * excess
            gradient[indices[k]] += 2.0 * factor
    return total


@kernel()
def weighted_sum(dose: FloatArray, indices: IntArray, weights: FloatArray) -> float:
    """Sum of w d."""
    total = 0.0
    for k in range(len(indices)):
        total += weights[k] * dose[indices[k]]
    return total


@kernel()
def add_weights(indices: IntArray, weights: FloatArray, factor: float, gradient: FloatArray) -> None:
    """Add ``factor`` w to the gradient."""
    for k in range(len(indices)):
        gradient[indices[k]] += factor * weights[k]


@kernel()
def gather(dose: FloatArray, indices: IntArray, sign: float, values: FloatArray) -> float:
    """``values`` (n,) = sign d; returns the greatest."""
    highest = -np.inf
    for k in range(len(indices)):
        values[k] = sign * dose[indices[k]]
        highest = max(highest, values[k])
    return highest


@kernel()
def threshold_of_top(values: FloatArray, weights: FloatArray, volume: float) -> tuple[float, float]:
    """Least value t in the top ``volume``, and the share (0..1) of the weight at exactly t that belongs to it.

    A histogram finds the bin that holds t, the values of that bin are sorted. Values equal to t share what is left, so
    the answer does not depend on their order. All of them (least value, 1) if ``volume`` is the whole weight or more.
    """
    n = len(values)
    low, high = values[0], values[0]
    total = 0.0
    for k in range(n):
        low = min(low, values[k])
        high = max(high, values[k])
        total += weights[k]
    if volume >= total:
        return low, 1.0
    if high == low:
        return low, volume / total
    per_bin = _BINS / (high - low)
    mass = np.zeros(_BINS)
    for k in range(n):
        mass[min(int((values[k] - low) * per_bin), _BINS - 1)] += weights[k]
    above = 0.0
    chosen = _BINS - 1
    while chosen > 0 and above + mass[chosen] < volume:
        above += mass[chosen]
        chosen -= 1
    count = 0
    for k in range(n):
        if min(int((values[k] - low) * per_bin), _BINS - 1) == chosen:
            count += 1
    inside = np.empty(count)
    their = np.empty(count)
    count = 0
    for k in range(n):
        if min(int((values[k] - low) * per_bin), _BINS - 1) == chosen:
            inside[count] = values[k]
            their[count] = weights[k]
            count += 1
    order = np.argsort(inside)
    k = count - 1
    while k >= 0:
        value = inside[order[k]]
        equal = 0.0
        while k >= 0 and inside[order[k]] == value:
            equal += their[order[k]]
            k -= 1
        if above + equal >= volume:
            return value, min(max((volume - above) / equal, 0.0), 1.0)
        above += equal
    return inside[order[0]], 1.0  # rounding of the sums: the whole bin belongs to it


@kernel()
def top_sum(values: FloatArray, weights: FloatArray, threshold: float, share: float) -> float:
    """Sum of w v over the values above ``threshold`` and ``share`` of those at it."""
    total = 0.0
    for k in range(len(values)):
        if values[k] > threshold:
            total += weights[k] * values[k]
        elif values[k] == threshold:
            total += share * weights[k] * values[k]
    return total


@kernel()
def add_top(
    values: FloatArray,
    indices: IntArray,
    weights: FloatArray,
    threshold: float,
    share: float,
    factor: float,
    gradient: FloatArray,
) -> None:
    """Add ``factor`` w to the gradient of the values above ``threshold``, and ``share`` of it at those at it."""
    for k in range(len(values)):
        if values[k] > threshold:
            gradient[indices[k]] += factor * weights[k]
        elif values[k] == threshold:
            gradient[indices[k]] += factor * share * weights[k]


@kernel()
def squares_under_top(
    values: FloatArray,
    indices: IntArray,
    weights: FloatArray,
    level: float,
    threshold: float,
    share: float,
    factor: float,
    sign: float,
    gradient: FloatArray,
) -> float:
    """Sum of ``factor`` w (v - level)^2 over level < v <= threshold, those at the threshold but for their ``share``.

    v = sign d; the gradient with regard to d is added.
    """
    total = 0.0
    for k in range(len(values)):
        value = values[k]
        if value > level and value <= threshold:
            part = factor * weights[k] * (value - level)
            if value == threshold:
                part *= 1.0 - share
            total += part * (value - level)
            gradient[indices[k]] += 2.0 * sign * part
    return total


@kernel()
def shifted_squares(
    dose: FloatArray,
    indices: IntArray,
    weights: FloatArray,
    level: float,
    per_gray: float,
    multipliers: FloatArray,
    penalty: float,
    gradient: FloatArray,
) -> tuple[float, float]:
    """Augmented Lagrangian of ``(d - level) per_gray <= 0`` at each voxel (Nocedal and Wright 2006, section 17.4).

    Sum of w (max(0, m + p e)^2 - m^2) / (2 p) with e the scaled excess, m the multiplier of the voxel (n,) and p the
    penalty, and the sum of w max(0, m + p e). A negative ``per_gray`` turns the limit round. The gradient is added.
    """
    total = 0.0
    pull = 0.0
    for k in range(len(indices)):
        multiplier = multipliers[k]
        force = multiplier + penalty * per_gray * (dose[indices[k]] - level)
        total -= weights[k] * multiplier * multiplier
        if force > 0.0:
            total += weights[k] * force * force
            pull += weights[k] * force
            gradient[indices[k]] += weights[k] * force * per_gray
    return 0.5 * total / penalty, pull
