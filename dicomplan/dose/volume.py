"""DoseVolume: a dose distribution on its grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid


@dataclass(frozen=True)
class DoseVolume:
    """Dose of the whole course in Gy, float32 ``(z, y, x)`` on ``grid``."""

    grid: VoxelGrid
    dose_gy: NDArray[np.float32]
