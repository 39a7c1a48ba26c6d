"""Physics of the collapsed cone without reference data: conservation, symmetries, limits with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collapsed_cone_cases import beam, box, dose_of, frame, half_lung, rectangle
from scipy.interpolate import PchipInterpolator

from dicomplan.dose import _kernels_collapsed_cone as kernels
from dicomplan.dose.collapsed_cone import SHARPEN
from dicomplan.dose.electron_return import RETURN_CM, RETURN_WATER, electron_return, onward
from dicomplan.dose.hardening import stopping_density
from dicomplan.dose.kernel_fit import ConeSet, cone_set, fine_spectrum, fit_kernel
from dicomplan.dose.point_kernels import load_point_kernels, water_attenuation_per_mm
from dicomplan.dose.terma import Terma, terma
from dicomplan.dose.transport import DENSER, transport
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.density import DensityVolume


@pytest.fixture(scope="module")
def cones() -> ConeSet:
    return cone_set(fit_kernel(beam()), 48)


def released_in(grid: VoxelGrid, electron: np.ndarray, voxels: tuple[slice, slice, slice]) -> Terma:
    primary, scatter = (np.zeros(grid.shape, dtype=np.float32) for _ in range(2))
    primary[voxels], scatter[voxels] = 1.0, 2.0
    nothing = np.zeros((0, 0, 0), dtype=np.float32)
    return Terma(grid, primary, scatter, nothing, electron, nothing)


@pytest.mark.parametrize("tilt_mm", [0.0, 3000.0])
def test_all_energy_arrives_in_a_large_phantom(cones, tilt_mm):
    """Also for rays tilted 17 degrees against the beam axis, and through lung and bone."""
    volume = box((80, 80, 80), 50.0)
    electron = volume.mass_g_cm3
    electron[:, 41:42, :] = 0.26
    electron[:, :, 42:43] = 1.7
    there = slice(39, 41)
    released = released_in(volume.grid, electron, (there, there, there))
    at = frame(source_axis_distance_mm=10_000.0)
    at = replace(at, source_mm=at.source_mm + np.array([tilt_mm, 0.0, 0.0]))
    dose = transport(released, at, cones)
    arrived = float((dose.astype(np.float64) * electron).sum())
    assert arrived == pytest.approx(8 * 3.0, rel=2e-3)


def test_collapsed_to_a_point_the_dose_is_terma_attenuated_and_inverse_square(cones):
    """Exponents of 100/cm and more: energy stays where it is released. One photon energy: exp(-mu d) / r^2."""
    at_point = cones.table.copy()
    at_point[:, (0, 2)] *= 1e4
    at_point[:, 3] = 0.0
    single = replace(beam(), energies_mev=np.array([2.0]), photon_weights=np.array([1.0]))
    volume = box((30, 60, 30), 4.0)
    released = terma(rectangle(), frame(), volume, single)
    dose = transport(released, frame(), replace(cones, table=at_point))
    axis = dose[14:16, :, 14:16].mean(axis=(0, 2)).astype(np.float64)
    depth = volume.grid.axis_mm(1) + 120.0
    mu = 0.04942  # cm2/g, water at 2 MeV without Rayleigh scattering: NIST XCOM
    expected = np.exp(-0.1 * mu * depth) / (880.0 + depth) ** 2
    # an exponent of 50 per voxel still hands 2 % on: from before the first plane nothing comes
    ratio = axis[2:-1] / expected[2:-1]
    assert ratio / ratio.mean() == pytest.approx(np.ones_like(ratio), abs=2e-3)


def test_a_point_and_its_receiver_may_change_places():
    """One exponent for every direction, and the opposite direction: dose at B from A is dose at A from B."""
    random = np.random.default_rng(5)
    shape = (9, 8, 10)
    density = random.choice([0.26, 1.0, 1.8], size=shape).astype(np.float32)
    table = np.array([[3.0, 0, 0], [0.1, 0, 0], [0.5, 0, 0], [0.6, 0, 0], [0.1, 0, 0]])
    steps = [np.eye(3)[k] for k in range(3)]
    # slopes that are whole over the grid: both sweeps meet the same lattice
    vector = np.array([1.0, 0.25, 0.5])

    def received(source, receiver, sign):
        nothing, scatter = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        scatter[source] = 1.0
        dose = np.zeros(shape, dtype=np.float32)
        direction = sign * np.concatenate([vector, vector / np.linalg.norm(vector)])
        kernels.march(
            nothing, scatter, density, kernels.source_ranges(nothing, scatter), dose, np.array([1e5, 0.0, 0.0]), *steps,
            direction, table, np.array([-1.0, 1.0]), 0.5, DENSER, density, 0.0,
        )  # fmt: skip
        return float(dose[receiver])

    for a, b in (((1, 2, 3), (7, 3, 6)), ((0, 1, 1), (4, 2, 3)), ((2, 3, 3), (3, 4, 4))):
        there, back = received(a, b, 1.0), received(b, a, -1.0)
        assert there > 0
        assert there == pytest.approx(back, rel=1e-4)


def test_beam_and_phantom_turned_together_keep_the_dose():
    """A quarter turn: the gantry at 90 degrees sees along -x what the gantry at 0 sees along +y."""
    volume = half_lung()
    cube = DensityVolume(box((20, 24, 24), 5.0).grid, np.ones((20, 24, 24), dtype=np.float32))
    cube.mass_g_cm3[:, :, 2:22] = np.pad(volume.mass_g_cm3, 0)
    upright = dose_of(cube, cones=24)
    # patient (x, y) -> (-y, x): depth index runs against x, lateral index along y
    turned = DensityVolume(cube.grid, np.ascontiguousarray(np.transpose(cube.mass_g_cm3, (0, 2, 1))[:, :, ::-1]))
    sideways = dose_of(turned, at=frame(90.0), cones=24)
    back = np.transpose(sideways[:, :, ::-1], (0, 2, 1))
    assert np.abs(back - upright).max() <= 1e-3 * upright.max()


def test_an_oblique_grid_and_an_oblique_beam_keep_the_dose():
    volume = half_lung()
    angle = np.radians(33.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    origin = turn @ np.array(volume.grid.origin_mm)
    grid = replace(volume.grid, origin_mm=tuple(origin), direction=tuple(tuple(row) for row in turn))
    upright = dose_of(volume, cones=24)
    turned = dose_of(DensityVolume(grid, volume.mass_g_cm3), at=frame(33.0), cones=24)
    assert np.abs(turned - upright).max() <= 1e-4 * upright.max()


@pytest.mark.parametrize("gantry_angle_deg", [17.0, 33.0, 45.0])
def test_the_lattice_leaves_no_ripple(gantry_angle_deg):
    """A water cylinder looks the same from every side: so does its dose round the isocentre, whatever the grid's angle."""
    volume = box((16, 48, 48), 4.0)
    y, x = volume.grid.axis_mm(1), volume.grid.axis_mm(2)
    radius = np.hypot(y[:, None], x[None, :])
    volume.mass_g_cm3[:] = np.clip((92.0 - radius) / 4.0 + 0.5, 1e-3, 1.0)
    straight = dose_of(volume, cones=96)
    oblique = dose_of(volume, at=frame(gantry_angle_deg), cones=96)
    middle = radius < 12.0
    assert oblique[7:9][:, middle].mean() == pytest.approx(straight[7:9][:, middle].mean(), rel=3e-3)


