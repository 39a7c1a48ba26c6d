"""Fluence maps and segments: what segments deliver on a map, how far that is from what was wanted, integer levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Segment, stills
from dicomplan.machine.model import MachineModel
from dicomplan.sequencing.apertures import open_intervals

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_STEPS_TRIED = 64


@dataclass(frozen=True)
class FluenceError:
    """Difference of two fluence maps: ``relative_l1`` = sum|found - wanted| / sum wanted; ``max_mu`` = max|found - wanted|."""

    relative_l1: float
    max_mu: float


def fluence_error(found_mu: FloatArray, wanted_mu: FloatArray) -> FluenceError:
    """How far the fluence ``found_mu`` is from ``wanted_mu`` (both (rows, cols), MU); see :class:`FluenceError`.

    Relative to the sum of what was found where nothing was wanted (then 1, or 0 if nothing was found either).
    """
    difference = np.abs(np.asarray(found_mu) - np.asarray(wanted_mu))
    if difference.size == 0:
        return FluenceError(0.0, 0.0)
    scale = float(np.sum(wanted_mu)) or float(np.sum(found_mu)) or 1.0
    return FluenceError(float(difference.sum()) / scale, float(difference.max()))


def discretised(
    fluence_mu: FloatArray, *, levels: int | None = None, step_mu: float | None = None
) -> tuple[IntArray, float]:
    """Integer levels and the step (MU) with which ``levels * step`` is the map ``fluence_mu`` (rows, cols) >= 0.

    Give ``step_mu`` for a fixed step (nearest multiples), or the greatest number of ``levels``: then the step is
    chosen that leaves the least squared error, by trying steps between those at which the highest value lies half a
    level above and below the top level, each improved by alternate rounding and least squares (step = <F,K>/<K,K>).
    A map of zeros gives zeros and a step of 1. Raises ValueError if neither or both are given, or not positive.
    """
    fluence = np.asarray(fluence_mu, np.float64)
    if (levels is None) == (step_mu is None):
        raise ValueError("give either levels or step_mu")
    if fluence.size and fluence.min() < 0:
        raise ValueError(f"a fluence is not negative, found {fluence.min():g} MU")
    if step_mu is not None:
        if not step_mu > 0:
            raise ValueError(f"step_mu is positive, found {step_mu:g}")
        return np.floor(fluence / step_mu + 0.5).astype(np.int64), float(step_mu)
    assert levels is not None
    if levels < 1:
        raise ValueError(f"levels are at least 1, found {levels}")
    highest = float(fluence.max()) if fluence.size else 0.0
    if highest <= 0:
        return np.zeros(fluence.shape, np.int64), 1.0
    best: tuple[float, IntArray, float] | None = None
    for trial in np.linspace(highest / (levels + 0.499), highest / (levels - 0.5), _STEPS_TRIED):
        step = float(trial)
        for _ in range(3):
            whole = np.minimum(np.floor(fluence / step + 0.5), levels)
            squared = float((whole * whole).sum())
            if squared == 0:
                break
            step = float((fluence * whole).sum()) / squared
        error = float(((fluence - step * whole) ** 2).sum())
        if best is None or error < best[0]:
            best = error, whole.astype(np.int64), step
    assert best is not None
    return best[1], best[2]


def open_fractions(left_mm: FloatArray, right_mm: FloatArray, x_edges_mm: FloatArray) -> FloatArray:
    """(..., cols) fraction of each column that lies within the interval [left, right] (each (...,), mm)."""
    low, high = x_edges_mm[:-1], x_edges_mm[1:]
    covered = np.minimum(right_mm[..., None], high) - np.maximum(left_mm[..., None], low)
    fractions: FloatArray = np.clip(covered, 0.0, None) / (high - low)
    return fractions


def radiation_edges(left_mm: FloatArray, right_mm: FloatArray, machine: MachineModel) -> tuple[FloatArray, FloatArray]:
    """Edges of radiation of pairs whose leaf tips stand at ``left_mm`` and ``right_mm``: farther out by the leaf ends' offset.

    Leaves that touch are closed.
    """
    outward = np.where(right_mm > left_mm, machine.mlc.leaf_end_offset_mm, 0.0)
    return left_mm - outward, right_mm + outward


def fluence_of_segments(
    segments: Sequence[Segment], x_edges_mm: FloatArray, leaf_pairs: range, machine: MachineModel
) -> FloatArray:
    """(rows, cols) open fluence, MU, that ``segments`` deliver on the map of ``leaf_pairs`` (from 0) and column edges.

    The mean over each column of what lies between the edges of radiation inside the X jaws, the gaps of parked pairs included;
    transmission and source size are the dose engine's. A pair that a Y jaw covers in part counts as if uncovered.
    """
    edges = np.asarray(x_edges_mm, np.float64)
    if not segments:
        return np.zeros((len(leaf_pairs), len(edges) - 1))
    segments = stills(segments)
    left, right = open_intervals([segment.aperture for segment in segments], machine)
    rows = slice(leaf_pairs.start, leaf_pairs.stop)
    metersets = np.array([segment.meterset_mu for segment in segments])
    opened = open_fractions(*radiation_edges(left[:, rows], right[:, rows], machine), edges)
    total: FloatArray = np.einsum("s,srj->rj", metersets, opened)
    return total
