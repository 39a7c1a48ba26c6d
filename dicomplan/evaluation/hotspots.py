"""Where the dose is highest, inside the targets and outside them, and where targets are coldest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dicomplan.dose.volume import DoseVolume
from dicomplan.metrics.sampling import dose_samples
from dicomplan.patient.case import Coverage

SPOT_CC = 0.03
"""Volume of a spot in cm3: what TG-263 and clinical protocols take for a point."""


@dataclass(frozen=True)
class Spot:
    """A hot or cold spot: its dose in Gy, its place in patient coordinates (x, y, z; mm), the structures that lie there.

    ``dose_gy`` is the least dose in the hottest (or highest in the coldest) 0.03 cc; the place is that of the single
    highest (lowest) dose. ``extreme_gy`` is the dose there.
    """

    dose_gy: float
    extreme_gy: float
    position_mm: tuple[float, float, float]
    structures: tuple[str, ...]


@dataclass(frozen=True)
class HotSpots:
    """Hottest 0.03 cc inside and outside the targets, and the coldest 0.03 cc of each target by its name.

    None where there is no such volume.
    """

    inside: Spot | None
    outside: Spot | None
    coldest: Mapping[str, Spot]

    @property
    def coldest_target(self) -> str | None:
        """Name of the target whose coldest 0.03 cc gets least, or None."""
        return min(self.coldest, key=lambda name: self.coldest[name].dose_gy) if self.coldest else None


def structures_at(position_mm: tuple[float, float, float], coverages: Mapping[str, Coverage]) -> tuple[str, ...]:
    """Names of the structures that cover the cell round a patient point (mm) at least half, smallest structure first."""
    found = []
    for name, coverage in coverages.items():
        index = np.rint(coverage.grid.index_from_patient(position_mm)).astype(int)
        inside = (index >= 0).all() and (index < np.array(coverage.grid.shape)).all()
        if inside and coverage.fraction[tuple(index)] >= 0.5:
            found.append((coverage.volume_cc, name))
    return tuple(name for _, name in sorted(found))


def hot_spots(
    dose: DoseVolume,
    targets: Mapping[str, Coverage],
    *,
    all_targets: Coverage,
    outside: Coverage,
    structures: Mapping[str, Coverage],
) -> HotSpots:
    """Hottest 0.03 cc within ``all_targets`` (their union) and ``outside`` (BODY without them), coldest of each target.

    ``structures`` are those that a spot may be said to lie in. Raises ValueError where grids have different axes.
    """
    coldest = {name: _spot(coverage, dose, structures, hot=False) for name, coverage in targets.items()}
    return HotSpots(
        inside=_spot(all_targets, dose, structures, hot=True),
        outside=_spot(outside, dose, structures, hot=True),
        coldest={name: spot for name, spot in coldest.items() if spot is not None},
    )


def _spot(coverage: Coverage, dose: DoseVolume, structures: Mapping[str, Coverage], *, hot: bool) -> Spot | None:
    samples = dose_samples(coverage, dose.dose_gy, dose.grid)
    if samples.volume_cc <= 0:
        return None
    place = samples.max_position_mm if hot else samples.min_position_mm
    return Spot(
        dose_gy=samples.hottest_gy(SPOT_CC) if hot else samples.coldest_gy(SPOT_CC),
        extreme_gy=samples.max_gy if hot else samples.min_gy,
        position_mm=place,
        structures=structures_at(place, structures),
    )
