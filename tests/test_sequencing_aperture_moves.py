"""One step of direct aperture optimisation: what moves add to the fluence, and that no move leaves the machine's limits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.machine.library import load_machine
from dicomplan.sequencing.aperture_moves import aperture_moves, fine_map, moved
from dicomplan.sequencing.apertures import open_intervals
from dicomplan.sequencing.step_and_shoot import sequence

MACHINE = load_machine("generic_6mv")
FIRST, ROWS, COLUMNS = 24, 12, 14
BEAM = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
EDGES = np.arange(-7, 8) * 5.0


def coarse_map():
    y_edges = MACHINE.mlc.leaf_boundaries_mm[FIRST : FIRST + ROWS + 1]
    return BeamletMap(BEAM, FIRST, EDGES, y_edges, np.ones((ROWS, COLUMNS), dtype=bool))


def delivery(seed, machine=MACHINE):
    generator = np.random.default_rng(seed)
    fluence = generator.integers(0, 6, (ROWS, COLUMNS)) * 3.0
    return BeamDelivery(BEAM, sequence(fluence, EDGES, FIRST, machine, step_mu=3.0).segments)


def exact_fluence(item, fine, machine=MACHINE):
    """Open fluence (rows, cols) of a delivery on a fine map, by the share of each cell that is open."""
    total = np.zeros(fine.active.shape)
    left, right = open_intervals([one.aperture for one in item.segments], machine)
    rows = slice(fine.first_leaf_pair, fine.first_leaf_pair + len(fine.active))
    offset = machine.mlc.leaf_end_offset_mm
    for k, one in enumerate(item.segments):
        low, high = left[k, rows], right[k, rows]
        covered = np.minimum((high + offset)[:, None], fine.x_edges_mm[1:]) - np.maximum(
            (low - offset)[:, None], fine.x_edges_mm[:-1]
        )
        total += one.meterset_mu * np.where((high > low)[:, None], np.clip(covered, 0, None), 0) / 2.5
    return total


def step_of(item, trust=3.0):
    fine = fine_map(coarse_map(), 2.5, 10.0)
    return fine, aperture_moves([item], [fine], MACHINE, trust, floor_mu=1.0)


def test_metersets_alone_give_the_exact_fluence():
    item = delivery(1)
    fine, step = step_of(item)
    still = step.start.copy()
    still[step.first_move :] = 0.0
    found = (step.cells @ still).reshape(fine.active.shape)
    floor = exact_fluence(replace(item, segments=tuple(replace(s, meterset_mu=1.0) for s in item.segments)), fine)
    np.testing.assert_allclose(found + floor, exact_fluence(item, fine), atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_moves_add_what_they_uncover(seed):
    """In every row the fluence added by small moves is that of the apertures set anew, to the printed digits."""
    item = delivery(seed)
    fine, step = step_of(item)
    generator = np.random.default_rng(seed)
    variables = step.start.copy()
    # metersets stay: a product of both changes is of second order
    variables[step.first_move :] = generator.random(len(step.inward_mm)) * step.most[step.first_move :]
    added = (step.cells @ (variables - step.start)).reshape(fine.active.shape).sum(axis=1)
    after = exact_fluence(moved([item], step, variables, MACHINE)[0], fine).sum(axis=1)
    before = exact_fluence(item, fine).sum(axis=1)
    scale = before.max()
    np.testing.assert_allclose(added, after - before, atol=2e-3 * scale)


def test_a_move_lies_where_the_leaf_goes():
    item = delivery(2)
    fine, step = step_of(item)
    column = step.first_move
    number, segment, pair, bank = step.ends[0]
    assert (number, bank) == (0, 0)
    left, _ = open_intervals([item.segments[segment].aperture], MACHINE)
    edge = left[0, pair] - MACHINE.mlc.leaf_end_offset_mm
    unit = np.zeros(len(step.start))
    unit[column] = 1.0
    cells = (step.cells @ unit).reshape(fine.active.shape)
    row, columns = np.nonzero(cells)
    assert set(row) == {pair - FIRST}
    assert fine.x_edges_mm[columns.min() + 1] > edge - 3.0
    assert fine.x_edges_mm[columns.max()] < edge + 3.0
    assert cells.sum() * 2.5 == pytest.approx(item.segments[segment].meterset_mu, rel=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0.5, 6.0))
def test_no_move_leaves_the_limits(seed, trust):
    item = delivery(seed % 7)
    _, step = step_of(item, trust)
    generator = np.random.default_rng(seed)
    variables = generator.random(len(step.start)) * np.minimum(step.most, 10.0 / step.unit_mu)
    variables[step.first_move :] = np.round(generator.random(len(step.inward_mm))) * step.most[step.first_move :]
    (after,) = moved([item], step, variables, MACHINE)
    assert not violations(after, MACHINE)
    assert len(after.segments) == len(item.segments)


def test_where_neighbours_bind_it_is_refused():
    machine = replace(MACHINE, mlc=replace(MACHINE.mlc, interdigitation=False))
    item = delivery(1, machine)
    with pytest.raises(ValueError, match="leaf by leaf"):
        aperture_moves([item], [fine_map(coarse_map(), 2.5, 10.0)], machine, 3.0, 1.0)
