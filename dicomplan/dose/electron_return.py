"""Electrons that are scattered back: what a boundary takes away from the dose before it, or adds.

The point kernels are those of endless water: at the last millimetres of a body, and before lung or air, the electrons are
missing that deeper water would send back, before bone and metal come more of them than water sends. A share of the energy
that electrons of the first interaction deposit is therefore taken from where it is deposited and carried against the beam.
The cones carry it further than the point kernels say (:func:`onward`), so that with what comes back the energy gets as far as in
endless water.

The share is f s / (1 + f s), s being the scattering of electrons by nuclei relative to water at equal electron density, in
proportion to the sum of Z (Z + 1) over the sum of Z, as in the theory of multiple scattering (ICRU report 35, 1984).
Cortical bone 1.47, titanium 3.03, gold 10.5: within 5 % a straight line in the electron density.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.kernel_fit import ConeSet, PolyKernel
from dicomplan.dose.terma import Terma
from dicomplan.dose.transport import DENSER, carry
from dicomplan.geometry.frames import BeamFrame

Float32Array = NDArray[np.float32]

RETURN_WATER = 0.10
"""f: what water sends back, as a fraction of what goes on. Set by the dose before the gold of gold_5x5 (../shared/reference/
egsnrc); it holds for the last voxels of the others, which were looked at but not fitted."""

RETURN_CM = 0.14
"""Mean path (g/cm2 of water) that they come back. Set by gold_5x5."""

SCATTERING_PER_DENSITY = 0.74
"""Growth of s with the electron density (relative to water) above soft tissue's, from the elements of cortical bone (ICRP),
titanium and gold."""


def onward(kernel: PolyKernel) -> PolyKernel:
    """The kernel of what goes on, before a share of it comes back: in water both together carry as far as ``kernel``.

    What comes back is share x :data:`RETURN_CM` nearer to the source on average, against the beam: so every cone's mean place is
    moved by as much with the beam. That makes forward cones longer and turns all a little towards the axis; sideways nothing
    moves.
    """
    ahead_cm = RETURN_WATER / (1 + RETURN_WATER) * RETURN_CM
    reach = 1.0 / kernel.primary_cm2_g
    along, across = reach * np.cos(kernel.angle_rad) + ahead_cm, reach * np.sin(kernel.angle_rad)
    angle = np.arctan2(across, along)
    before, after = (np.concatenate([[0.0], angles, [np.pi]]) for angles in (kernel.angle_rad, angle))
    moved = np.interp(kernel.edges_rad, before, after)
    within = np.concatenate([[0.0], np.cumsum(kernel.primary)])
    return replace(
        kernel,
        primary=np.diff(np.interp(kernel.edges_rad, moved, within)),
        primary_cm2_g=1.0 / np.interp(kernel.angle_rad, angle, np.hypot(along, across)),
    )


def electron_return(released: Terma, frame: BeamFrame, kernel: PolyKernel) -> tuple[Float32Array, Float32Array]:
    """Change of the dose to water (Gy per unit fluence, float32 (z, y, x)) by electrons that come back, and what is left of
    ``released.kept``. The energy stays the same but for what leaves the grid.

    The way there and back is along the beam's axis: the share is small, and what matters is on which side of a boundary it is
    deposited. The energy arrives in one exponential with the mean forward reach of all cones.
    """
    electron = released.electron_relative
    nothing = np.zeros_like(electron)
    reach = float((kernel.primary * np.cos(kernel.angle_rad) / kernel.primary_cm2_g).sum())
    taken = carry(released.primary, nothing, electron, released.grid, frame, _along_axis(1.0, reach))
    above = np.maximum(electron - np.float32(DENSER[0]), np.float32(0.0))
    strength = np.float32(RETURN_WATER) * (1 + np.float32(SCATTERING_PER_DENSITY) * above)
    share = strength / (1 + strength)
    taken *= share
    source, kept = taken * electron, released.kept
    if kept.size:
        source += kept * share
        kept = kept * (1 - share)
    back = carry(source, nothing, electron, released.grid, frame, _along_axis(-1.0, RETURN_CM))
    return back - taken, kept


def _along_axis(sign: float, reach_cm: float) -> ConeSet:
    """One direction with (1) or against (-1) the beam that takes all primary energy."""
    table = np.zeros((1, 5, 3))
    table[0, :, 0] = 1.0 / reach_cm, 1.0, 1.0, 0.0, 0.0
    return ConeSet(np.array([[0.0, 0.0, sign]]), table, np.array([[-1.0, 1.0]]))