def test_fields_superpose(cones):
    volume = half_lung()
    left, right = rectangle((-30.0, 0.0)), rectangle((0.0, 30.0), value=0.5)
    both = replace(left, values=left.values + right.values)
    # before negative dose beyond an edge is set to 0; exponents and shares are parabolas along the part of a row that
    # carries energy, so that they differ a little from field to field
    left_dose, right_dose, total = (
        transport(terma(field, frame(), volume, beam(), sharpen=SHARPEN), frame(), cones)
        for field in (left, right, both)
    )
    assert np.abs(total - left_dose - right_dose).max() <= 1e-4 * total.max()


def test_no_dose_is_negative():
    for spacing_mm in (2.0, 6.0):
        assert dose_of(box((24, 24, 24), spacing_mm), cones=48).min() >= 0.0


def test_the_edge_of_a_half_open_field_takes_half():
    volume = box((24, 30, 24), 5.0)
    whole = dose_of(volume, rectangle((-50.0, 50.0), (-50.0, 50.0)))
    half = dose_of(volume, rectangle((0.0, 50.0), (-50.0, 50.0)))
    edge = half[11:13, 5:25, 11:13].mean(axis=(0, 2)) / whole[11:13, 5:25, 11:13].mean(axis=(0, 2))
    assert edge == pytest.approx(np.full(20, 0.5), abs=4e-3)


