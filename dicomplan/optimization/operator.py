"""What the optimiser needs of a dose engine: a linear map from fluence to dose and its adjoint."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class DoseOperator(Protocol):
    """Linear map from beamlet fluence to the dose of the whole course on a list of voxels.

    ``forward`` takes (beamlets,) float64 and returns (voxels,) float32 or float64 in Gy; ``adjoint`` takes
    (voxels,) float64 and returns (beamlets,). The two must be adjoint to one another within rounding, else the gradient
    is wrong and the line search stops early.
    """

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        ...

    @property
    def beamlet_count(self) -> int:
        """Number of beamlets."""
        ...

    def forward(self, fluence: FloatArray, /) -> NDArray[Any]:
        """Dose in Gy (voxels,) of a fluence (beamlets,)."""
        ...

    def adjoint(self, weights: FloatArray, /) -> NDArray[Any]:
        """Transpose of ``forward``: (beamlets,) from (voxels,)."""
        ...


@runtime_checkable
class PartedOperator(DoseOperator, Protocol):
    """An operator that can be had on some of its voxels alone, for less than all of them cost."""

    def on_voxels(self, rows: NDArray[np.int64], /) -> DoseOperator:
        """The same map to the voxels ``rows`` (n,), rising places in the list of all; doses agree to the last bit."""
        ...
