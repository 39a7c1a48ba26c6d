"""The influence operators: transposes of themselves, the same dose as the engine, the same bits with any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.sparse import coo_array

from dicomplan.beams.arrangement import arrange
from dicomplan.beams.beamlets import BeamletMap, beamlets
from dicomplan.beams.delivery import Aperture, BeamDelivery, Segment
from dicomplan.dose.between import RowsOfDose
from dicomplan.dose.engines import PencilBeamEngine, delivery_plane, plane_of_beamlets
from dicomplan.dose.explicit import DenseInfluence
from dicomplan.dose.influence import FactorisedInfluence, factorised_influence
from dicomplan.dose.pencil_beam import beam_samples, medium
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine
from dicomplan.patient.density import DensityVolume

FRACTIONS = 25
MACHINE = load_machine("generic_6mv")


TWO_SOURCES = "agility_6mv"
"""With an extra-focal source, and leaf ends that blur."""


@cache
def plan(name: str = MACHINE.name) -> tuple[FactorisedInfluence, PencilBeamEngine, tuple[BeamletMap, ...]]:
    """Three beams, one non-coplanar, on a box of water with a lung; every third voxel is looked at."""
    machine = load_machine(name)
    grid = VoxelGrid((24, 26, 28), (6.0, 5.0, 5.0), (-67.5, -62.5, -69.0))
    mass = np.ones(grid.shape, np.float32)
    mass[6:14, 4:12, 16:24] = 0.26
    around, kernel = medium(DensityVolume(grid, mass)), pencil_kernel(machine.beam)
    voxels = np.flatnonzero(np.arange(grid.voxel_count) % 3 == 0)
    engine = PencilBeamEngine(machine, kernel, around, voxels, "HFS")
    random = np.random.default_rng(5)
    points = random.uniform(-1, 1, size=(4000, 3))
    points = 28.0 * points[np.linalg.norm(points, axis=1) < 1] + np.array([5.0, -4.0, 6.0])
    beams = arrange([(0, 0, 0), (130, 35, 0), (300, 90, 90)], (4.0, -3.0, 5.0), 1000.0)
    maps = tuple(beamlets(beam, beam.frame("HFS"), points, machine.mlc) for beam in beams)
    samples = [beam_samples(beam.frame("HFS"), around, voxels, kernel) for beam in beams]
    return factorised_influence(maps, samples, kernel, machine, FRACTIONS), engine, maps


@pytest.mark.parametrize("machine", [MACHINE.name, TWO_SOURCES])
@pytest.mark.parametrize("seed", range(6))
def test_adjoint(seed: int, machine: str) -> None:
    """<A x, g> = <x, A' g>. Kernels and products are in float32: 1e-6 of the sum of the terms' sizes holds."""
    operator, _, _ = plan(machine)
    random = np.random.default_rng(seed)
    x = random.uniform(0, 30, operator.beamlet_count)
    g = random.normal(size=operator.voxel_count)
    if seed % 2:
        g = np.abs(g)
    forward, adjoint = operator.forward(x).astype(np.float64), operator.adjoint(g)
    size = np.abs(forward) @ np.abs(g)
    assert abs(forward @ g - x @ adjoint) < 1e-6 * size
    if seed % 2:  # nothing cancels: the relative error itself
        assert forward @ g == pytest.approx(x @ adjoint, rel=1e-6)


def test_rows_between_voxels() -> None:
    """Interpolated rows: their dose, its transpose, and some of the rows alone, to the last bit."""
    whole, _, _ = plan()
    random = np.random.default_rng(8)
    chosen = random.integers(0, whole.voxel_count, (700, 3))
    shares = random.dirichlet(np.ones(3), 700).astype(np.float32)
    entries = (shares.ravel(), (np.repeat(np.arange(700), 3), chosen.ravel()))
    operator = replace(whole, rows=RowsOfDose(coo_array(entries, shape=(700, whole.voxel_count)).tocsr()))
    x = random.uniform(0, 30, operator.beamlet_count)
    dose, gradient = operator.forward(x), random.uniform(0, 1, 700)
    assert operator.voxel_count == len(dose) == 700
    np.testing.assert_allclose(dose, (whole.forward(x)[chosen] * shares).sum(axis=1), rtol=1e-5)
    assert dose.astype(np.float64) @ gradient == pytest.approx(x @ operator.adjoint(gradient), rel=1e-6)
    some = np.flatnonzero(random.uniform(size=700) < 0.2)
    part = operator.on_voxels(some)
    assert part.sampled_count < whole.voxel_count
    np.testing.assert_array_equal(part.forward(x), dose[some])
    padded = np.zeros(700)
    padded[some] = gradient[some]
    np.testing.assert_allclose(part.adjoint(gradient[some]), operator.adjoint(padded), rtol=1e-5)


def test_it_is_linear_and_nothing_is_negative() -> None:
    operator, _, _ = plan()
    random = np.random.default_rng(1)
    x, y = random.uniform(0, 30, size=(2, operator.beamlet_count))
    one, other = operator.forward(x), operator.forward(y)
    np.testing.assert_allclose(operator.forward(2 * x + y), 2 * one + other, rtol=1e-4, atol=1e-5 * one.max())
    assert one.min() > 0.0
    assert operator.adjoint(np.ones(operator.voxel_count)).min() > 0.0
    np.testing.assert_array_equal(operator.forward(np.zeros(operator.beamlet_count)), 0.0)


def test_a_row_of_the_transpose_is_a_column_of_the_operator() -> None:
    """Single beamlets and single voxels: the element of the matrix is one, found from both sides."""
    operator, _, _ = plan()
    random = np.random.default_rng(2)
    for beamlet in random.integers(0, operator.beamlet_count, size=4):
        unit = np.zeros(operator.beamlet_count)
        unit[beamlet] = 1.0
        column = operator.forward(unit)
        voxel = int(np.argmax(column))
        probe = np.zeros(operator.voxel_count)
        probe[voxel] = 1.0
        assert operator.adjoint(probe)[beamlet] == pytest.approx(column[voxel], rel=1e-5)


@pytest.mark.parametrize("machine", [MACHINE.name, TWO_SOURCES])
@pytest.mark.parametrize("seed", range(3))
def test_forward_is_the_engines_dose_of_the_same_fluence(seed: int, machine: str) -> None:
    operator, engine, maps = plan(machine)
    random = np.random.default_rng(seed)
    # as rough as an optimised map: whole rows closed, single beamlets on
    x = random.uniform(0, 30, operator.beamlet_count) * (random.uniform(size=operator.beamlet_count) > 0.3)
    total = np.zeros(operator.voxel_count)
    for one, part in zip(maps, operator.split(x), strict=True):
        plane = plane_of_beamlets(one.filled(part), one.x_edges_mm, one.y_edges_mm, load_machine(machine))
        total += FRACTIONS * engine.body_dose(one.beam, plane)
    # the operator takes the off-axis profile at the middle of each beamlet, the engine at each millimetre
    np.testing.assert_allclose(operator.forward(x), total, atol=0.005 * total.max())
    assert total.max() > 1.0


def test_beams_add_up_in_their_order() -> None:
    operator, _, maps = plan()
    x = np.random.default_rng(3).uniform(0, 30, operator.beamlet_count)
    parts = operator.split(x)
    assert [len(part) for part in parts] == [one.count for one in maps]
    total = np.zeros(operator.voxel_count)
    for index, part in enumerate(parts):
        alone = np.zeros_like(x)
        start = sum(len(other) for other in parts[:index])
        alone[start : start + len(part)] = part
        total += operator.forward(alone)
    np.testing.assert_allclose(total, operator.forward(x), rtol=1e-4)


def test_the_unit_is_gy_of_the_course_per_mu_of_a_fraction() -> None:
    """100 x 100 mm of beamlets at 150 MU in the calibration's geometry: 0.01 Gy/MU x 150 MU x fractions."""
    machine = load_machine("reference_6mv")
    kernel = pencil_kernel(machine.beam)
    grid = VoxelGrid((41, 60, 41), (5.0, 5.0, 5.0), (-100.0, -97.5, -100.0))
    around = medium(DensityVolume(grid, np.ones(grid.shape, np.float32)))
    beam = arrange([(0, 0, 0)], (0.0, 0.0, 0.0), 1000.0)[0]
    edges = np.arange(-50.0, 51.0, 5.0)
    first = int(np.flatnonzero(machine.mlc.leaf_boundaries_mm == -50.0)[0])
    cells = BeamletMap(beam, first, edges, edges, np.ones((20, 20), dtype=bool))
    # the two voxels on the axis about 100 mm depth
    voxels = np.ravel_multi_index((np.array([20, 20]), np.array([19, 20]), np.array([20, 20])), grid.shape)
    samples = beam_samples(beam.frame("HFS"), around, voxels, kernel)
    operator = factorised_influence([cells], [samples], kernel, machine, FRACTIONS)
    dose = operator.forward(np.full(400, 150.0))
    assert dose.mean() == pytest.approx(0.01 * 150 * FRACTIONS, rel=0.003)


