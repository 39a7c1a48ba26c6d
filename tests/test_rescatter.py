"""Photons that are scattered more than once, and electrons of a hardened beam: kernels, averages, limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collapsed_cone_cases import beam, box, dose_of, frame, rectangle
from twins import rescatter_twins as twins

from dicomplan.dose import _kernels_rescatter as kernels
from dicomplan.dose.coarse import coarse_depth_mm, coarse_grid
from dicomplan.dose.dose_to_water import stopping_number
from dicomplan.dose.hardening import stopping_density
from dicomplan.dose.kernel_fit import PRIMARY_DEPTH_CM, cone_set, electron_reach_cm, fit_kernel
from dicomplan.dose.photon_generations import GENERATIONS, klein_nishina, photon_generations
from dicomplan.dose.point_kernels import load_point_kernels, mass_attenuation_cm2_g
from dicomplan.dose.rescatter import DIRECTIONS, flight_table, rescatter
from dicomplan.dose.terma import Terma, terma
from dicomplan.dose.transport import DENSER, transport
from dicomplan.geometry.grid import VoxelGrid


@pytest.mark.parametrize("seed", range(6))
def test_a_flight_is_that_of_the_slow_twin(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 7, size=3))
    density = random.choice([0.001, 0.26, 1.0, 1.85], size=shape).astype(np.float32)
    released = random.uniform(0.0, 2.0, size=shape).astype(np.float32)
    slopes = np.array([random.choice([-1.0, 1.0]), *random.uniform(-1.0, 1.0, size=2)])
    photons = np.array([random.uniform(0.03, 0.4), random.uniform(0.0, 1.0), random.uniform(0.0, 1.1)])
    margin = ((0, 0), (1, 1), (1, 1))
    deposit, passed = (np.zeros(np.pad(released, margin).shape, dtype=np.float32) for _ in range(2))
    kernels.flight(np.pad(released, margin), np.pad(density, margin), deposit, passed, slopes, 1.2, photons)
    for own, expected in zip((deposit, passed), twins.flight(released, density, slopes, 1.2, photons), strict=True):
        assert np.abs(own[:, 1:-1, 1:-1] - expected).max() <= 1e-5 * max(expected.max(), 1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_ways_to_the_coarse_grid_and_back_are_those_of_the_slow_twins(seed):
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(5, 14, size=3))
    grid = VoxelGrid(shape, tuple(random.uniform(2.0, 6.0, size=3)), (1.0, 2.0, 3.0))
    coarse = coarse_grid(grid)
    volume = random.uniform(size=shape).astype(np.float32)
    mean = coarse.averaged(volume)
    assert mean == pytest.approx(twins.averaged(volume, coarse.starts), rel=1e-5)
    assert mean.mean() == pytest.approx(volume.mean(), rel=1e-5)
    index = [random.integers(0, n - 1, size=3) for n in coarse.grid.shape]
    share = [random.uniform(size=3).astype(np.float32) for _ in range(3)]
    out = np.empty((3, 3, 3), dtype=np.float32)
    kernels.interpolated(mean, *index, *share, out)
    assert out == pytest.approx(twins.interpolated(mean, index, share), rel=1e-5)


def test_what_is_linear_in_space_comes_back_as_it_was():
    grid = VoxelGrid((12, 20, 16), (2.5, 2.5, 5.0), (1.0, 2.0, 3.0))
    coarse = coarse_grid(grid)
    assert coarse.grid.shape == (3, 5, 8)
    assert np.array(coarse.grid.spacing_mm) == pytest.approx([10.0, 10.0, 10.0])
    plane = [grid.axis_mm(0)[:, None, None], grid.axis_mm(1)[:, None], grid.axis_mm(2)]
    linear = (3.0 + 0.1 * plane[0] - 0.2 * plane[1] + 0.3 * plane[2]).astype(np.float32)
    assert coarse.interpolated(coarse.averaged(linear)) == pytest.approx(linear, abs=2e-4)
    at = coarse.averaged(np.broadcast_to(plane[2], grid.shape).astype(np.float32))
    assert at[0, 0] == pytest.approx(coarse.grid.axis_mm(2), abs=1e-3)


def test_what_is_scattered_is_a_product_of_matrices():
    random = np.random.default_rng(3)
    passed, parts = (random.uniform(size=(5, n)).astype(np.float32) for n in (700, 5))
    electron, out = random.uniform(size=700).astype(np.float32), np.empty((5, 700), dtype=np.float32)
    kernels.scattered(passed, electron, parts, out)
    assert out == pytest.approx(parts @ passed * electron, rel=1e-5)


@pytest.mark.parametrize("energy_mev", [0.1, 1.0, 5.0])
def test_compton_scatters_leave_the_energy_of_the_klein_nishina_cross_section(energy_mev):
    """Its integral over the angle; at 1 MeV the electron takes 0.440 on average: F. Attix, Introduction to Radiological
    Physics and Radiation Dosimetry (1986)."""
    scattered, cosine = klein_nishina(np.full(200_000, energy_mev), np.random.default_rng(1))
    angle = np.linspace(-1.0, 1.0, 200_001)
    ratio = 1.0 / (1.0 + energy_mev / 0.510999 * (1.0 - angle))
    section = ratio**2 * (ratio + 1.0 / ratio - 1.0 + angle**2)
    expected = 1.0 - (section * ratio).sum() / section.sum()
    assert 1.0 - scattered.mean() / energy_mev == pytest.approx(expected, abs=3e-3)
    if energy_mev == 1.0:
        assert expected == pytest.approx(0.440, abs=1e-3)
    # energy and angle belong together: Compton's equation
    assert scattered == pytest.approx(energy_mev / (1.0 + energy_mev / 0.510999 * (1.0 - cosine)), rel=1e-5)


def test_generations_are_those_of_the_monte_carlo_kernels():
    """First scatter carries what the point kernels say it deposits; second and later scatters are where they are there."""
    generations, kernels_ = photon_generations(beam()), load_point_kernels()
    poly = np.zeros(kernels_.fraction.shape[1:])
    energies, weights = beam().energies_mev, beam().photon_weights * beam().energies_mev
    mu = mass_attenuation_cm2_g("water", energies)
    weights = weights * mu * np.exp(-10.0 * mu)
    nodes = np.log(kernels_.energy_mev)
    for energy, weight in zip(np.log(energies), weights / weights.sum(), strict=True):
        place = np.clip(np.interp(energy, nodes, np.arange(len(nodes))), 0, len(nodes) - 1 - 1e-9)
        low = int(place)
        part = place - low
        poly += weight * ((1 - part) * kernels_.fraction[low] + part * kernels_.fraction[low + 1])
    scatter = 1.0 - poly[..., 0].sum()
    first = (generations.carried * generations.kept)[0].sum()
    assert first == pytest.approx(poly[..., 1].sum() / scatter, abs=0.03)
    radius = 0.1 * kernels_.radius_edges_mm[1:]
    near = radius <= 20.0
    b, m = generations.again_exponent_cm2_g[:, None], generations.again_second[:, None]
    own = (generations.again[:, None] * (1.0 - np.exp(-b * radius) * (1.0 + m * b * radius)))[:, near][:, -1]
    known = poly[:, near, 2:4].sum(axis=(1, 2)) / scatter
    for cones in (slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 36), slice(36, 48)):
        assert own[cones].sum() == pytest.approx(known[cones].sum(), rel=0.12)


def test_flights_hand_on_all_energy_and_keep_its_direction():
    generations = photon_generations(beam())
    table = flight_table(fit_kernel(beam()), generations)
    assert table.direction.shape == (DIRECTIONS, 3)
    assert np.linalg.norm(table.direction, axis=1) == pytest.approx(np.ones(DIRECTIONS))
    assert table.first.sum() == pytest.approx(generations.carried[0].sum(), rel=1e-4)
    assert table.straight.sum() == pytest.approx(generations.again.sum(), rel=1e-4)
    assert len(table.turned) == GENERATIONS - 1
    assert table.turned.sum(axis=1) == pytest.approx(np.ones((GENERATIONS - 1, DIRECTIONS)), abs=1e-5)
    assert (table.turned >= 0).all()
    # photons lose energy, and forwardness with it
    forward = np.einsum("od,gox,dx->gd", table.turned.mean(axis=0), table.direction[None], table.direction)
    assert (forward > 0).mean() > 0.9
    assert (generations.kept[-1] == 1.0).all()


def scattered_in_the_middle(voxels=30, spacing_mm=50.0):
    """Energy released as scatter in one place of a large water box."""
    volume = box((voxels,) * 3, spacing_mm)
    scatter = np.zeros(volume.grid.shape, dtype=np.float32)
    scatter[voxels // 2, voxels // 2, voxels // 2] = 1.0
    nothing = np.zeros((0, 0, 0), dtype=np.float32)
    return Terma(volume.grid, np.zeros_like(scatter), scatter, nothing, volume.mass_g_cm3, nothing)


def test_in_a_large_phantom_energy_is_moved_not_made():
    released = scattered_in_the_middle()
    released.electron_relative[:, 18:20] = 0.26
    kernel, generations = fit_kernel(beam()), photon_generations(beam())
    change = rescatter(released, frame(source_axis_distance_mm=10_000.0), kernel, generations)
    assert abs(float((change * released.electron_relative).sum(dtype=np.float64))) < 2e-3


def test_endless_water_keeps_its_dose_and_the_exit_and_the_sides_lose():
    """The last centimetres of a 10 x 10 cm field by 0.5 to 2 %, as an independent Monte Carlo of the photons has it."""
    kernel, generations = fit_kernel(beam()), photon_generations(beam())
    field = rectangle((-50.0, 50.0), (-50.0, 50.0))
    cones = cone_set(kernel, 96)
    ratios = {}
    for depth in (60, 30):
        volume = box((50, depth, 50), 10.0)
        # the surface at the same place
        origin = (volume.grid.origin_mm[0], -95.0, volume.grid.origin_mm[2])
        volume = replace(volume, grid=replace(volume.grid, origin_mm=origin))
        released = terma(field, frame(), volume, beam())
        dose = transport(released, frame(), cones)[24:26, :, 24:26].mean(axis=(0, 2))
        change = rescatter(released, frame(), kernel, generations)[24:26, :, 24:26].mean(axis=(0, 2))
        ratios[depth] = change / dose
    assert np.abs(ratios[60][2:30]).max() < 4e-3
    lost = ratios[30] - ratios[60][:30]
    assert np.abs(lost[:10]).max() < 1e-3
    assert -0.015 < lost[-1] < -0.006
    assert (np.diff(lost[15:]) < 1e-4).all()
    assert lost[-10] > 0.3 * lost[-1]


def test_electrons_of_a_hardened_beam_go_further():
    kernels_ = load_point_kernels()
    depth = np.array([0.0, PRIMARY_DEPTH_CM, 30.0])
    reach = electron_reach_cm(beam(), depth, kernels_)
    assert (np.diff(reach) > 0).all()
    # as the fitted cones have it
    kernel = fit_kernel(beam())
    sideways = kernel.primary * np.sin(kernel.angle_rad) / kernel.primary_cm2_g
    assert reach[1] == pytest.approx(float(sideways.sum()), rel=2e-3)
    single = replace(beam(), energies_mev=np.array([2.0]), photon_weights=np.array([1.0]))
    assert np.ptp(electron_reach_cm(single, depth, kernels_)) < 1e-12


def test_stopping_follows_the_water_equivalent_depth():
    volume = box((20, 40, 20), 5.0)
    volume.mass_g_cm3[:, 10:20] = 0.26
    released = terma(rectangle(), frame(), volume, beam())
    stopping = stopping_density(released, frame(), beam(), load_point_kernels())
    ratio = (stopping / released.electron_relative)[10, :, 10]
    reach = electron_reach_cm(beam(), np.array([PRIMARY_DEPTH_CM, 0.0, 18.0]), load_point_kernels())
    assert ratio[0] == pytest.approx(reach[0] / reach[1], rel=5e-3)
    assert (np.diff(ratio) < 1e-6).all()
    # 40 voxels of 5 mm, 10 of them lung
    deep = 15.0 + 5.0 * float(released.electron_relative[10, 15, 10])
    expected = electron_reach_cm(beam(), np.array([deep]), load_point_kernels())[0]
    assert ratio[-1] == pytest.approx(reach[0] / expected, rel=5e-3)
    coarse = coarse_grid(volume.grid)
    depth = coarse_depth_mm(coarse, released.electron_relative, frame())
    assert depth[5, -1, 5] == pytest.approx(10.0 * deep - 5.0, rel=0.02)


def test_thin_matter_stops_electrons_as_the_density_effect_has_it():
    """R. Sternheimer et al., At Data Nucl Data Tables 30 (1984) 261: water, and water of less density."""

    def delta(density):
        momentum = np.log10(np.sqrt((1.0 + 1.0 / 0.510999) ** 2 - 1.0))
        shift = np.log(density)
        c, x0, x1 = 3.5017 - shift, 0.2400 - 0.5 * shift / np.log(10.0), 2.8004 - 0.5 * shift / np.log(10.0)
        value = 2.0 * np.log(10.0) * momentum - c + 0.09116 * max(x1 - momentum, 0.0) ** 3.4773
        return value if momentum > x0 else 0.0

    number = float(stopping_number(75.0))
    for density in (1.0, 0.7, 0.26, 0.001):
        expected = (number - delta(density)) / (number - delta(1.0)) - 1.0
        own = min(DENSER[3] * (1.0 - density), DENSER[4])
        assert own == pytest.approx(expected, abs=2e-3)


def test_a_lung_that_ends_in_air_loses_little():
    """Thin matter sends little back: what the exit of lung loses is less than what that of water does."""
    lost = []
    for density in (1.0, 0.26):
        dose = []
        for depth in (30, 50):
            volume = box((40, depth, 40), 8.0)
            origin = (volume.grid.origin_mm[0], -96.0, volume.grid.origin_mm[2])
            volume = replace(volume, grid=replace(volume.grid, origin_mm=origin))
            volume.mass_g_cm3[:, 15:] = density
            dose.append(dose_of(volume, rectangle((-50.0, 50.0), (-50.0, 50.0)))[19:21, :30, 19:21].mean(axis=(0, 2)))
        lost.append(1.0 - float(dose[0][27] / dose[1][27]))
    assert 0.0 < lost[1] < lost[0] < 0.05
