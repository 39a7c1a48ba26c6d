"""The voxels that are optimised on, and which of them each objective is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from dicomplan.dose.between import RowsOfDose
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.plan.derive import AIR_DENSITY_G_CM3, ALL_SCENARIOS, Region
from dicomplan.plan.matching import BODY
from dicomplan.planning.border import BorderPoints, border_points
from dicomplan.planning.case import PlanningCase

Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

SHELL_MM = 12.0
"""Round the targets, where dose falls steeply, every voxel is looked at up to this distance."""

_THINNING = 2  # elsewhere every second voxel along each axis stands for its neighbours
_LARGE_CC = 1500.0  # structures larger than this are thinned out too
_SMALL_CC = 150.0  # organs up to this have points at their border: beyond, it is a small part of them
_NEAR = 0.25  # a face to a voxel that is covered less than this lies near the border


@dataclass(frozen=True)
class OptimizationVoxels:
    """``indices`` (n,) linear on the dose grid, rising; ``stands_for`` (n,) voxels that each one counts for.

    The optimiser's dose vector has a row for each voxel, then one for each of the ``border`` points, interpolated as goals
    are judged: ``rows`` (n + m, n). ``scenarios``: how often all that stands in it, one after the other: with the
    isocentre where it is, then at each of the template's shifts.
    """

    indices: IntArray
    stands_for: NDArray[np.float64]
    border: BorderPoints
    rows: RowsOfDose
    scenarios: int = 1

    @property
    def holders(self) -> IntArray:
        """(rows,) place in the list of voxels of the voxel that each row of one scenario is or lies in."""
        return np.concatenate([np.arange(len(self.indices)), self.border.holder])

    def dose_gy(self, accurate_gy: Float32Array) -> NDArray[np.float64]:
        """(rows,) of one scenario: an accurate dose (z, y, x), Gy, at voxels and points."""
        return np.asarray(self.rows.dose(accurate_gy.ravel()[self.indices].astype(np.float64)))

    def difference_gy(self, accurate_gy: Float32Array, optimised_gy: NDArray[np.floating]) -> NDArray[np.float64]:
        """(scenarios rows,) an accurate dose (z, y, x) minus the optimiser's (scenarios rows,), both Gy.

        Where the isocentre is moved the accurate dose is not known: there the difference is taken to be the same.
        """
        own = np.asarray(optimised_gy[: self.rows.count], dtype=np.float64)
        return np.tile(self.dose_gy(accurate_gy) - own, self.scenarios)


def optimization_voxels(case: PlanningCase, structures: Sequence[str]) -> OptimizationVoxels:
    """All voxels of the structures that objectives name and of a shell round the targets; a lattice of the rest of BODY.

    And points where targets end, and small structures of which more is asked than a mean.
    """
    grid = case.density.grid
    dense = np.zeros(grid.shape, dtype=np.bool_)
    targets = tuple(dict.fromkeys(target.name for target in case.resolved.targets))
    for name in structures:
        coverage = case.coverages[name]
        if name in targets or coverage.volume_cc <= _LARGE_CC:
            dense |= coverage_on_grid(coverage, grid) > 0
    dense |= _distance_to(case, targets) <= SHELL_MM
    inside = case.body > 0
    bordered = _bordered(case, targets)
    cut = inside & _at_borders(case, bordered)
    dense |= _grown(cut)
    lattice = np.zeros(grid.shape, dtype=np.bool_)
    lattice[::_THINNING, ::_THINNING, ::_THINNING] = True
    chosen = inside & (dense | lattice)
    indices = np.flatnonzero(chosen)
    stands_for = np.where(dense.ravel()[indices], 1.0, float(_THINNING**3))
    robust = case.resolved.template.robust
    border = border_points(case, bordered, np.flatnonzero(cut.ravel()[indices]), indices)
    rows = _rows(case, border, indices)
    return OptimizationVoxels(indices, stands_for, border, rows, 1 if robust is None else 1 + len(robust.shifts_mm))


def _bordered(case: PlanningCase, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The targets, and small structures of which more is asked than a mean: what is hot in an organ is its border."""
    asked = (*case.resolved.constraints, *case.resolved.goals)
    names = (one.structure for one in asked if one.goal.metric.kind != "mean" and one.structure != BODY)
    small = (name for name in names if 0.0 < case.coverages[name].volume_cc <= _SMALL_CC)
    return tuple(dict.fromkeys((*targets, *small)))


def voxel_sets(
    case: PlanningCase, voxels: OptimizationVoxels, regions: Sequence[Region]
) -> dict[Region, VoxelSet | None]:
    """The rows of each region (voxels, and points where borders are) with covered volumes (cm3); None for no volume."""
    holders = voxels.holders
    inside = voxels.indices[holders]  # place on the dose grid
    covered: dict[str, Float32Array] = {}
    far: dict[tuple[str, ...], Float32Array] = {}
    asked = any(one.reachable or one.counted for one in regions)
    reachable = _reachable(case).ravel()[inside] if asked else None
    deep = _deep(case).ravel()[inside] if any(one.through_air for one in regions) else None
    volume_cc = case.density.grid.voxel_volume_cc * np.concatenate(
        [voxels.stands_for, np.full(len(voxels.border.part), 1.0 / voxels.border.parts**3)]
    )
    result: dict[Region, VoxelSet | None] = {}
    for region in regions:
        if region.structure not in covered:
            covered[region.structure] = _covered(case, region.structure, voxels)
        fraction = covered[region.structure]
        if region.without:
            if region.without not in far:
                far[region.without] = _distance_to(case, region.without).ravel()[inside]
            fraction = np.where(far[region.without] > region.margin_mm, fraction, np.float32(0.0))
        if region.reachable and reachable is not None:
            fraction = np.where(reachable, fraction, np.float32(0.0))
        held = (deep if region.through_air else reachable) if region.counted else None
        found = _voxel_set(region.structure, fraction, volume_cc, held)
        result[region] = found if found is None else _in_scenario(found, region.scenario, voxels)
    return result