def test_its_memory_is_told() -> None:
    operator, _, _ = plan()
    assert operator.bytes > operator.voxel_count * 3 * 9 * 4  # u, v and seven weights for each beam


def test_segments_as_dense_columns() -> None:
    """Columns are the engine's doses; forward and adjoint are the products that they say."""
    _, engine, _ = plan()
    random = np.random.default_rng(4)
    beam = arrange([(50, 10, 0)], (4.0, -3.0, 5.0), 1000.0)[0]
    segments = []
    for _ in range(5):
        leaves = np.full((2, 60), -50.0)
        leaves[0, 24:36] = random.uniform(-40, 0, 12)
        leaves[1, 24:36] = leaves[0, 24:36] + random.uniform(5, 50, 12)
        segments.append(Segment(Aperture(leaves, (-30.0, 30.0), (-60.0, 60.0)), float(random.uniform(1, 20))))
    columns = []
    for segment in segments:
        alone = BeamDelivery(beam, (replace(segment, meterset_mu=1.0),))
        columns.append(FRACTIONS * engine.body_dose(beam, delivery_plane(alone, MACHINE)))
    dense = DenseInfluence(np.stack(columns).astype(np.float32))
    assert (dense.beamlet_count, dense.voxel_count) == (5, len(engine.voxels))
    metersets = np.array([one.meterset_mu for one in segments])
    together = BeamDelivery(beam, tuple(segments))
    whole = FRACTIONS * engine.body_dose(beam, delivery_plane(together, MACHINE))
    np.testing.assert_allclose(dense.forward(metersets), whole, atol=1e-3 * whole.max())
    g = random.uniform(0, 1, dense.voxel_count)
    assert dense.adjoint(g) @ metersets == pytest.approx(dense.forward(metersets).astype(np.float64) @ g, rel=1e-5)


_BITS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, numba
from test_influence import plan
operator, engine, maps = plan()
random = np.random.default_rng(0)
forward = operator.forward(random.uniform(0, 30, operator.beamlet_count))
adjoint = operator.adjoint(random.normal(size=operator.voxel_count))
weights = operator.beams[0].samples.weight
print(numba.get_num_threads(), *(hashlib.sha256(a.tobytes()).hexdigest() for a in (forward, adjoint, weights)))
"""


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    told = []
    for threads in ("1", "2"):
        single = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = {**os.environ, **single, "NUMBA_NUM_THREADS": threads}
        command = [sys.executable, "-c", _BITS, os.path.dirname(__file__)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        told.append(done.stdout.split())
    assert [one[0] for one in told] == ["1", "2"]
    assert told[0][1:] == told[1][1:]
