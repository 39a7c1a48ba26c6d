"""Accurate dose between exact computations: exact where nothing changed, off by the fast engine's error of the change."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam
from dicomplan.dose.fluence import FluencePlane
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.planning.anchoring import AnchoredDose

GRID = VoxelGrid((2, 3, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
BEAM = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


@dataclass
class Engine:
    """Dose: ``gain`` times the sum of the plane, rising along x; counts its calls."""

    gain: float
    calls: list[int] = field(default_factory=list)

    @property
    def grid(self) -> VoxelGrid:
        return GRID

    def dose_gy_per_fraction(self, beam: Beam, plane: FluencePlane) -> NDArray[np.float32]:
        self.calls.append(beam.number)
        shape = np.broadcast_to(np.arange(1.0, 5.0), GRID.shape)
        return (self.gain * plane.values.sum() * shape).astype(np.float32)


def planes(value: float) -> list[tuple[Beam, FluencePlane]]:
    axis = np.array([-0.5, 0.5])
    return [(BEAM, FluencePlane(np.full((2, 2), value), axis, axis))]


def test_an_unchanged_fluence_gives_the_exact_dose() -> None:
    doses = AnchoredDose(Engine(1.0), Engine(1.1), fractions=3)
    exact = doses.exact(planes(0.5))
    assert exact.dose_gy[0, 0, 0] == np.float32(6.0)
    np.testing.assert_allclose(doses.near(planes(0.5)).dose_gy, exact.dose_gy, rtol=1e-6)


def test_only_the_change_carries_the_fast_engines_error() -> None:
    accurate = Engine(1.0)
    doses = AnchoredDose(accurate, Engine(1.1), fractions=3)
    doses.exact(planes(0.5))
    near = doses.near(planes(0.6))
    # 6 Gy exactly, and 1.1 times the 1.2 Gy that the change makes
    np.testing.assert_allclose(near.dose_gy[0, 0, 0], 6.0 + 1.1 * 1.2, rtol=1e-5)
    assert len(accurate.calls) == 1


def test_without_an_anchor_or_a_fast_engine_all_is_exact() -> None:
    alone = AnchoredDose(Engine(1.0), None, fractions=3)
    np.testing.assert_array_equal(alone.near(planes(0.7)).dose_gy, alone.exact(planes(0.7)).dose_gy)
    fresh = AnchoredDose(Engine(1.0), Engine(1.1), fractions=3)
    np.testing.assert_array_equal(fresh.near(planes(0.7)).dose_gy, alone.exact(planes(0.7)).dose_gy)


def test_dose_does_not_fall_below_nothing() -> None:
    doses = AnchoredDose(Engine(1.0), Engine(3.0), fractions=1)
    doses.exact(planes(0.5))
    assert float(doses.near(planes(0.0)).dose_gy.min()) == 0.0
