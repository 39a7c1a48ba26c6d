"""The voxels that are optimised on, and which of them each objective is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.optimization.voxels import VoxelSet
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.plan.derive import AIR_DENSITY_G_CM3, ALL_SCENARIOS, Region
from dicomplan.plan.matching import BODY
from dicomplan.planning.case import PlanningCase

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

SHELL_MM = 12.0
"""Round the targets, where dose falls steeply, every voxel is looked at up to this distance."""

_THINNING = 2  # elsewhere every second voxel along each axis stands for its neighbours
_LARGE_CC = 1500.0  # structures larger than this are thinned out too


@dataclass(frozen=True)
class OptimizationVoxels:
    """``indices`` (n,) linear on the dose grid, rising; ``stands_for`` (n,) voxels that each one counts for.

    ``scenarios``: how often they stand in the optimiser's dose vector, one after the other: with the isocentre where it is,
    then at each of the template's shifts.
    """

    indices: IntArray
    stands_for: NDArray[np.float64]
    scenarios: int = 1

    def difference_gy(self, accurate_gy: Float32Array, optimised_gy: NDArray[np.floating]) -> NDArray[np.float64]:
        """(scenarios n,) an accurate dose (z, y, x) minus the optimiser's (scenarios n,), both Gy.

        Where the isocentre is moved the accurate dose is not known: there the difference is taken to be the same.
        """
        own = np.asarray(optimised_gy[: len(self.indices)], dtype=np.float64)
        return np.tile(accurate_gy.ravel()[self.indices].astype(np.float64) - own, self.scenarios)


def optimization_voxels(case: PlanningCase, structures: Sequence[str]) -> OptimizationVoxels:
    """All voxels of the structures that objectives name and of a shell round the targets; a lattice of the rest of BODY."""
    grid = case.density.grid
    dense = np.zeros(grid.shape, dtype=np.bool_)
    targets = {target.name for target in case.resolved.targets}
    for name in structures:
        coverage = case.coverages[name]
        if name in targets or coverage.volume_cc <= _LARGE_CC:
            dense |= coverage_on_grid(coverage, grid) > 0
    dense |= _distance_to(case, tuple(targets)) <= SHELL_MM
    inside = case.body > 0
    lattice = np.zeros(grid.shape, dtype=np.bool_)
    lattice[::_THINNING, ::_THINNING, ::_THINNING] = True
    chosen = inside & (dense | lattice)
    indices = np.flatnonzero(chosen)
    stands_for = np.where(dense.ravel()[indices], 1.0, float(_THINNING**3))
    robust = case.resolved.template.robust
    return OptimizationVoxels(indices, stands_for, 1 if robust is None else 1 + len(robust.shifts_mm))


def voxel_sets(
    case: PlanningCase, voxels: OptimizationVoxels, regions: Sequence[Region]
) -> dict[Region, VoxelSet | None]:
    """The voxels of each region with their covered volumes (cm3); None where a region holds none."""
    covered: dict[str, Float32Array] = {}
    far: dict[tuple[str, ...], Float32Array] = {}
    asked = any(one.reachable or one.counted for one in regions)
    reachable = _reachable(case).ravel()[voxels.indices] if asked else None
    deep = _deep(case).ravel()[voxels.indices] if any(one.through_air for one in regions) else None
    result: dict[Region, VoxelSet | None] = {}
    for region in regions:
        if region.structure not in covered:
            whole = case.body if region.structure == BODY else _on_grid(case, region.structure)
            covered[region.structure] = whole.ravel()[voxels.indices]
        fraction = covered[region.structure]
        if region.without:
            if region.without not in far:
                far[region.without] = _distance_to(case, region.without).ravel()[voxels.indices]
            fraction = np.where(far[region.without] > region.margin_mm, fraction, np.float32(0.0))
        if region.reachable and reachable is not None:
            fraction = np.where(reachable, fraction, np.float32(0.0))
        held = (deep if region.through_air else reachable) if region.counted else None
        found = _voxel_set(region.structure, fraction, voxels, case.density.grid.voxel_volume_cc, held)
        result[region] = found if found is None else _in_scenario(found, region.scenario, voxels)
    return result


def reachable_fraction(case: PlanningCase, structure: str) -> Float32Array:
    """(z, y, x) covered fraction of a target without its points in air or just under the skin."""
    part: Float32Array = np.where(_reachable(case), _on_grid(case, structure), np.float32(0.0))
    return part


def _voxel_set(
    name: str,
    fraction: Float32Array,
    voxels: OptimizationVoxels,
    voxel_cc: float,
    held: NDArray[np.bool_] | None = None,
) -> VoxelSet | None:
    """The covered voxels; those not ``held`` count by their volume, but as if they were hardly covered."""
    used = np.flatnonzero(fraction > 1e-3)
    if len(used) == 0:
        return None
    part = fraction[used].astype(np.float64)
    coverage = part if held is None else np.where(held[used], part, 0.0)
    return VoxelSet(name, used, part * voxels.stands_for[used] * voxel_cc, coverage)


def _in_scenario(found: VoxelSet, scenario: int, voxels: OptimizationVoxels) -> VoxelSet:
    """The voxels of a set where a scenario has them in the dose vector; those of all scenarios share the volume."""
    if scenario == 0:
        return found
    chosen = range(voxels.scenarios) if scenario == ALL_SCENARIOS else (scenario,)
    copies = len(chosen)
    return VoxelSet(
        found.name,
        np.concatenate([found.indices + one * len(voxels.indices) for one in chosen]),
        np.tile(found.weights / copies, copies),
        None if found.coverage is None else np.tile(found.coverage, copies),
    )


def _on_grid(case: PlanningCase, structure: str) -> Float32Array:
    return coverage_on_grid(case.coverages[structure], case.density.grid)


def _distance_to(case: PlanningCase, structures: tuple[str, ...]) -> Float32Array:
    """Distance in mm of each voxel centre to the nearest voxel that one of the structures covers at least half."""
    from scipy.ndimage import distance_transform_edt

    grid = case.density.grid
    outside = np.ones(grid.shape, dtype=np.bool_)
    for name in structures:
        outside &= _on_grid(case, name) < 0.5
    if outside.all():
        return np.full(grid.shape, np.inf, dtype=np.float32)
    distance: Float32Array = distance_transform_edt(outside, sampling=grid.spacing_mm).astype(np.float32)
    return distance


def _reachable(case: PlanningCase) -> NDArray[np.bool_]:
    """Voxels in tissue and deeper under the skin than where dose builds up."""
    result: NDArray[np.bool_] = _deep(case) & (case.density.mass_g_cm3 >= AIR_DENSITY_G_CM3)
    return result


def _deep(case: PlanningCase) -> NDArray[np.bool_]:
    """Voxels deeper under the skin than where dose builds up."""
    from scipy.ndimage import distance_transform_edt

    grid = case.density.grid
    inside = np.pad(case.body >= 0.5, 1)
    depth = distance_transform_edt(inside, sampling=grid.spacing_mm)[1:-1, 1:-1, 1:-1]
    # from the centre to the nearest outer centre: the surface lies half a voxel before that
    result: NDArray[np.bool_] = depth - 0.5 * min(grid.spacing_mm) > case.resolved.template.skin_mm
    return result