def test_a_closed_field_gives_no_dose():
    volume = half_lung()
    assert not dose_of(volume, rectangle(value=0.0), cones=24).any()


def test_dose_to_water_is_that_to_medium_times_the_ratio_of_stopping_powers():
    volume = box((16, 16, 16), 5.0, density=1.85)
    medium, water = dose_of(volume, cones=24), dose_of(volume, cones=24, dose_to="water")
    # Siebers et al., Phys Med Biol 45 (2000) 983: 1.116 for cortical bone at 6 MV
    ratio = water[8, 8, 8] / medium[8, 8, 8]
    assert 1.10 < ratio < 1.12
    assert water == pytest.approx(medium * ratio, rel=1e-5)
    volume = box((16, 16, 16), 5.0)
    assert np.array_equal(dose_of(volume, cones=24), dose_of(volume, cones=24, dose_to="water"))


def test_the_shares_of_every_cone_set_are_positive_and_complete():
    kernel = fit_kernel(beam())
    for count in (24, 48, 96, 192):
        cones = cone_set(kernel, count)
        assert len(cones.direction) == count
        assert np.linalg.norm(cones.direction, axis=1) == pytest.approx(np.ones(count), abs=1e-12)
        on_axis = [cones.values(row, cones.direction[:, 2]) for row in range(5)]
        assert min(row.min() for row in on_axis) > 0
        for row in (1, 4):
            assert on_axis[row].sum() == pytest.approx(1.0, abs=0.015)  # divided out by the transport
        # as much momentum as the kernel carries forward
        forward = float((kernel.primary * np.cos(kernel.angle_rad)).sum())
        assert (on_axis[1] * cones.direction[:, 2]).sum() / on_axis[1].sum() == pytest.approx(forward, abs=0.01)


def test_electrons_that_come_back_keep_the_energy():
    """In water with lung, bone and gold far from the edges of the grid."""
    volume = box((24, 40, 24), 5.0)
    volume.mass_g_cm3[:, 10:14] = 0.26
    volume.mass_g_cm3[:, 14:18] = 1.85
    volume.mass_g_cm3[:, 22:24] = 19.3
    released = terma(rectangle(), frame(), volume, beam(), sharpen=SHARPEN)
    released.primary[:, :6] = released.primary[:, -6:] = 0.0
    change, kept = electron_return(released, frame(), fit_kernel(beam()))
    energy = float((change.astype(np.float64) * released.electron_relative).sum())
    moved = float((np.abs(change).astype(np.float64) * released.electron_relative).sum())
    assert moved > 0.01 * float(released.primary.sum(dtype=np.float64))
    assert energy == pytest.approx(float((released.kept - kept).sum(dtype=np.float64)), abs=1e-3 * moved)


def test_water_far_from_boundaries_keeps_its_dose_and_the_exit_loses():
    volume = box((24, 60, 24), 2.5)
    released = terma(rectangle((-20.0, 20.0), (-20.0, 20.0)), frame(), volume, beam(), sharpen=SHARPEN)
    axis = (slice(11, 13), slice(None), slice(11, 13))
    dose = transport(released, frame(), cone_set(fit_kernel(beam()), 48))[axis].mean(axis=(0, 2))
    change = electron_return(released, frame(), fit_kernel(beam()))[0][axis].mean(axis=(0, 2))
    ratio = change / dose
    assert np.abs(ratio[20:-8]).max() < 2e-3
    assert (ratio[:2] > 0.01).all()
    # less than the share that water sends back, at most
    assert -0.10 < ratio[-1] < -0.02
    assert (np.diff(ratio[-5:]) < 0).all()


def test_what_goes_on_and_what_comes_back_carry_as_far_as_the_point_kernel():
    kernel = fit_kernel(beam())
    going = onward(kernel)
    share = RETURN_WATER / (1 + RETURN_WATER)
    ahead, aside = (
        [float((k.primary * part / k.primary_cm2_g).sum()) for k, part in zip((kernel, going), parts, strict=True)]
        for parts in ([np.cos(kernel.angle_rad)] * 2, [np.sin(kernel.angle_rad)] * 2)
    )
    assert going.primary.sum() == pytest.approx(1.0, abs=1e-12)
    assert ahead[1] - share * RETURN_CM == pytest.approx(ahead[0], rel=3e-3)
    assert aside[1] == pytest.approx(aside[0], rel=1e-3)


