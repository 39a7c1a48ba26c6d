"""Total meterset: the mean fluence as a term."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Meterset:
    """``weight`` (no unit) times the mean fluence of all beamlets, by ``scale``.

    ``scale`` is a typical fluence, in the unit of the fluence; None: the mean of the fluence that the solver begins with
    (:func:`dicomplan.optimization.solver.solve`), so that the term is the weight at the start. Where a variable is the
    meterset of a segment, the sum is the total meterset; of beamlets it is its part that passes the leaves. ``count``:
    only so many variables, the first, are meant (the others are leaf positions). Raises ValueError for a negative weight,
    a scale that is not positive, or a count below 1.
    """

    weight: float
    scale: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if not self.weight >= 0.0 or (self.scale is not None and not self.scale > 0.0):
            raise ValueError(f"meterset: weight {self.weight}, scale {self.scale}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"meterset of {self.count} variables")


def meterset(term: Meterset, fluence: FloatArray, scale: float) -> tuple[float, FloatArray]:
    """Value and gradient (beamlets,) of the term at ``fluence`` (beamlets,), none negative; linear, so convex."""
    count = len(fluence) if term.count is None else term.count
    factor = term.weight / (scale * count)
    gradient = np.zeros(len(fluence))
    gradient[:count] = factor
    return factor * float(np.sum(fluence[:count])), gradient
