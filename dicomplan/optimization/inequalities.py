"""Linear inequalities on a fluence that is not negative, and the greatest bound that a sum of them proves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_MARGIN = 1e-9  # of the largest slope of a beamlet: what a sum of inequalities rises at least, for the rounding of the program


@dataclass
class Inequalities:
    """Inequalities ``value + slope . x <= norm t``, each of one group (a limit's place; -1: a tangent)."""

    values: list[float] = field(default_factory=list)
    slopes: list[FloatArray] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)

    def add(self, value: float, slope: FloatArray, norm: float, group: int) -> None:
        """Add one; ``slope`` has a value for each beamlet."""
        self.values.append(value)
        self.slopes.append(slope)
        self.norms.append(norm)
        self.groups.append(group)

    def best(self) -> tuple[float, FloatArray, FloatArray]:
        """Greatest bound on t that they prove, the factor of each, and the fluence that the bound would leave.

        -inf, and factors and fluence of nothing, if they prove none.
        """
        from scipy.optimize import linprog

        values, slopes, norms = np.array(self.values), np.stack(self.slopes), np.array(self.norms)
        nothing = (-np.inf, np.zeros(len(values)), np.zeros(slopes.shape[1]))
        sizes = np.abs(slopes).max(axis=1)
        sizes[sizes == 0.0] = 1.0
        usable = self._usable(slopes)
        rows = np.abs(slopes[usable]).max(axis=0, initial=0.0) > 0.0
        if not (norms[usable] > 0.0).any():
            return nothing
        if not rows.any():
            return nothing
        # each inequality by its own size, each beamlet by its largest slope: every number is about 1
        scaled = slopes[np.ix_(usable, rows)] / sizes[usable, None]
        heights = np.abs(scaled).max(axis=0)
        scaled = scaled / heights
        unit = float(np.max(np.abs(norms[usable] / sizes[usable])))
        found = linprog(
            -values[usable] / sizes[usable],
            A_ub=-scaled.T,
            b_ub=np.full(scaled.shape[1], -_MARGIN),
            A_eq=(norms[usable] / sizes[usable])[None, :] / unit,
            b_eq=[1.0],
            method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if found.x is None or found.status != 0:
            return nothing
        factors = np.zeros(len(values))
        factors[usable] = np.maximum(found.x, 0.0) / sizes[usable]
        factors /= float(norms @ factors)
        fluence = np.zeros(slopes.shape[1])
        fluence[rows] = np.maximum(-found.ineqlin.marginals, 0.0) / heights
        # the program is only trusted to propose: what counts is the sum itself
        bound = float(values @ factors) if (factors @ slopes >= 0.0).all() else -np.inf
        return bound, factors, fluence

    @staticmethod
    def _usable(slopes: FloatArray) -> NDArray[np.bool_]:
        """Inequalities that fall in no beamlet in which none of the others rises."""
        usable = np.ones(len(slopes), dtype=np.bool_)
        while True:
            hopeless = ~(slopes[usable] > 0.0).any(axis=0)
            falls = (slopes[:, hopeless] < 0.0).any(axis=1) & usable
            if not falls.any():
                return usable
            usable &= ~falls
