"""Slow, obviously right versions of the kernels of ``dicomplan.optimization``."""

import numpy as np


def squares(dose, indices, weights, level, below, above):
    """Value and gradient of the sum of c w (d - level)^2."""
    value, gradient = 0.0, np.zeros(len(dose))
    for i, w in zip(indices, weights, strict=True):
        c = above if dose[i] > level else below
        value += c * w * (dose[i] - level) ** 2
        gradient[i] += 2 * c * w * (dose[i] - level)
    return value, gradient


def top_parts(values, weights, volume):
    """How much of each weight lies in the top ``volume``: hottest first, equal values share alike."""
    parts, left = np.zeros(len(values)), volume
    for value in sorted(set(values), reverse=True):
        equal = [k for k in range(len(values)) if values[k] == value]
        mass = sum(weights[k] for k in equal)
        taken = min(left, mass)
        for k in equal:
            parts[k] = weights[k] * taken / mass
        left -= taken
        if left <= 0:
            break
    return parts


def tail_mean(values, weights, volume):
    """Mean of the top ``volume`` and its derivative by each value."""
    parts = top_parts(values, weights, volume)
    return float(parts @ values) / parts.sum(), parts / parts.sum()


def squares_under_top(values, weights, level, volume, factor):
    """Sum of factor w (v - level)^2 over what is above ``level`` and not in the top ``volume``; and its derivative."""
    rest = np.asarray(weights) - top_parts(values, weights, volume)
    excess = np.maximum(np.asarray(values) - level, 0.0)
    return float(factor * rest @ excess**2), 2 * factor * rest * excess


def shifted_squares(dose, indices, weights, level, per_gray, multipliers, penalty):
    """Value and gradient of the augmented Lagrangian of (d - level) per_gray <= 0."""
    value, gradient = 0.0, np.zeros(len(dose))
    for i, w, m in zip(indices, weights, multipliers, strict=True):
        force = max(0.0, m + penalty * (dose[i] - level) * per_gray)
        value += w * (force**2 - m**2) / (2 * penalty)
        gradient[i] += w * force * per_gray
    return value, gradient
