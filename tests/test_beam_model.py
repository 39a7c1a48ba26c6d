"""The beam model's effects on fluence and dose: sources, leaf ends, tongue and groove, softening, electrons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collapsed_cone_cases import beam, box, frame, rectangle
from scipy.interpolate import RegularGridInterpolator

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.dose.collapsed_cone import collapsed_cone_dose
from dicomplan.dose.engines import collapsed_cone_photons_cm2_per_mu, delivery_plane
from dicomplan.dose.fluence import (
    aperture_transmission,
    both_sources,
    box_overlap,
    calibration_field_fluence,
    delivered_plane,
    extra_focal_plane,
    open_plane,
    plane_axes,
    profile_factor,
)
from dicomplan.dose.pencil_beam import (
    beam_samples,
    blurred_sigma_mm,
    medium,
    pencil_beam_dose,
    photons_cm2_per_mu,
)
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.dose.terma import terma
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import MachineModel
from dicomplan.patient.density import DensityVolume

PLAIN = load_machine("generic_6mv")


def with_extra_focal(weight: float = 0.08, fwhm_mm: float = 40.0, tail: float = 0.0) -> MachineModel:
    beam = replace(PLAIN.beam, extra_focal_weight=weight, extra_focal_fwhm_mm=fwhm_mm, extra_focal_distance_mm=125.0)
    return replace(PLAIN, beam=replace(beam, extra_focal_tail=tail))


def leaves(machine: MachineModel, opened: dict[int, tuple[float, float]]) -> Aperture:
    positions = np.zeros((2, machine.mlc.leaf_pairs))
    for pair, (first, second) in opened.items():
        positions[:, pair] = first, second
    return Aperture(positions, None, None)


def test_without_parameters_the_plane_is_what_is_open_times_the_profile_bit_for_bit():
    aperture = leaves(PLAIN, {k: (-20.3, 31.7) for k in range(20, 40)})
    x_mm, y_mm = plane_axes((-60.0, 60.0), (-70.0, 70.0))
    mlc = PLAIN.mlc
    opened = box_overlap(mlc.leaf_boundaries_mm[:-1], mlc.leaf_boundaries_mm[1:], y_mm).T @ box_overlap(
        *aperture.leaf_positions_mm, x_mm
    )
    expected = 7.0 * (mlc.transmission + (1.0 - mlc.transmission) * opened) * profile_factor(PLAIN.beam, x_mm, y_mm)
    plane = delivered_plane([Segment(aperture, 7.0)], PLAIN, x_mm, y_mm)
    assert np.array_equal(plane.values, expected)
    assert np.array_equal(plane.x_mm, x_mm)
    field = open_plane((-50.0, 50.0), (-50.0, 50.0), PLAIN)
    assert np.array_equal(field.values, profile_factor(PLAIN.beam, field.x_mm, field.y_mm))


def test_without_parameters_the_engines_give_the_same_bits():
    field, volume, one = rectangle(), box(), beam()
    other = replace(one, softening_per_mm=0.0, electron_weight=0.0, electron_depth_mm=9.0, extra_focal_fwhm_mm=30.0)
    assert np.array_equal(
        collapsed_cone_dose(field, frame(), volume, one, cones=48),
        collapsed_cone_dose(field, frame(), volume, other, cones=48),
    )
    assert np.array_equal(pencil_kernel(one).weight_mev_per_mm, pencil_kernel(other).weight_mev_per_mm)


def test_the_extra_focal_source_is_seen_through_the_collimator_as_lines_say():
    machine = with_extra_focal()
    x_mm, y_mm = plane_axes((-30.0, 50.0), (-20.0, 20.0))
    plane = extra_focal_plane(np.ones((len(y_mm), len(x_mm))), machine, x_mm, y_mm)
    collimator, source, total = machine.beam.collimator_distance_mm, 125.0, 1000.0
    sigma = 40.0 / np.sqrt(8.0 * np.log(2.0))
    s = np.linspace(-5.0, 5.0, 2001) * sigma
    weight = np.exp(-0.5 * (s / sigma) ** 2)
    weight /= weight.sum()
    for p, q in ((0.0, 0.0), (40.0, 10.0), (70.0, -30.0)):
        shares = []
        for place, (low, high) in ((p, (-30.0, 50.0)), (q, (-20.0, 20.0))):
            crossed = s + (place - s) * (collimator - source) / (
                total - source
            )  # of the line, in the collimator's plane
            at_isocentre = crossed * total / collimator
            shares.append(weight[(at_isocentre >= low) & (at_isocentre <= high)].sum())
        seen = RegularGridInterpolator((plane.y_mm, plane.x_mm), plane.values)([q, p])[0]
        assert seen == pytest.approx(shares[0] * shares[1], abs=2e-3)


def test_a_tail_is_a_second_source_three_times_as_wide():
    x_mm, y_mm = plane_axes((-30.0, 50.0), (-20.0, 20.0))
    opened = np.random.default_rng(1).random((len(y_mm), len(x_mm)))
    planes = []
    for machine in (with_extra_focal(tail=0.4), with_extra_focal(), with_extra_focal(fwhm_mm=120.0)):
        plane = extra_focal_plane(opened, machine, x_mm, y_mm)
        near = np.abs(plane.x_mm) < 70.0, np.abs(plane.y_mm) < 70.0
        planes.append(plane.values[np.ix_(near[1], near[0])])
    assert planes[0] == pytest.approx(0.6 * planes[1] + 0.4 * planes[2], abs=1e-9)


@pytest.mark.parametrize("tail", [0.0, 0.4])
def test_the_calibration_field_keeps_its_fluence_and_a_wide_one_shows_all_of_both_sources(tail):
    machine = with_extra_focal(tail=tail)
    reference = open_plane((-50.0, 50.0), (-50.0, 50.0), machine)
    middle = [int(np.argmin(np.abs(axis))) for axis in (reference.y_mm, reference.x_mm)]
    assert reference.values[middle[0], middle[1]] == pytest.approx(1.0, abs=2e-3)
    # as wide as no machine opens: of a tail's edge nothing is missing
    wide = open_plane((-450.0, 450.0), (-450.0, 450.0), machine)
    centre = wide.values[int(np.argmin(np.abs(wide.y_mm))), int(np.argmin(np.abs(wide.x_mm)))]
    assert centre * calibration_field_fluence(machine) == pytest.approx(1.0, abs=2e-3)
    assert calibration_field_fluence(machine) < 1.0


def test_a_small_field_gets_less_and_its_neighbourhood_something():
    machine = with_extra_focal()
    small = open_plane((-10.0, 10.0), (-10.0, 10.0), machine)
    centre = small.values[int(np.argmin(np.abs(small.y_mm))), int(np.argmin(np.abs(small.x_mm)))]
    assert 1.0 - machine.beam.extra_focal_weight < centre * calibration_field_fluence(machine) < 1.0
    outside = small.values[int(np.argmin(np.abs(small.y_mm))), int(np.argmin(np.abs(small.x_mm - 30.0)))]
    assert 0.0 < outside < 0.5 * machine.beam.extra_focal_weight


def test_the_sources_add_linearly():
    machine = with_extra_focal()
    x_mm, y_mm = plane_axes((-20.0, 20.0), (-20.0, 20.0))
    random = np.random.default_rng(3)
    one, other = random.random((2, len(y_mm), len(x_mm)))
    together = both_sources(one + other, machine, x_mm, y_mm).values
    apart = both_sources(one, machine, x_mm, y_mm).values + both_sources(other, machine, x_mm, y_mm).values
    assert together == pytest.approx(apart)


def tongued(width_mm: float = 1.0) -> MachineModel:
    return replace(PLAIN, mlc=replace(PLAIN.mlc, tongue_and_groove_mm=width_mm))


def test_two_fields_side_by_side_leave_a_gap_between_their_leaves():
    machine = tongued()
    x_mm, y_mm = plane_axes((-40.0, 40.0), (-20.0, 20.0), 0.25)
    lower = leaves(machine, {k: (-30.0, 30.0) for k in range(24, 30)})
    upper = leaves(machine, {k: (-30.0, 30.0) for k in range(30, 36)})
    both = leaves(machine, {k: (-30.0, 30.0) for k in range(24, 36)})
    apart = sum(aperture_transmission(one, machine, x_mm, y_mm) for one in (lower, upper))
    together = aperture_transmission(both, machine, x_mm, y_mm)
    middle = int(np.argmin(np.abs(x_mm)))
    transmission = machine.mlc.transmission
    strip = np.abs(y_mm) < 0.5
    assert apart[strip, middle] == pytest.approx(np.sqrt(transmission) + transmission, rel=1e-9)
    beside = (np.abs(y_mm) > 0.6) & (np.abs(y_mm) < 10.0)
    assert apart[beside, middle] == pytest.approx(1.0 + transmission, rel=1e-9)
    assert together[np.abs(y_mm) < 10.0, middle] == pytest.approx(1.0, rel=1e-9)


def test_a_leaf_side_takes_half_the_tongue_of_the_open_area():
    machine = tongued(2.0)
    x_mm, y_mm = plane_axes((-40.0, 40.0), (-20.0, 20.0))
    aperture = leaves(machine, {29: (-30.0, 30.0), 30: (-10.0, 5.0)})
    lost = aperture_transmission(aperture, PLAIN, x_mm, y_mm) - aperture_transmission(aperture, machine, x_mm, y_mm)
    exposed_mm = (
        (60.0 - 15.0) + 60.0 + 15.0
    )  # of pair 29: beside 30 where that is closed, and beside 28; of pair 30: beside 31
    assert lost.sum() == pytest.approx(exposed_mm * 1.0 * (1.0 - np.sqrt(machine.mlc.transmission)), rel=1e-9)


def test_blurred_leaf_ends_let_as_much_through_and_the_edge_stays():
    machine = replace(PLAIN, mlc=replace(PLAIN.mlc, leaf_end_blur_mm=2.0, transmission=0.0))
    sharp = replace(PLAIN, mlc=replace(PLAIN.mlc, transmission=0.0))
    x_mm, y_mm = plane_axes((-60.0, 60.0), (-20.0, 20.0))
    aperture = leaves(machine, {k: (-25.0, 35.0) for k in range(28, 32)})
    blurred, plain = (aperture_transmission(aperture, one, x_mm, y_mm) for one in (machine, sharp))
    assert blurred.sum() == pytest.approx(plain.sum(), rel=1e-6)
    row = blurred[int(np.argmin(np.abs(y_mm)))]
    assert np.interp(35.0, x_mm, row) == pytest.approx(0.5, abs=1e-3)
    assert row[int(np.argmin(np.abs(x_mm - 36.5)))] == pytest.approx(
        0.2266, abs=1e-4
    )  # three quarters of a sigma beyond
    across = blurred[:, int(np.argmin(np.abs(x_mm)))]
    assert set(np.round(np.unique(across), 6)) == {0.0, 1.0}  # leaf sides stay sharp


def test_softening_attenuates_more_off_the_axis():
    volume, one = box(), beam()
    one = replace(one, energies_mev=np.array([2.0]), photon_weights=np.ones(1), source_fwhm_mm=0.0)
    soft = replace(one, softening_per_mm=0.001)
    plain, softened = (terma(rectangle(), frame(), volume, own) for own in (one, soft))
    lit = plain.primary > 1e-3 * plain.primary.max()
    ratio = softened.primary[lit] / plain.primary[lit]
    points = volume.grid.patient_from_index(np.argwhere(lit))
    radius = np.hypot(*frame().project(points)[:, :2].T)
    from dicomplan.dose.point_kernels import water_attenuation_per_mm
    from dicomplan.geometry.rays import path_integral

    path = path_integral(volume.electron_relative, volume.grid, frame().source_mm, points)
    expected = np.exp(-water_attenuation_per_mm(np.array([2.0]))[0] * path * 0.001 * radius)
    assert ratio == pytest.approx(expected, rel=2e-3)
    assert radius.max() > 20.0


def test_electrons_fall_off_exponentially_and_both_engines_know_them():
    volume, plain = box(), beam()
    one = replace(plain, electron_weight=0.2, electron_depth_mm=8.0)
    dose = collapsed_cone_dose(rectangle(), frame(), volume, one, cones=48) - collapsed_cone_dose(
        rectangle(), frame(), volume, plain, cones=48
    )
    top = np.unravel_index(int(np.argmax(dose)), dose.shape)
    column = dose[top[0], :, top[2]].astype(float)
    depth = np.arange(len(column)) * volume.grid.spacing_mm[1]
    near = np.flatnonzero(column > 0.05 * column.max())
    slope = np.polyfit(depth[near], np.log(column[near]), 1)[0]
    # the inverse square adds about 2 / 950 mm to 1 / 8 mm
    assert abs(slope) == pytest.approx(1.0 / 8.0 + 2.0 / 950.0, rel=0.03)
    kernels = pencil_kernel(one), pencil_kernel(plain)
    added = (kernels[0].weight_mev_per_mm - kernels[1].weight_mev_per_mm).sum(axis=2)
    assert added[:, 0] / added[0, 0] == pytest.approx(np.exp(-kernels[0].depth_mm / 8.0), abs=1e-9)


@pytest.mark.parametrize("name", ["generic_6mv", "agility_6mv", "artiste_6mv"])
def test_100_mu_in_the_calibration_field_give_the_stated_dose_in_both_engines(name: str):
    """Leaves, jaws and their transmission in the way, the calibration's field has none: within 0.5 %."""
    machine = load_machine(name)
    calibration, mlc = machine.calibration, machine.mlc
    half = 0.5 * calibration.field_mm
    inside = (mlc.leaf_boundaries_mm[:-1] >= -half - 1e-6) & (mlc.leaf_boundaries_mm[1:] <= half + 1e-6)
    positions = np.where(inside, np.array([[-half], [half]]), 0.0)
    aperture = Aperture(positions, (-half, half), None if machine.jaw_x is None else (-half, half))
    at = (0.0, 1000.0 - calibration.source_surface_distance_mm, 0.0)
    beam_of = Beam(1, "open", 0.0, 0.0, 0.0, at)
    plane = delivery_plane(BeamDelivery(beam_of, (Segment(aperture, 100.0),)), machine)
    grid = VoxelGrid((81, 75, 81), (4.0, 4.0, 4.0), (-160.0, 2.0, -160.0))
    phantom = DensityVolume(grid, np.ones(grid.shape, dtype=np.float32))
    depth = grid.axis_mm(1)
    accurate = collapsed_cone_dose(plane, beam_of.frame("HFS"), phantom, machine.beam)[40, :, 40]
    accurate = accurate * collapsed_cone_photons_cm2_per_mu(machine)
    kernel = pencil_kernel(machine.beam)
    voxels = np.ravel_multi_index((40, np.arange(len(depth)), 40), grid.shape).astype(np.int64)
    samples = beam_samples(beam_of.frame("HFS"), medium(phantom), voxels, kernel)
    quick = pencil_beam_dose(plane, samples, blurred_sigma_mm(kernel, machine)) * photons_cm2_per_mu(machine, kernel)
    for dose in (accurate, quick):
        found = np.interp(calibration.depth_mm, depth, dose)
        assert found == pytest.approx(100.0 * calibration.dose_per_mu_gy, rel=5e-3)