def test_the_build_up_is_that_of_the_point_kernels_of_every_energy():
    """Primary dose of a wide field in water against the superposition, plane by plane, of the Monte Carlo kernels."""
    point, step_cm = load_point_kernels(), 0.025
    radius, polar = 0.1 * point.radius_edges_mm, np.cos(point.cone_edges_rad)
    # where the energy of each cone and shell lies along the beam: radii by a curve through the sums, 8 cosines
    fine = np.interp(np.linspace(0.0, 17.0, 17 * 30 + 1), np.arange(len(radius)), radius)
    share = (np.arange(8) + 0.5) / 8
    cosines = polar[:-1, None] + share * np.diff(polar)[:, None]
    middle = 0.5 * (fine[1:] + fine[:-1])
    planes = np.arange(-6.0, 6.0 + 1e-9, step_cm)
    within = np.cumsum(
        np.concatenate([np.zeros((*point.fraction.shape[:2], 1)), point.fraction[..., 0]], axis=2), axis=2
    )
    shells = np.diff(PchipInterpolator(radius, within, axis=2)(fine), axis=2)
    places = np.broadcast_to(cosines[:, :, None] * middle, (*cosines.shape, len(middle))).ravel()
    kernels_ = np.array(
        [np.histogram(places, planes, weights=np.repeat(of[:, None], 8, axis=1).ravel() / 8)[0] for of in shells]
    )
    energy, photons = fine_spectrum(beam())
    mu = 10.0 * water_attenuation_per_mm(energy)
    depth = np.arange(0.5 * step_cm, 10.0, step_cm)
    place = np.clip(np.log(energy), *np.log(point.energy_mev[[0, -1]]))
    released = (photons * mu * energy)[:, None] * np.exp(-mu[:, None] * depth) / (88.0 + depth) ** 2
    expected = np.zeros(len(depth) + len(planes) - 2)
    for e in range(len(energy)):
        weights = [np.interp(place[e], np.log(point.energy_mev), unit) for unit in np.eye(len(point.energy_mev))]
        expected += np.convolve(released[e], np.array(weights) @ kernels_)
    first = round(6.0 / step_cm)
    # half a step: energy is released in the middle of a slice and arrives between two
    expected = 0.5 * (expected[first : first + len(depth)] + expected[first - 1 : first - 1 + len(depth)])
    expected = expected[: 40 * 10].reshape(40, 10).mean(axis=1)

    volume = box((40, 60, 40), 2.5)
    volume = DensityVolume(replace(volume.grid, origin_mm=(-48.75, -118.75, -48.75)), volume.mass_g_cm3)
    all_released = terma(rectangle((-45.0, 45.0), (-45.0, 45.0)), frame(), volume, beam(), sharpen=SHARPEN)
    of_primary = replace(all_released, scatter=np.zeros_like(all_released.scatter))
    going = onward(fit_kernel(beam()))
    stopping = stopping_density(of_primary, frame(), beam(), point)
    dose = transport(of_primary, frame(), cone_set(going, 96), stopping)
    dose += electron_return(of_primary, frame(), going)[0]
    own = dose[19:21, :40, 19:21].mean(axis=(0, 2)).astype(np.float64)
    ratio = (own / own[16:24].mean()) / (expected / expected[16:24].mean())
    assert ratio == pytest.approx(np.ones(40), abs=0.01)


@pytest.mark.parametrize(("density", "sign"), [(0.001, -1.0), (1.85, 1.0), (19.3, 1.0)])
def test_dose_before_a_layer_falls_with_air_and_rises_with_bone_and_gold(density, sign):
    volume = box((16, 40, 16), 1.0)
    volume.mass_g_cm3[:, 30:] = density
    released = terma(rectangle(), frame(), volume, beam(), sharpen=SHARPEN)
    change = electron_return(released, frame(), fit_kernel(beam()))[0][8, :, 8]
    water = box((16, 40, 16), 1.0)
    plain = electron_return(terma(rectangle(), frame(), water, beam(), sharpen=SHARPEN), frame(), fit_kernel(beam()))[0]
    extra = sign * (change[20:30] - plain[8, 20:30, 8])
    assert (extra > 0).all()
    assert (np.diff(extra) > 0).all()
