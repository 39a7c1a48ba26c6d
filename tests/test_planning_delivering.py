"""Fluence maps into deliveries: both modes split what is too wide, keep within limits, and scale to the printed digits."""

from __future__ import annotations

import numpy as np
import pytest
from machines_for_tests import generic_120

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam
from dicomplan.beams.limits import violations
from dicomplan.planning.delivering import part_metersets_mu, parts, sequence_plan, slide_plan, with_part_metersets
from dicomplan.planning.normalizing import scaled_deliveries

MACHINE = generic_120()


def wide_map(width_mm: float, rows: int = 6) -> tuple[BeamletMap, np.ndarray]:
    count = round(width_mm / 5.0)
    x_edges = 5.0 * (np.arange(count + 1) - count // 2)
    boundaries = MACHINE.mlc.leaf_boundaries_mm[27 : 28 + rows]
    beam = Beam(4, "4_G040", 40.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    one = BeamletMap(beam, 27, x_edges, boundaries, np.ones((rows, count), np.bool_))
    x = 0.5 * (x_edges[1:] + x_edges[:-1])
    fluence = 15.0 + 8.0 * np.cos(x / 17.0)[None, :] * np.linspace(0.5, 1.0, rows)[:, None]
    return one, fluence.ravel()


@pytest.mark.parametrize("mode", ["step_and_shoot", "sliding_window"])
def test_a_wide_map_becomes_carriage_groups_that_add_up(mode: str) -> None:
    one, fluence = wide_map(225.0)
    if mode == "sliding_window":
        plan = slide_plan([one], [fluence], MACHINE)
        assert len(plan.floors_mu) == len(plan.deliveries)
        assert all(item.moving for item in plan.deliveries)
    else:
        plan = sequence_plan([one], [fluence], MACHINE, 1.0)
        assert plan.floors_mu == ()
    assert [item.beam.name for item in plan.deliveries] == ["4_G040a", "4_G040b"]
    assert [item.beam.number for item in plan.deliveries] == [1, 2]
    total = np.zeros(one.active.shape)
    for item, source in zip(plan.deliveries, plan.wanted, strict=True):
        assert violations(item, MACHINE) == ()
        first = int(np.flatnonzero(np.isclose(one.x_edges_mm, source.x_edges_mm[0]))[0])
        total[:, first : first + source.fluence_mu.shape[1]] += source.fluence_mu
    np.testing.assert_allclose(total, one.filled(fluence))
    assert plan.errors[0].relative_l1 < 0.05


def test_moving_beams_scale_as_one_and_never_move_faster() -> None:
    maps, fluences = zip(*[wide_map(100.0), wide_map(60.0)], strict=True)
    plan = slide_plan(maps, fluences, MACHINE)
    assert [len(parts(item)) for item in plan.deliveries] == [1, 1]
    wanted = part_metersets_mu(plan.deliveries) * [0.4, 1.7]
    scaled = with_part_metersets(plan.deliveries, wanted)
    np.testing.assert_allclose(part_metersets_mu(scaled), wanted, rtol=1e-4)
    for before, after in zip(plan.deliveries, scaled, strict=True):
        assert violations(after, MACHINE) == ()
        assert after.dose_rate_mu_min <= before.dose_rate_mu_min
        for one, other in zip(before.segments, after.segments, strict=True):
            np.testing.assert_array_equal(one.end.leaf_positions_mm, other.end.leaf_positions_mm)


def test_segments_scale_one_by_one_but_not_below_the_least() -> None:
    one, fluence = wide_map(60.0)
    plan = sequence_plan([one], [fluence], MACHINE, 2.0)
    (item,) = plan.deliveries
    assert len(parts(item)) == len(item.segments) > 1
    halved = scaled_deliveries(plan.deliveries, 0.01, MACHINE.min_segment_meterset_mu)
    assert part_metersets_mu(halved) == pytest.approx(np.full(len(item.segments), 1.0))
