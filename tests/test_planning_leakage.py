"""Leakage expected of a fluence: with its open fluence it is what a delivery of that fluence gives, everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines_for_tests import generic_120, with_moving_jaws
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.dose.engines import delivery_plane, plane_of_beamlets
from dicomplan.dose.fluence import FluencePlane, box_overlap, together
from dicomplan.machine.model import MachineModel
from dicomplan.planning.delivering import sequence_plan, slide_plan
from dicomplan.planning.leakage import expected_leakage

MACHINE = replace(generic_120(), min_segment_area_cm2=0.0)


def a_map(seed: int = 0, columns: int = 16) -> tuple[BeamletMap, NDArray[np.float64]]:
    """Ten levels of 3 MU, all of them used: what a quick sequence delivers exactly."""
    x_edges = 5.0 * (np.arange(columns + 1) - columns // 2)
    beam = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    one = BeamletMap(beam, 27, x_edges, MACHINE.mlc.leaf_boundaries_mm[27:36], np.ones((8, columns), np.bool_))
    levels = np.random.default_rng(seed).integers(0, 11, one.active.shape)
    levels[3, columns // 2] = 10
    return one, 3.0 * levels.ravel()


def delivered(one: BeamletMap, fluence: NDArray[np.float64], machine: MachineModel) -> FluencePlane:
    plan = sequence_plan([one], [fluence], machine, 3.0, restarts=1)
    segments = tuple(segment for item in plan.deliveries for segment in item.segments)
    return delivery_plane(BeamDelivery(one.beam, segments), machine)


@pytest.mark.parametrize("seed", range(3))
def test_open_fluence_and_leakage_are_what_is_delivered(seed: int) -> None:
    one, fluence = a_map(seed)
    (leak,) = expected_leakage([one], [fluence], MACHINE, "step_and_shoot")
    assert leak is not None
    opened = plane_of_beamlets(one.filled(fluence), one.x_edges_mm, one.y_edges_mm, MACHINE)
    found, exact = together(opened, leak.plane), delivered(one, fluence, MACHINE)
    np.testing.assert_allclose(found.x_mm, exact.x_mm)
    np.testing.assert_allclose(found.y_mm, exact.y_mm)
    np.testing.assert_allclose(found.values, exact.values, atol=1e-9 * exact.values.max())


def test_leakage_on_beamlets_is_the_mean_of_what_they_get_beside_their_fluence() -> None:
    flat = replace(MACHINE, beam=replace(MACHINE.beam, profile_factor=np.ones(2)))
    one, fluence = a_map()
    (leak,) = expected_leakage([one], [fluence], flat, "step_and_shoot")
    assert leak is not None
    plane = delivered(one, fluence, flat)
    by_x = box_overlap(one.x_edges_mm[:-1], one.x_edges_mm[1:], plane.x_mm)
    by_y = box_overlap(one.y_edges_mm[:-1], one.y_edges_mm[1:], plane.y_mm)
    pixels = by_y.sum(axis=1)[:, None] * by_x.sum(axis=1)[None, :]
    mean = (by_y @ plane.values @ by_x.T) / pixels
    np.testing.assert_allclose(leak.on_beamlets_mu, mean[one.active] - fluence, atol=1e-9)
    # no beamlet gets more than all of the meterset leaks where it is shut
    meterset = sum(item.meterset_mu for item in sequence_plan([one], [fluence], flat, 3.0).deliveries)
    assert leak.on_beamlets_mu.max() <= flat.mlc.transmission * meterset * (1.0 + 1e-9)
    assert leak.on_beamlets_mu.min() >= 0.0


def test_leakage_grows_with_the_fluence_and_is_nothing_behind_perfect_leaves() -> None:
    one, fluence = a_map()
    (leak,) = expected_leakage([one], [fluence], MACHINE, "step_and_shoot")
    (twice,) = expected_leakage([one], [2.0 * fluence], MACHINE, "step_and_shoot")
    assert leak is not None
    assert twice is not None
    np.testing.assert_allclose(twice.plane.values, 2.0 * leak.plane.values, atol=1e-9)
    perfect = replace(MACHINE, mlc=replace(MACHINE.mlc, transmission=0.0))
    (none,) = expected_leakage([one], [fluence], perfect, "step_and_shoot")
    assert none is not None
    assert not none.plane.values.any()
    assert expected_leakage([one], [0.0 * fluence], MACHINE, "step_and_shoot") == (None,)


def test_a_sweep_of_fluence_and_leakage_leaves_both() -> None:
    machine = with_moving_jaws()
    one, fluence = a_map()
    fluence = np.maximum(fluence, 9.0)  # above what any sweep leaves
    (leak,) = expected_leakage([one], [fluence], machine, "sliding_window")
    assert leak is not None
    wanted = fluence + leak.on_beamlets_mu
    plan = slide_plan([one], [wanted], machine)
    assert plan.delivered_mu[0][one.active] == pytest.approx(wanted, abs=0.01 * wanted.max())


def test_planes_of_different_places_add_up() -> None:
    one = FluencePlane(np.ones((2, 3)), np.array([0.5, 1.5, 2.5]), np.array([0.5, 1.5]))
    other = FluencePlane(np.full((2, 2), 2.0), np.array([2.5, 3.5]), np.array([-0.5, 0.5]))
    both = together(one, other)
    np.testing.assert_array_equal(both.x_mm, [0.5, 1.5, 2.5, 3.5])
    np.testing.assert_array_equal(both.y_mm, [-0.5, 0.5, 1.5])
    np.testing.assert_array_equal(both.values, [[0, 0, 2, 2], [1, 1, 3, 2], [1, 1, 1, 0]])
