"""Hot and cold spots: dose, place and the structures there."""

import numpy as np
import pytest

from dicomplan.dose.volume import DoseVolume
from dicomplan.evaluation.hotspots import hot_spots, structures_at
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage

CT = VoxelGrid((20, 60, 60), (3.0, 1.0, 1.0), (-29.5, -29.5, -28.5))


def ball(center_mm, radius_mm):
    z, y, x = np.meshgrid(*(CT.axis_mm(axis) for axis in range(3)), indexing="ij")
    distance = np.sqrt((x - center_mm[0]) ** 2 + (y - center_mm[1]) ** 2 + (z - center_mm[2]) ** 2)
    return Coverage(CT, np.clip(radius_mm + 0.5 - distance, 0, 1).astype(np.float32))


def dose_with(peaks, background=10.0):
    """Background plus Gaussian peaks (x, y, z, height in Gy) of 4 mm."""
    grid = VoxelGrid((60, 60, 60), (1.0, 1.0, 1.0), (-29.0, -29.0, -29.0))
    z, y, x = np.meshgrid(*(grid.axis_mm(axis) for axis in range(3)), indexing="ij")
    dose = np.full(grid.shape, background)
    for px, py, pz, height in peaks:
        dose += height * np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / (2 * 4.0**2))
    return DoseVolume(grid, dose.astype(np.float32))


TARGET, CORD, BODY = ball((-10, 0, 0), 8), ball((12, 5, 3), 6), ball((0, 0, 0), 27)
OUTSIDE = Coverage(CT, BODY.fraction - np.minimum(BODY.fraction, TARGET.fraction))
STRUCTURES = {"BODY": BODY, "PTV": TARGET, "Cord": CORD}


def found(dose, targets=None):
    return hot_spots(dose, targets or {"PTV": TARGET}, all_targets=TARGET, outside=OUTSIDE, structures=STRUCTURES)


def test_hot_spots_lie_where_the_peaks_are():
    spots = found(dose_with([(-10, 0, 0, 60), (12, 5, 3, 40)]))
    assert np.linalg.norm(np.subtract(spots.inside.position_mm, (-10, 0, 0))) < 2
    assert np.linalg.norm(np.subtract(spots.outside.position_mm, (12, 5, 3))) < 2
    assert spots.inside.structures == ("PTV", "BODY")
    assert spots.outside.structures == ("Cord", "BODY")
    # 0.03 cc is a ball of 1.93 mm round the peak: exp(-1.93^2 / 32)
    assert spots.outside.dose_gy == pytest.approx(10 + 40 * np.exp(-(1.93**2) / 32), abs=1.0)
    assert spots.outside.dose_gy < spots.outside.extreme_gy <= 50.0


def test_cold_spot_of_each_target_and_the_coldest_of_all():
    cold = dose_with([(-10, 4, 0, -8), (12, 5, 3, -3)], background=60.0)
    spots = found(cold, {"PTV": TARGET, "Boost": CORD})
    assert np.linalg.norm(np.subtract(spots.coldest["PTV"].position_mm, (-10, 4, 0))) < 2
    assert spots.coldest["PTV"].dose_gy == pytest.approx(60 - 8 * np.exp(-(1.93**2) / 32), abs=0.3)
    assert spots.coldest["Boost"].dose_gy == pytest.approx(57.3, abs=0.3)
    assert spots.coldest_target == "PTV"


def test_nothing_outside_and_no_targets():
    nothing = Coverage(CT, np.zeros(CT.shape, dtype=np.float32))
    spots = hot_spots(dose_with([]), {"PTV": nothing}, all_targets=nothing, outside=BODY, structures={})
    assert spots.inside is None
    assert spots.coldest == {}
    assert spots.coldest_target is None
    assert spots.outside.structures == ()


def test_structures_at_a_place_smallest_first_and_none_beyond():
    assert structures_at((12.0, 5.0, 3.0), STRUCTURES) == ("Cord", "BODY")
    assert structures_at((0.0, 0.0, 0.0), STRUCTURES) == ("BODY",)
    assert structures_at((500.0, 0.0, 0.0), STRUCTURES) == ()