def reachable_fraction(case: PlanningCase, structure: str) -> Float32Array:
    """(z, y, x) covered fraction of a target without its points in air or just under the skin."""
    part: Float32Array = np.where(_reachable(case), _on_grid(case, structure), np.float32(0.0))
    return part


def _covered(case: PlanningCase, structure: str, voxels: OptimizationVoxels) -> Float32Array:
    """(rows,) covered fraction of each voxel and point: where a structure has points, it has them in all voxels that are cut."""
    whole = case.body if structure == BODY else _on_grid(case, structure)
    of_voxels = whole.ravel()[voxels.indices]
    border = voxels.border
    if structure not in border.structures:
        return np.concatenate([of_voxels, np.zeros(len(border.part), dtype=np.float32)])
    of_voxels[border.cells] = 0.0
    return np.concatenate([of_voxels, border.covered(case, structure, voxels.indices)])


def _voxel_set(
    name: str, fraction: Float32Array, volume_cc: NDArray[np.float64], held: NDArray[np.bool_] | None = None
) -> VoxelSet | None:
    """The covered rows; those not ``held`` count by their volume, but as if they were hardly covered."""
    used = np.flatnonzero(fraction > 1e-3)
    if len(used) == 0:
        return None
    part = fraction[used].astype(np.float64)
    coverage = part if held is None else np.where(held[used], part, 0.0)
    return VoxelSet(name, used, part * volume_cc[used], coverage, float(volume_cc[used].min()))


def _in_scenario(found: VoxelSet, scenario: int, voxels: OptimizationVoxels) -> VoxelSet:
    """The rows of a set where a scenario has them in the dose vector; those of all scenarios share the volume."""
    if scenario == 0:
        return found
    chosen = range(voxels.scenarios) if scenario == ALL_SCENARIOS else (scenario,)
    copies = len(chosen)
    return VoxelSet(
        found.name,
        np.concatenate([found.indices + one * voxels.rows.count for one in chosen]),
        np.tile(found.weights / copies, copies),
        None if found.coverage is None else np.tile(found.coverage, copies),
        None if found.cell is None else found.cell / copies,
    )


def _on_grid(case: PlanningCase, structure: str) -> Float32Array:
    return coverage_on_grid(case.coverages[structure], case.density.grid)


def _grown(part: NDArray[np.bool_], corners: bool = True) -> NDArray[np.bool_]:
    """With the neighbours of each voxel: all 26, or the six that share a face."""
    from scipy.ndimage import binary_dilation, generate_binary_structure

    result: NDArray[np.bool_] = binary_dilation(part, generate_binary_structure(3, 3 if corners else 1))
    return result


def _at_borders(case: PlanningCase, structures: tuple[str, ...]) -> NDArray[np.bool_]:
    """Voxels that a structure covers in part, or whole with its border along one of their faces."""
    result = np.zeros(case.density.grid.shape, dtype=np.bool_)
    for name in structures:
        covered = _on_grid(case, name)
        outside = np.pad(covered < _NEAR, 1, constant_values=True)
        beside = _grown(outside, corners=False)[1:-1, 1:-1, 1:-1]
        result |= (covered > 1e-3) & ((covered < 0.999) | beside)
    return result


def _rows(case: PlanningCase, border: BorderPoints, indices: IntArray) -> RowsOfDose:
    """Every voxel as it is, then the points: trilinear between voxels, held beyond the grid's outermost centres.

    Where BODY ends dose is 0, as in what is judged.
    """
    shape = case.density.grid.shape
    place = np.full(int(np.prod(shape)), -1, dtype=np.int64)
    place[indices] = np.arange(len(indices))
    where = np.array(np.unravel_index(indices[border.holder], shape))
    offset = border.place
    beside = np.clip(where + np.sign(offset).astype(np.int64), 0, np.array(shape)[:, None] - 1)
    row, column, weight = [np.arange(len(indices))], [np.arange(len(indices))], [np.ones(len(indices))]
    for corner in np.ndindex(2, 2, 2):
        at = np.where(np.array(corner)[:, None] == 1, beside, where)
        share = np.prod(np.where(np.array(corner)[:, None] == 1, np.abs(offset), 1.0 - np.abs(offset)), axis=0)
        found = place[np.ravel_multi_index(tuple(at), shape)]
        used = (found >= 0) & (share > 0.0)
        row.append(len(indices) + np.flatnonzero(used))
        column.append(found[used])
        weight.append(share[used])
    entries = (np.concatenate(weight).astype(np.float32), (np.concatenate(row), np.concatenate(column)))
    shape_of_rows = (len(indices) + len(border.part), len(indices))
    return RowsOfDose(coo_array(entries, shape=shape_of_rows).tocsr())


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
