"""Apertures from nothing, and better ones from those that there are: within limits and numbers, nearer to a wanted dose."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.optimize import nnls
from test_influence import plan as phantom_plan
from test_planning_levels import fluences

from dicomplan.beams.limits import violations
from dicomplan.dose.influence import factorised_influence
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import Region
from dicomplan.planning.aperture_dose import ApertureDose
from dicomplan.planning.delivering import part_metersets_mu, sequence_plan
from dicomplan.planning.generating import first_apertures, generated, instead_of
from dicomplan.planning.levels import steps_by_dose
from dicomplan.sequencing.aperture_moves import FINE_MARGIN_MM, FINE_STEP_MM, aperture_fluence, fine_map
from dicomplan.sequencing.fluence import fluence_of_segments

NAME, LEVEL = "generic_6mv", 20.0
MOST = 18


@cache
def phantom():
    """Operator on the fine maps, machine, beamlet maps, and the dose that the fluence gives without transmission."""
    operator, engine, maps = phantom_plan(NAME)
    finer = [fine_map(one, FINE_STEP_MM, FINE_MARGIN_MM) for one in maps]
    samples = [engine.samples(one.beam) for one in maps]
    fine = factorised_influence(finer, samples, pencil_kernel(engine.machine.beam), engine.machine, 25)
    wanted = operator.forward(np.concatenate(fluences())).astype(np.float64)
    return fine, engine.machine, maps, wanted


def distance(deliveries):
    """Root of the mean square, Gy, between the dose of deliveries and the wanted one."""
    fine, machine, _, wanted = phantom()
    maps = [beam.beamlets for beam in fine.beams]
    step = aperture_fluence(deliveries, maps, machine, 0.1, 0.0)
    return float(np.sqrt(np.mean((ApertureDose(fine, step).forward(step.start) - wanted) ** 2)))


@cache
def grown_plan():
    fine, machine, maps, wanted = phantom()
    first = first_apertures(maps, fluences(), machine)
    whole = VoxelSet("all", np.arange(len(wanted)), np.ones(len(wanted)))
    sets = {Region("all"): whole}
    found = generated(first.deliveries, fine, wanted, np.zeros(len(wanted)), sets, ["all"], LEVEL, machine, MOST, 1.0)
    return first, found


def best_weights(deliveries):
    """The same apertures with the best metersets there are (non-negative least squares): the distance that is left."""
    fine, machine, _, wanted = phantom()
    maps = [beam.beamlets for beam in fine.beams]
    step = aperture_fluence(deliveries, maps, machine, 0.1, 0.0)
    dose = ApertureDose(fine, step)
    columns = []
    for k in range(step.count):
        alone = step.start.copy()
        alone[: step.count] = 0.0
        alone[k] = 1.0
        columns.append(dose.forward(alone).astype(np.float64))
    return nnls(np.stack(columns, axis=1), wanted)[1] / np.sqrt(len(wanted))


def test_metersets_are_saved_where_dose_hardly_minds():
    fine, machine, _, wanted = phantom()
    first, found = grown_plan()
    sets = {Region("all"): VoxelSet("all", np.arange(len(wanted)), np.ones(len(wanted)))}
    lavish = generated(
        first.deliveries,
        fine,
        wanted,
        np.zeros(len(wanted)),
        sets,
        ["all"],
        LEVEL,
        machine,
        MOST,
        1.0,
        meterset_weight=0.0,
    )
    assert part_metersets_mu(found).sum() < 0.97 * part_metersets_mu(lavish).sum()
    assert distance(found) < distance(lavish) + 0.01 * LEVEL


def test_it_is_within_limits_and_numbers():
    first, found = grown_plan()
    _, machine, _, _ = phantom()
    assert sum(len(item.segments) for item in found) == MOST
    assert [item.beam for item in found] == [item.beam for item in first.deliveries]
    assert all(violations(item, machine) == () for item in found)
    assert part_metersets_mu(found).min() >= 1.0


def test_leaf_positions_bring_sequenced_segments_nearer_than_their_best_weights():
    """The number of segments stays; the same objective (dose alone), minimised over positions as well."""
    operator, _, _ = phantom_plan(NAME)
    fine, machine, maps, wanted = phantom()
    steps = steps_by_dose(maps, fluences(), machine, operator, 1e-6, MOST)
    sequenced = sequence_plan(maps, fluences(), machine, steps).deliveries
    count = sum(len(item.segments) for item in sequenced)
    whole = {Region("all"): VoxelSet("all", np.arange(len(wanted)), np.ones(len(wanted)))}
    offset = np.zeros(len(wanted))
    moved = generated(sequenced, fine, wanted, offset, whole, ["all"], LEVEL, machine, count, 1.0, meterset_weight=0.0)
    assert sum(len(item.segments) for item in moved) == count
    assert all(violations(item, machine) == () for item in moved)
    assert distance(moved) < 0.85 * best_weights(sequenced)


def test_more_apertures_come_nearer():
    first, found = grown_plan()
    assert distance(found) < 0.3 * distance(first.deliveries)


def test_what_is_told_of_the_fluence_is_that_of_its_apertures():
    first, found = grown_plan()
    _, machine, maps, _ = phantom()
    plan = instead_of(first, found, maps, fluences(), machine)
    assert plan.deliveries == found
    for one, total, error, fluence, item in zip(maps, plan.delivered_mu, plan.errors, fluences(), found, strict=True):
        pairs = range(one.first_leaf_pair, one.first_leaf_pair + len(one.active))
        np.testing.assert_allclose(total, fluence_of_segments(item.segments, one.x_edges_mm, pairs, machine))
        wanted = one.filled(fluence)
        assert error.relative_l1 == pytest.approx(np.abs(total - wanted).sum() / wanted.sum())
    for source, one, fluence in zip(plan.wanted, maps, fluences(), strict=True):
        left = int(np.searchsorted(one.x_edges_mm, source.x_edges_mm[0] - 1e-6))
        part = one.filled(fluence)[:, left : left + source.fluence_mu.shape[1]]
        assert (source.fluence_mu <= part + 1e-9).all()
        assert source.fluence_mu.sum() > 0.9 * part.sum()
