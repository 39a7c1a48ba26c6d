"""Energy released by primary photons: paths, attenuation, field edges, materials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collapsed_cone_cases import beam, box, frame, rectangle
from twins.collapsed_cone_twins import path_length, sharpened

from dicomplan.dose import _kernels_terma as kernels
from dicomplan.dose.kernel_fit import fine_spectrum
from dicomplan.dose.point_kernels import load_point_kernels, mass_attenuation_cm2_g
from dicomplan.dose.terma import (
    DENSITY_KNOTS_G_CM3,
    GY_G_PER_MEV,
    MATERIAL_SHARES,
    electron_density,
    terma,
)
from dicomplan.geometry.rays import path_integral


def mono(energy_mev):
    return replace(beam(), energies_mev=np.array([energy_mev]), photon_weights=np.array([1.0]))


@pytest.mark.parametrize("seed", range(12))
def test_paths_are_those_of_many_small_steps(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(2, 6, size=3))
    mass = random.choice([0.0012, 0.3, 1.0, 1.5, 1.9, 4.5], size=shape).astype(np.float32)
    electron = random.uniform(0.1, 2.0, size=shape).astype(np.float32)
    start, step = random.uniform(-20, 20, size=3), random.uniform(1.0, 5.0, size=3)
    inside = start + step * np.array(shape[::-1]) * random.uniform(0.05, 0.95, size=3)
    source = inside + random.normal(size=3) * 60.0
    if seed % 4 == 0:
        source[seed % 3] = inside[seed % 3]  # along a grid plane
    paths = np.empty(4)
    kernels._trace(mass, electron, start, step, source, inside, DENSITY_KNOTS_G_CM3, MATERIAL_SHARES, paths)
    assert 10 * paths[0] == pytest.approx(path_length(electron, start, step, source, inside), rel=1e-3, abs=2e-3)
    for material in range(3):
        share = np.interp(mass, DENSITY_KNOTS_G_CM3, MATERIAL_SHARES[material]) * mass
        expected = path_length(share, start, step, source, inside)
        assert 10 * paths[1 + material] == pytest.approx(expected, rel=1e-3, abs=5e-3)


@pytest.mark.parametrize("energy_mev", [0.5, 2.0, 6.0])
def test_terma_of_one_energy_is_fluence_times_attenuation_times_energy(energy_mev):
    volume = box((12, 40, 12), 5.0)
    result = terma(rectangle(), frame(), volume, mono(energy_mev))
    mu = float(mass_attenuation_cm2_g("water", np.array([energy_mev]))[0])
    z, y, x = np.meshgrid(*(volume.grid.axis_mm(axis) for axis in range(3)), indexing="ij")
    distance = np.sqrt(x**2 + (y + 1000.0) ** 2 + z**2)
    path = 0.1 * (y + 100.0) * distance / (y + 1000.0)
    expected = (1000.0 / distance) ** 2 * mu * energy_mev * GY_G_PER_MEV * np.exp(-mu * path)
    inside = np.maximum(np.abs(x), np.abs(z)) * 1000.0 / (1000.0 + y) < 26.0
    total = (result.primary + result.scatter).astype(np.float64)
    assert total[inside] == pytest.approx(expected[inside], rel=2e-4)
    outside = np.maximum(np.abs(x), np.abs(z)) * 1000.0 / (1000.0 + y) > 33.5
    assert not total[outside].any()


@pytest.mark.parametrize("sharpen", [(), (1.0 / 12.0,), (0.3, -0.03), (0.36, -0.06, 0.005)])
@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.0, 30.0), (37.0, 20.0)])
def test_field_edges_within_voxels_keep_the_photons(angles, sharpen):
    """Energy released in almost nothing: the field's area times the path through the box, whatever the angles.

    All photons of the field cross every plane; inverse square and area cancel.
    """
    gantry, collimator = angles
    volume = box((40, 40, 40), 4.0, density=1e-3)
    field = rectangle((-23.0, 17.0), (-11.0, 20.0))
    at = frame(gantry, collimator_angle_deg=collimator)
    result = terma(field, at, volume, mono(2.0), sharpen=sharpen)
    mu = float(mass_attenuation_cm2_g("water", np.array([2.0]))[0])
    electron = float(electron_density(np.array([1e-3], dtype=np.float32))[0])
    centres = np.stack(np.meshgrid(*(volume.grid.axis_mm(axis) for axis in (0, 1, 2)), indexing="ij")[::-1], axis=-1)
    projected = at.project(centres)
    slab = np.abs(projected[..., 2] - 1000.0) < 40.0
    # photons through a plane: number per solid angle x solid angle; path through the slab 80 mm / cos(theta)
    relative = centres - at.source_mm
    cosine = projected[..., 2] / np.linalg.norm(relative, axis=-1)
    energy = ((result.primary + result.scatter) * cosine**-2)[slab].sum(dtype=np.float64) * 0.4**3
    expected = 4.0 * 3.1 * 8.0 * mu * electron * 2.0 * GY_G_PER_MEV
    assert energy == pytest.approx(expected, rel=4e-3)


@pytest.mark.parametrize("seed", range(4))
def test_sharper_edges_against_pairs_of_voxels(seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 6, size=3))
    released = random.uniform(0.0, 1.0, size=shape).astype(np.float32)
    electron = random.choice([0.001, 0.26, 1.0, 1.7, 15.0], size=shape).astype(np.float32)
    result = np.empty_like(released)
    kernels.sharpen(released, electron, np.array([0.28, -0.03, 0.005]), result)
    expected = sharpened(released, electron, (0.28, -0.03, 0.005))
    assert result == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert result.sum(dtype=np.float64) == pytest.approx(released.sum(dtype=np.float64), rel=1e-5, abs=1e-3)


def test_sharper_edges_leave_steps_of_density_alone():
    """Equal energy per electron everywhere: nothing to sharpen, whatever the densities."""
    electron = np.random.default_rng(1).uniform(0.001, 2.0, size=(4, 5, 6)).astype(np.float32)
    result = np.empty_like(electron)
    kernels.sharpen(0.7 * electron, electron, np.array([0.28, -0.03, 0.005]), result)
    assert result == pytest.approx(0.7 * electron, rel=1e-5)


@pytest.mark.parametrize(
    ("density", "medium"), [(1.85, "cortical_bone_icrp"), (4.54, "titanium"), (19.3, "gold"), (1.0, "water")]
)
def test_a_slab_attenuates_as_its_material(density, medium):
    """Behind 10 mm of it, one photon energy."""
    volume = box((6, 20, 6), 5.0)
    clear = terma(rectangle(), frame(), volume, mono(1.5))
    volume.mass_g_cm3[:, 4:6] = density
    behind = terma(rectangle(), frame(), volume, mono(1.5))
    ratio = float(behind.primary[3, 15, 3] / clear.primary[3, 15, 3])
    mu, water = (float(mass_attenuation_cm2_g(name, np.array([1.5]))[0]) for name in (medium, "water"))
    z = x = 2.5
    slant = np.sqrt(z**2 + x**2 + (1000.0 + 27.5) ** 2) / 1027.5
    assert ratio == pytest.approx(np.exp(-(mu * density - water) * slant), rel=2e-3)


def test_bone_by_first_order_is_bone_by_the_whole_spectrum():
    """The depth table corrects for bone to first order; a trace of titanium makes the kernel sum over all energies."""
    volume = box((6, 60, 6), 5.0)
    volume.mass_g_cm3[:, 10:16] = 1.85
    quick = terma(rectangle(), frame(), volume, beam())
    volume.mass_g_cm3[:, 0] = 2.8001
    exact = terma(rectangle(), frame(), volume, beam())
    reference = box((6, 60, 6), 5.0)
    reference.mass_g_cm3[:, 10:16] = 1.85
    reference.mass_g_cm3[:, 0] = 2.8
    quick = terma(rectangle(), frame(), reference, beam())
    there = (3, slice(20, 55), 3)
    assert quick.primary[there] == pytest.approx(exact.primary[there], rel=1e-3)
    assert quick.scatter[there] == pytest.approx(exact.scatter[there], rel=1e-3)


def test_metal_keeps_what_it_absorbs_beyond_its_electrons():
    """Energy that leaves the photons in a gold voxel is released or kept there: mu x fluence x energy altogether."""
    volume = box((6, 20, 6), 1.0)
    volume.mass_g_cm3[:, 10] = 19.3
    result = terma(rectangle(), frame(), volume, mono(1.5))
    here = (3, 10, 3)
    total = float(result.primary[here] + result.scatter[here] + result.kept[here])
    gold, water = (float(mass_attenuation_cm2_g(name, np.array([1.5]))[0]) for name in ("gold", "water"))
    arriving = np.exp(-water * 1.0 - gold * 19.3 * 0.05)
    assert total == pytest.approx(gold * 19.3 * 1.5 * GY_G_PER_MEV * arriving, rel=3e-3)
    assert not result.kept[:, :10].any()


def test_the_source_blurs_the_edge_and_keeps_the_photons():
    volume = box((20, 10, 20), 4.0)
    # 6 mm at isocentre, standard deviation 2.5 mm
    wide = replace(mono(2.0), source_fwhm_mm=4.0, collimator_distance_mm=400.0)
    sharp = terma(rectangle(), frame(), volume, mono(2.0))
    blurred = terma(rectangle(), frame(), volume, wide)
    assert blurred.primary.sum() == pytest.approx(float(sharp.primary.sum()), rel=1e-3)
    # centres at 30 and 34 mm: on the edge, and 1.6 standard deviations beyond
    assert blurred.primary[10, 5, 17] / blurred.primary[10, 5, 10] == pytest.approx(0.5, abs=0.02)
    assert 0.03 < blurred.primary[10, 5, 18] / blurred.primary[10, 5, 10] < 0.12
    assert sharp.primary[10, 5, 18] == 0


def test_bins_are_spread_over_their_width():
    energies, photons = fine_spectrum(beam())
    assert photons.sum() == pytest.approx(1.0, abs=1e-12)
    assert len(energies) == 3 * len(beam().energies_mev)
    mean = (beam().energies_mev * beam().photon_weights).sum() / beam().photon_weights.sum()
    assert (energies * photons).sum() == pytest.approx(float(mean), rel=1e-12)
    single, share = fine_spectrum(mono(2.0))
    assert single.tolist() == [2.0]
    assert share.tolist() == [1.0]
    assert load_point_kernels().fraction.shape[0] == 12


def test_depths_are_those_that_rays_have_behind_them():
    """Kept on the way: the paths of path_integral where the field is, NaN elsewhere."""
    volume = box((8, 20, 8), 5.0)
    volume.mass_g_cm3[:, 6:9] = 0.3
    at = frame(30.0)
    result = terma(rectangle((-11.0, 9.0), (-8.0, 8.0)), at, volume, beam(), depths=True)
    released = result.primary > 0
    assert np.array_equal(np.isnan(result.depth_mm), ~released)
    points = volume.grid.patient_from_index(np.argwhere(released))
    expected = path_integral(result.electron_relative, volume.grid, at.source_mm, points)
    assert result.depth_mm[released] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert terma(rectangle(), at, volume, beam()).depth_mm.size == 0
