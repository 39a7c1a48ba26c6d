"""Electrons of a beam that hardens on its way: the deeper they are set free, the further they go.

The cones carry the electrons of the spectrum behind :data:`~dicomplan.dose.kernel_fit.PRIMARY_DEPTH_CM` of water. Behind
other depths their mean reach is another one (sideways by -2.5 % at the surface of 6 MV and by +20 % at 30 cm, forward by -3
and +24 %), and hardly their directions: so the exponent of the primary energy is divided by the ratio of the reaches sideways
at the water-equivalent depth of each place. Sideways, because that is what penumbrae and narrow beams tell; forward it is
felt at the surface alone. Electrons get less far than the depth changes: the place where they are stopped stands for the one
where they are set free.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.coarse import coarse_depth_mm, coarse_grid
from dicomplan.dose.kernel_fit import PRIMARY_DEPTH_CM, electron_reach_cm
from dicomplan.dose.point_kernels import PointKernels
from dicomplan.dose.terma import Terma
from dicomplan.geometry.frames import BeamFrame
from dicomplan.machine.model import BeamModel

Float32Array = NDArray[np.float32]

_DEPTHS_CM = np.linspace(0.0, 100.0, 101)


def stopping_density(released: Terma, frame: BeamFrame, beam: BeamModel, kernels: PointKernels) -> Float32Array:
    """Electron density (z, y, x) times the reach that the cones have over that at each voxel's depth.

    Depths are traced on the coarse grid and interpolated.
    """
    reach = electron_reach_cm(beam, np.append(_DEPTHS_CM, PRIMARY_DEPTH_CM), kernels)
    coarse = coarse_grid(released.grid)
    depth_cm = 0.1 * coarse_depth_mm(coarse, released.electron_relative, frame)
    factor = np.interp(depth_cm, _DEPTHS_CM, reach[-1] / reach[:-1]).astype(np.float32)
    stopping = coarse.interpolated(factor)
    stopping *= released.electron_relative
    return stopping
