"""The explicit influence matrix: against its equation, the factorised form and scipy; what it leaves out is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_influence import MACHINE, TWO_SOURCES, plan
from twins import influence_twins

from dicomplan.dose import _kernels_explicit as kernels
from dicomplan.dose.influence import factorised_influence
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.dose.sparse import explicit_bytes, explicit_influence, left_out
from dicomplan.errors import InsufficientMemoryError
from dicomplan.machine.library import load_machine

MACHINES = [MACHINE.name, TWO_SOURCES]
CUTOFFS = [None, 50.0, 1e4]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("seed", range(3))
def test_adjoint(machine: str, cutoff: float | None, seed: int) -> None:
    matrix = explicit_influence(plan(machine)[0], cutoff)
    random = np.random.default_rng(seed)
    x, g = random.uniform(0, 30, matrix.beamlet_count), random.normal(size=matrix.voxel_count)
    forward = matrix.forward(x).astype(np.float64)
    assert abs(forward @ g - x @ matrix.adjoint(g)) < 1e-6 * (np.abs(forward) @ np.abs(g))
    positive = np.abs(g)
    assert forward @ positive == pytest.approx(x @ matrix.adjoint(positive), rel=1e-6)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("cutoff", [None, 1e4])
def test_both_forms_say_the_same(machine: str, cutoff: float | None) -> None:
    """Whole, or with what lies beyond the matrix restored: far within 0.5 % of the maximum."""
    operator, _, _ = plan(machine)
    matrix = explicit_influence(operator, cutoff)
    random = np.random.default_rng(3)
    x = random.uniform(0, 30, matrix.beamlet_count) * (random.uniform(size=matrix.beamlet_count) > 0.4)
    dose = operator.forward(x)
    np.testing.assert_allclose(matrix.forward(x), dose, atol=1e-4 * dose.max())
    g = random.uniform(0, 1, matrix.voxel_count)
    gradient = operator.adjoint(g)
    np.testing.assert_allclose(matrix.adjoint(g), gradient, atol=1e-4 * gradient.max())


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("cutoff", CUTOFFS)
def test_elements_are_those_of_the_equation(machine: str, cutoff: float | None) -> None:
    operator, _, maps = plan(machine)
    model = load_machine(machine)
    kernel = pencil_kernel(model.beam)
    matrix = explicit_influence(operator, cutoff)
    held = matrix.to_scipy()
    largest = held.data.max()
    random = np.random.default_rng(7)
    number = 0
    missing = 0
    for beam, cells in zip(operator.beams, maps, strict=True):
        row, column = np.nonzero(cells.active)
        for _ in range(60):
            voxel, beamlet = int(random.integers(operator.voxel_count)), int(random.integers(cells.count))
            if random.uniform() < 0.7:  # most of them where dose is
                voxel = int(random.choice(held[:, [number + beamlet]].nonzero()[0]))
            x, y = cells.x_edges_mm[column[beamlet] :][:2], cells.y_edges_mm[row[beamlet] :][:2]
            samples = beam.samples
            u, v, weight = float(samples.u_mm[voxel]), float(samples.v_mm[voxel]), samples.weight[voxel]
            layers = (0,) if cutoff is None else (0, 1)
            axes = beam.axes.astype(float)
            expected = influence_twins.element(u, v, weight, x, y, kernel, model, axes, layers) * operator.gy_per_unit
            reach = 25.0 if cutoff is None else cutoff
            if np.hypot(u - x.mean(), v - y.mean()) > reach:
                expected, missing = 0.0, missing + 1
            assert held[voxel, number + beamlet] == pytest.approx(expected, abs=1e-4 * float(largest))
        number += cells.count
    assert missing > 5 or cutoff == 1e4


@pytest.mark.parametrize("seed", range(4))
def test_products_are_their_twins(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = int(random.integers(1, 30)), int(random.integers(1, 40))
    counts = random.integers(0, columns + 1, size=rows)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    indices = np.concatenate([np.sort(random.permutation(columns)[:count]) for count in counts]).astype(np.uint32)
    data = random.uniform(-1, 1, size=len(indices)).astype(np.float32)
    x, g = random.normal(size=columns), random.normal(size=rows)
    g[0] = 0.0
    out, parts = np.full(rows, np.nan, dtype=np.float32), np.full((8, columns), np.nan)
    kernels.product(starts, indices, data, x, out)
    np.testing.assert_allclose(out, influence_twins.product(starts, indices, data, x), rtol=1e-6, atol=1e-6)
    kernels.transposed_product(starts, indices, data, g, parts)
    expected = influence_twins.transposed_product(starts, indices, data, g, columns)
    np.testing.assert_allclose(parts.sum(axis=0), expected, rtol=1e-9, atol=1e-12)


def test_a_beamlet_that_is_missing_within_a_row_and_a_single_column() -> None:
    """Maps need not be filled: the matrix has the columns that there are, in their order."""
    operator, _, maps = plan()
    kernel = pencil_kernel(MACHINE.beam)
    active = maps[0].active.copy()
    active[2, 3:5] = False
    narrow = maps[1]
    single = np.zeros_like(narrow.active[:, :1])
    single[1:4] = True
    changed = [
        replace(maps[0], active=active),
        replace(narrow, x_edges_mm=narrow.x_edges_mm[:2], active=single),
    ]
    samples = [beam.samples for beam in operator.beams[:2]]
    other = factorised_influence(changed, samples, kernel, MACHINE, 1)
    matrix = explicit_influence(other, 1e4)
    assert matrix.beamlet_count == other.beamlet_count == int(active.sum()) + 3
    x = np.random.default_rng(0).uniform(0, 30, other.beamlet_count)
    dose = other.forward(x)
    np.testing.assert_allclose(matrix.forward(x), dose, atol=1e-5 * dose.max())


def test_scipy_has_the_same_matrix() -> None:
    matrix = explicit_influence(plan()[0], 40.0)
    held = matrix.to_scipy()
    assert held.shape == (matrix.voxel_count, matrix.beamlet_count)
    assert (held.dtype, held.indices.dtype) == (np.float32, np.int32)
    assert held.nnz == matrix.nonzeros
    assert held.has_canonical_format
    x = np.random.default_rng(0).uniform(0, 30, matrix.beamlet_count)
    np.testing.assert_allclose(held @ x, matrix.forward(x), rtol=1e-5)


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_left_out_is_counted(machine: str) -> None:
    """The less the farther; nothing to speak of where the coarse maps restore it."""
    operator, _, _ = plan(machine)
    dose = operator.forward(np.ones(operator.beamlet_count))
    target, body = (dose > 0.6 * dose.max()).astype(float), np.ones(operator.voxel_count)
    found = [left_out(explicit_influence(operator, cutoff), operator, target, body) for cutoff in (30.0, 60.0, 1e4)]
    assert found[0].target_mean > found[1].target_mean > 1e-4
    assert found[0].body_integral > found[1].body_integral > 1e-3
    assert not found[0].allowed
    assert abs(found[2].body_integral) < 1e-6
    restored = left_out(explicit_influence(operator), operator, target, body)
    assert abs(restored.target_mean) < 1e-4
    assert abs(restored.body_integral) < 1e-4
    assert restored.allowed
    # by the plain definition
    missing = dose.astype(float) - explicit_influence(operator, 30.0).forward(np.ones(operator.beamlet_count))
    assert found[0].body_integral == pytest.approx(missing.sum() / dose.sum(dtype=float), rel=1e-4)


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_built() -> None:
    operator, _, _ = plan()
    matrix = explicit_influence(operator, 30.0)
    needed = explicit_bytes(matrix.voxel_count, matrix.nonzeros)
    assert needed >= matrix.bytes
    explicit_influence(operator, 30.0, available_bytes=needed)
    with pytest.raises(InsufficientMemoryError, match="influence matrix") as caught:
        explicit_influence(operator, 30.0, available_bytes=needed - 1)
    assert caught.value.exit_code == 8


_BITS = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, numba
from test_influence import plan
from dicomplan.dose.sparse import explicit_influence
random = np.random.default_rng(0)
told = []
for cutoff in (None, 40.0):
    matrix = explicit_influence(plan("agility_6mv")[0], cutoff)
    told += [matrix.indices, matrix.data, matrix.forward(random.uniform(0, 30, matrix.beamlet_count))]
    told.append(matrix.adjoint(random.normal(size=matrix.voxel_count)))
print(numba.get_num_threads(), *(hashlib.sha256(a.tobytes()).hexdigest() for a in told))
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
