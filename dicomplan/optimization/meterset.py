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
    meterset of a segment, the sum is the total meterset; of beamlets it is its part that passes the leaves. Raises
    ValueError for a negative weight or a scale that is not positive.
    """

    weight: float
    scale: float | None = None

    def __post_init__(self) -> None:
        if not self.weight >= 0.0 or (self.scale is not None and not self.scale > 0.0):
            raise ValueError(f"meterset: weight {self.weight}, scale {self.scale}")


def meterset(term: Meterset, fluence: FloatArray, scale: float) -> tuple[float, FloatArray]:
    """Value and gradient (beamlets,) of the term at ``fluence`` (beamlets,), none negative; linear, so convex."""
    factor = term.weight / (scale * len(fluence))
    return factor * float(np.sum(fluence)), np.full(len(fluence), factor)
