"""The solver on small dense operators: exact solutions, hard limits, offsets, warm starts, the same bits."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from optimization_helpers import Dense
from scipy.optimize import minimize, nnls

from dicomplan.errors import CancelledError
from dicomplan.events import Cancel
from dicomplan.metrics.dvh import DoseSamples
from dicomplan.optimization.constraints import Constraint, first_state, next_state
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet

LEVEL = 60.0
EXACT = SolverSettings(max_iterations=3000, relative_change=1e-13, window=20)
LONG = SolverSettings(max_iterations=2000)


def even_set(name, start, stop, weight=1.0):
    return VoxelSet(name, np.arange(start, stop), np.full(stop - start, weight))


def random_problem(seed, voxels=120, beamlets=30):
    """Matrix that gives a target (first third) about 60 Gy, an organ (second third) of uneven voxels, the rest."""
    generator = np.random.default_rng(seed)
    matrix = generator.random((voxels, beamlets)) ** 3
    fluence = generator.random(beamlets)
    third = voxels // 3
    matrix *= LEVEL / (matrix @ fluence)[:third].mean()
    organ = VoxelSet("organ", np.arange(third, 2 * third), generator.uniform(0.001, 0.03, third))
    terms = (
        Term("uniform", even_set("target", 0, third, 0.03), LEVEL, 100.0),
        Term("max_dose", even_set("rest", 2 * third, voxels), 0.0, 0.1),
    )
    return matrix, fluence, organ, terms


def test_a_least_squares_problem_has_its_exact_solution():
    """Two-sided squares and smoothing alone are non-negative least squares: Lawson and Hanson's answer."""
    generator = np.random.default_rng(4)
    matrix = generator.random((40, 25))
    weights = generator.uniform(0.5, 2.0, 40)
    level = 50.0
    pairs = Smoothing(np.arange(24), np.arange(1, 25), np.ones(24), weight=1e-4, scale=3.0)
    problem = Problem((Term("uniform", VoxelSet("a", np.arange(40), weights), level, 5.0),), LEVEL, smoothing=pairs)
    found = solve(Dense(matrix), problem, settings=EXACT)
    rows = np.sqrt(5.0 * weights / weights.sum()) / LEVEL
    rough = np.sqrt(1e-4 / 24) / 3.0 * (np.eye(25)[:24] - np.eye(25)[1:])
    exact, rest = nnls(np.vstack([rows[:, None] * matrix, rough]), np.concatenate([rows * level, np.zeros(24)]))
    assert (exact == 0).any()  # the bound matters
    assert found.objective[-1] == pytest.approx(rest**2, rel=1e-6)
    np.testing.assert_allclose(found.fluence, exact, atol=1e-3 * exact.max())
    np.testing.assert_allclose(found.dose_gy, matrix @ found.fluence, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_problem_with_a_hard_maximum_has_its_exact_solution(seed):
    """Against sequential quadratic programming (SLSQP), which holds the limit voxel by voxel."""
    matrix, fluence, organ, terms = random_problem(seed, voxels=45, beamlets=8)
    free = solve(Dense(matrix), Problem(terms, LEVEL), settings=EXACT)
    limit = 0.8 * float(free.dose_gy[organ.indices].max())
    problem = Problem(terms, LEVEL, (Constraint("upper", organ, limit),))
    settings = SolverSettings(max_iterations=5000, relative_change=1e-8, tolerance=1e-6)
    found = solve(Dense(matrix), problem, settings=settings)
    target, rest = matrix[:15], matrix[30:]

    def objective(x):
        return 100 * np.mean((target @ x / LEVEL - 1) ** 2) + 0.1 * np.mean((rest @ x / LEVEL) ** 2)

    rows = matrix[organ.indices]
    held = {"type": "ineq", "fun": lambda x: 1 - rows @ x / limit, "jac": lambda x: -rows / limit}
    exact = minimize(
        objective, 0.5 * fluence, bounds=[(0, None)] * 8, constraints=[held], options={"maxiter": 1000, "ftol": 1e-12}
    )
    assert exact.success
    assert found.limits_met
    assert found.objective[-1] == pytest.approx(exact.fun, rel=2e-4)
    assert found.objective[-1] > free.objective[-1] * 1.01  # the limit matters


@pytest.mark.parametrize("seed", range(50))
def test_hard_maxima_hold_to_a_thousandth(seed):
    """Dmax limits that can be met (no fluence meets them): the ideal dose meets them."""
    matrix, fluence, organ, terms = random_problem(seed)
    factor = np.random.default_rng(seed).uniform(0.4, 1.0)
    limit = factor * float((matrix @ fluence)[organ.indices].max())
    found = solve(Dense(matrix), Problem(terms, LEVEL, (Constraint("upper", organ, limit),)), settings=LONG)
    assert found.limits_met
    assert (matrix @ found.fluence)[organ.indices].max() <= 1.001 * limit
    assert found.excess_gy[0] == pytest.approx((matrix @ found.fluence)[organ.indices].max() - limit, abs=1e-9)
    assert found.fluence.min() >= 0


@pytest.mark.parametrize("seed", range(6))
def test_limits_of_every_kind_hold_together(seed):
    """A D_v maximum, a minimum of part of the target and a mean, all at once and all met by a known fluence."""
    matrix, fluence, organ, terms = random_problem(seed)
    dose = matrix @ fluence
    target = terms[0].voxels
    samples = DoseSamples.of_points(dose[organ.indices], organ.weights)
    volume = 0.3 * organ.volume
    # a limit on the mean of the hottest is no weaker than one on D_v: the known fluence meets it
    most = samples.hottest_gy(0.3 * volume)
    least = float(np.sort(dose[target.indices])[2])
    limits = (
        Constraint("upper", organ, most, volume),
        Constraint("lower", target, least, 0.2 * target.volume),
        Constraint("mean_upper", organ, samples.mean_gy),
        Constraint("mean_lower", target, 0.99 * float(dose[target.indices].mean())),
    )
    found = solve(Dense(matrix), Problem(terms, LEVEL, limits), settings=LONG)
    assert found.limits_met, found.excess_gy
    got = DoseSamples.of_points(found.dose_gy[organ.indices], organ.weights)
    assert got.hottest_gy(volume) <= 1.001 * most
    assert got.mean_gy <= 1.001 * samples.mean_gy
    covered = DoseSamples.of_points(found.dose_gy[target.indices], target.weights)
    assert covered.coldest_gy(0.2 * target.volume) >= 0.999 * least
    assert covered.mean_gy >= 0.999 * 0.99 * float(dose[target.indices].mean())


def test_a_limit_that_does_not_bind_changes_nothing():
    matrix, _, organ, terms = random_problem(3)
    free = solve(Dense(matrix), Problem(terms, LEVEL), settings=EXACT)
    loose = Constraint("upper", organ, 2.0 * float(free.dose_gy[organ.indices].max()))
    held = solve(Dense(matrix), Problem(terms, LEVEL, (loose,)), settings=EXACT)
    np.testing.assert_array_equal(held.fluence, free.fluence)
    assert held.limits_met
    assert held.excess_gy[0] < 0


def test_a_limit_that_cannot_be_met_is_told():
    matrix, _, organ, terms = random_problem(2)
    limits = (Constraint("upper", organ, 10.0), Constraint("lower", terms[0].voxels, 55.0))
    found = solve(Dense(matrix), Problem(terms, LEVEL, limits), settings=SolverSettings(max_iterations=300))
    assert not found.limits_met
    assert max(found.excess_gy) > 1.0
    assert found.stopped != "converged"
    assert np.isfinite(found.dose_gy).all()


def test_offset_and_factor_belong_to_the_dose():
    """A dose d = f A x + o is the dose of the operator diag(f) A on levels lowered by o."""
    matrix, _, _, _ = random_problem(7)
    generator = np.random.default_rng(7)
    factor, offset = generator.uniform(0.8, 1.2, 120), generator.uniform(-3, 3, 120)
    voxels = even_set("all", 0, 120)
    found = solve(
        Dense(matrix),
        Problem((Term("uniform", voxels, LEVEL, 1.0),), LEVEL),
        dose_offset_gy=offset,
        dose_factor=factor,
        settings=EXACT,
    )
    _, rest = nnls(factor[:, None] * matrix, LEVEL - offset)
    assert found.objective[-1] == pytest.approx(rest**2 / 120 / LEVEL**2, rel=1e-6)
    np.testing.assert_allclose(found.dose_gy, factor * (matrix @ found.fluence) + offset, rtol=1e-12)


def test_units_of_fluence_do_not_matter():
    """Fluence in units a thousand times smaller, the same dose."""
    matrix, _, organ, terms = random_problem(5)
    problem = Problem(terms, LEVEL, (Constraint("upper", organ, 40.0),))
    one, other = solve(Dense(matrix), problem), solve(Dense(1024 * matrix), problem)
    np.testing.assert_allclose(1024 * other.fluence, one.fluence, rtol=1e-9, atol=1e-9 * one.fluence.max())


def test_a_warm_start_goes_on_where_it_was():
    matrix, _, organ, terms = random_problem(8)
    problem = Problem(terms, LEVEL, (Constraint("upper", organ, 35.0),))
    first = solve(Dense(matrix), problem, settings=LONG)
    again = solve(Dense(matrix), problem, warm_start=first, settings=LONG)
    assert again.limits_met
    assert again.iterations <= first.iterations / 2
    assert again.objective[-1] <= first.objective[-1] * 1.001
    other = Problem(terms, LEVEL)  # without the limit: the fluence alone is taken over
    assert solve(Dense(matrix), other, warm_start=first).objective[0] == pytest.approx(first.objective[-1], rel=1e-6)


def test_a_start_is_scaled_to_the_dose_that_is_wanted():
    matrix, fluence, _, terms = random_problem(9)
    dose = (matrix @ fluence)[:40]
    best = 100 * float(np.mean((dose * (LEVEL * dose.sum() / (dose @ dose)) / LEVEL - 1) ** 2))
    for size in (1e-6, 1.0, 1e6):
        settings = SolverSettings(max_iterations=1)
        found = solve(Dense(matrix), Problem(terms[:1], LEVEL), start=size * fluence, settings=settings)
        assert found.objective[0] == pytest.approx(best, rel=1e-4)


def test_progress_history_and_cancel():
    matrix, _, _, terms = random_problem(1)
    problem, events, cancel = Problem(terms, LEVEL), [], Cancel()
    found = solve(Dense(matrix), problem, progress=events.append)
    assert len(events) == found.iterations <= len(found.objective)
    assert {event.stage for event in events} == {"optimize"}
    assert f"{found.objective[-1]:.6g}" in events[-1].message
    assert [event.fraction for event in events] == sorted(event.fraction for event in events)
    assert found.objective[-1] < found.objective[0]
    assert sum(found.term_values) == pytest.approx(found.objective[-1], rel=1e-12)
    assert found.stopped == "converged"
    assert solve(Dense(matrix), problem, settings=SolverSettings(max_iterations=3)).stopped == "iteration limit"

    def stop(_):
        if len(events) > 5:
            cancel.set()
        events.append(_)

    events.clear()
    with pytest.raises(CancelledError):
        solve(Dense(matrix), problem, progress=stop, cancel=cancel)
    assert len(events) == 7


def test_single_precision_doses_are_enough():
    """An engine in float32 ends where one in float64 does."""
    matrix, _, organ, terms = random_problem(6)

    class Single(Dense):
        def forward(self, fluence):
            return (self.matrix.astype(np.float32) @ fluence.astype(np.float32)).astype(np.float32)

    problem = Problem(terms, LEVEL, (Constraint("upper", organ, 40.0),))
    one, other = (solve(kind(matrix), problem, settings=LONG) for kind in (Dense, Single))
    assert other.limits_met
    assert other.objective[-1] == pytest.approx(one.objective[-1], rel=2e-3)


def test_what_does_not_fit_is_refused():
    matrix, _, _, terms = random_problem(0)
    problem, operator = Problem(terms, LEVEL), Dense(matrix)
    with pytest.raises(ValueError, match="factor and offset"):
        solve(operator, problem, dose_offset_gy=np.zeros(5))
    with pytest.raises(ValueError, match="for 30 beamlets"):
        solve(operator, problem, start=np.ones(4))
    with pytest.raises(ValueError, match="no dose"):
        solve(operator, problem, start=np.zeros(30))
    with pytest.raises(ValueError, match="the operator has 90"):
        solve(Dense(matrix[:90]), problem)
    with pytest.raises(ValueError, match="not finite"):
        solve(Dense(matrix * np.nan), problem)
    pairs = Smoothing(np.array([0]), np.array([30]), np.ones(1), 1.0)
    with pytest.raises(ValueError, match="beamlet"):
        solve(operator, Problem(terms, LEVEL, smoothing=pairs))


_BITS = """
import hashlib
import numpy as np
from scipy import sparse
from optimization_helpers import Dense
from dicomplan.optimization.constraints import Constraint, first_state, next_state
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet

generator = np.random.default_rng(0)
where = generator.integers(0, 6000, 120_000), np.repeat(np.arange(12_000), 10)
matrix = sparse.csr_array((generator.random(120_000), where), shape=(6000, 12_000))
transposed = matrix.T.tocsr()

class Sparse:
    voxel_count, beamlet_count = 6000, 12000
    def forward(self, fluence): return matrix @ fluence
    def adjoint(self, weights): return transposed @ weights

def part(a, b): return VoxelSet("part", np.arange(a, b), np.ones(b - a))
terms = (Term("uniform", part(0, 2000), 60.0, 100.0), Term("max_tail", part(0, 6000), 50.0, 10.0, 60.0))
pairs = Smoothing(np.arange(11999), np.arange(1, 12000), np.ones(11999), 0.1)
problem = Problem(terms, 60.0, (Constraint("upper", part(3000, 4000), 30.0),), pairs)
found = solve(Sparse(), problem, settings=SolverSettings(max_iterations=12, round_iterations=4))
print(hashlib.sha256(found.fluence.tobytes()).hexdigest())
"""


def test_the_same_bits_each_time_and_with_any_number_of_threads():
    """Linear algebra on one thread, as ``workflow`` is to start it: its dot products over threads vary (10,000 up)."""
    import os

    folder = os.path.dirname(__file__)
    found = set()
    for threads in ("1", "2"):
        environment = os.environ | {
            "NUMBA_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONPATH": folder,
        }
        done = subprocess.run(
            [sys.executable, "-c", _BITS], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1
    matrix, _, organ, terms = random_problem(0)
    problem = Problem(terms, LEVEL, (Constraint("upper", organ, 35.0),))
    bits = {hashlib.sha256(solve(Dense(matrix), problem).fluence.tobytes()).hexdigest() for _ in range(3)}
    assert len(bits) == 1


def test_multipliers_of_a_limit_that_cannot_be_held_stay_bounded():
    """Kept 5 Gy too hot for a hundred rounds: what the limit weighs in all must not outgrow everything else."""
    voxels = VoxelSet("t", np.arange(50), np.full(50, 0.1))
    limit = Constraint("upper", voxels, 20.0)
    dose = np.full(50, 25.0)
    state = first_state(limit, dose)
    forces = []
    for _ in range(100):
        state = next_state(limit, state, dose, 50.0)
        forces.append(float(state.held @ state.multipliers))
    assert forces[0] < forces[5]
    assert forces[-1] == pytest.approx(forces[50]) == pytest.approx(max(forces))
    assert max(forces) < 1000.0
