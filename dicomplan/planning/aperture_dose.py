"""Dose of apertures as the solver sees it: metersets and leaf positions in, dose out, and the derivative of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.optimization.solver import Solution
from dicomplan.sequencing.aperture_moves import ApertureFluence

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass
class ApertureDose:
    """Dose of metersets and leaf positions, which is not linear in these: a step of direct aperture optimisation.

    For the solver a dose operator whose :meth:`adjoint` is that of the derivative where :meth:`forward` was last asked.
    ``cells`` (cells,): what the last gradient said of the fluence on the fine maps.
    """

    fine: FactorisedInfluence
    step: ApertureFluence
    cells: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)
    _at: FloatArray | None = field(default=None, repr=False)

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return self.fine.voxel_count

    @property
    def beamlet_count(self) -> int:
        """Number of variables."""
        return len(self.step.start)

    def forward(self, variables: FloatArray) -> Float32Array:
        """Dose (voxels,) in Gy of the course."""
        self._at = np.array(variables, dtype=np.float64)
        return self.fine.forward(self.step.fluence(self._at))

    def adjoint(self, gradient: NDArray[np.floating]) -> FloatArray:
        """(variables,) gradient of a function of dose whose gradient (voxels,) is given."""
        self.cells = self.fine.adjoint(gradient)
        return self.step.pulled_back(self.step.start if self._at is None else self._at, self.cells)


def begun(variables: FloatArray, dose_gy: FloatArray) -> Solution:
    """A warm start from variables whose dose (voxels,) is known and of which nothing else is."""
    return Solution(
        fluence=variables,
        dose_gy=dose_gy,
        objective=(),
        term_values=(),
        states=(),
        excess_gy=(),
        limits_met=False,
        iterations=0,
        stopped="no descent",
        fluence_scale=float(variables.mean()),
    )
