"""Smoothing of fluence: squared differences of neighbouring beamlets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Smoothing:
    """``weight`` (no unit) times the mean over pairs of neighbours of their squared difference, by ``scale`` squared.

    ``first`` and ``second`` (pairs,) int64 are beamlets side by side along a leaf or across leaves, each pair once;
    ``pair_weights`` (pairs,) float64 their weights (1 along the leaf, less across, say). ``scale`` is a typical fluence,
    in the unit of the fluence; None: the mean of the fluence that the solver begins with
    (:func:`dicomplan.optimization.solver.solve`). Smoother maps need fewer segments: Spirou et al., Med. Phys. 28
    (2001) 2105. Raises ValueError for lists of unlike length, beamlets below 0 or pair weights that add up to nothing.
    """

    first: IntArray
    second: IntArray
    pair_weights: FloatArray
    weight: float
    scale: float | None = None

    def __post_init__(self) -> None:
        lengths = {np.shape(self.first), np.shape(self.second), np.shape(self.pair_weights)}
        if len(lengths) != 1 or min(np.min(self.first, initial=0), np.min(self.second, initial=0)) < 0:
            raise ValueError(f"smoothing: pairs of shapes {sorted(lengths)}, beamlets from 0")
        if np.min(self.pair_weights, initial=0.0) < 0 or not np.sum(self.pair_weights) > 0:
            raise ValueError("smoothing: no pair has a positive weight")


def smoothing(term: Smoothing, fluence: FloatArray, scale: float) -> tuple[float, FloatArray]:
    """Value and gradient (beamlets,) of the smoothing term at ``fluence`` (beamlets,); convex."""
    difference = fluence[term.first] - fluence[term.second]
    factor = term.weight / (float(np.sum(term.pair_weights)) * scale * scale)
    pull = term.pair_weights * difference
    size = len(fluence)
    # bincount adds in the order of the pairs: the same bits each time
    difference_pull = np.bincount(term.first, pull, size) - np.bincount(term.second, pull, size)
    gradient = 2.0 * factor * np.asarray(difference_pull, dtype=np.float64)
    return factor * float(np.sum(pull * difference)), gradient
