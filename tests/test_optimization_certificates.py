"""Certificates: bounds never above the truth and near it, limits that fight told from limits that can be held."""

from dataclasses import replace

import numpy as np
import pytest
from optimization_helpers import Dense
from scipy.optimize import linprog

from dicomplan.errors import CancelledError
from dicomplan.events import Cancel
from dicomplan.optimization.certificates import least_give, optimality
from dicomplan.optimization.constraints import Constraint, missing_share
from dicomplan.optimization.meterset import Meterset, meterset
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet

LEVEL = 60.0
EXACT = SolverSettings(max_iterations=5000, relative_change=1e-8, tolerance=1e-6)
LONG = SolverSettings(max_iterations=2000)


def patient(seed, voxels=60, beamlets=15):
    """A matrix that gives the target (first third) 60 Gy on average with the fluence, an organ and the rest."""
    generator = np.random.default_rng(seed)
    matrix = generator.random((voxels, beamlets)) ** 3
    fluence = generator.random(beamlets)
    third = voxels // 3
    matrix *= LEVEL / (matrix @ fluence)[:third].mean()
    sets = tuple(
        VoxelSet(name, np.arange(k * third, (k + 1) * third), generator.uniform(0.5, 1.5, third))
        for k, name in enumerate(("target", "organ", "rest"))
    )
    return generator, matrix, fluence, sets


def convex_terms(target, organ, rest):
    return (
        Term("uniform", target, LEVEL, 100.0),
        Term("max_dose", rest, 0.0, 0.1),
        Term("max_geud", organ, 20.0, 1.0, exponent=4.0),
    )


def with_tail(target, organ, rest):
    """A tail of two voxels has kinks everywhere."""
    return (
        *convex_terms(target, organ, rest),
        Term("max_tail", target, 1.05 * LEVEL, 20.0, 0.1 * target.volume),
    )


def held_limits(generator, dose, sets):
    """Limits of every convex kind that the dose holds, some with nothing to spare."""
    target, organ, rest = sets
    spare = generator.choice([0.0, 0.01, 0.1], 5)
    return (
        Constraint("upper", organ, (1 + spare[0]) * dose[organ.indices].max()),
        Constraint("lower", target, (1 - spare[1]) * dose[target.indices].min()),
        Constraint("upper", target, (1 + spare[2]) * dose[target.indices].max()),
        Constraint("mean_upper", rest, (1 + spare[3]) * float(rest.weights @ dose[rest.indices]) / rest.volume),
        Constraint("mean_lower", target, (1 - spare[4]) * float(target.weights @ dose[target.indices]) / target.volume),
    )


def rows_of(matrix, limit):
    """Rows A and levels b of the limit as A x <= b, and the sign."""
    rows, sign = matrix[limit.voxels.indices], -1.0 if "lower" in limit.kind else 1.0
    if limit.kind.startswith("mean"):
        rows = (limit.voxels.weights / limit.voxels.volume @ rows)[None]
    return sign * rows, np.full(len(rows), sign * limit.dose_gy)


def true_share(matrix, limits, alone=None):
    """The least share, as a linear program solved by HiGHS; ``alone``: of one limit, the others held."""
    blocks, levels = [], []
    for k, limit in enumerate(limits):
        rows, bounds = rows_of(matrix, limit)
        gives = limit.dose_gy if alone in (None, k) else 0.0
        blocks.append(np.hstack([rows, np.full((len(rows), 1), -gives)]))
        levels.append(bounds)
    count = matrix.shape[1]
    found = linprog(
        np.append(np.zeros(count), 1.0),
        A_ub=np.vstack(blocks),
        b_ub=np.concatenate(levels),
        bounds=[(0, None)] * count + [(None, None)],
    )
    return found.fun if found.status == 0 else np.inf


@pytest.mark.parametrize("batch", range(20))
def test_limits_that_can_be_held_are_held_and_never_called_infeasible(batch):
    """Of 200 random convex problems: at most 0.1 % above on the ideal dose, and no proof that there is none."""
    for seed in range(10 * batch, 10 * batch + 10):
        generator, matrix, fluence, sets = patient(seed)
        limits = held_limits(generator, matrix @ fluence, sets)
        found = solve(Dense(matrix), Problem(convex_terms(*sets), LEVEL, limits), settings=LONG)
        dose = matrix @ found.fluence
        worst = max(missing_share(limit, dose) for limit in limits)
        assert worst <= 1e-3, (seed, worst)
        assert found.limits_met
        if seed % 4 == 0:
            certificate = least_give(Dense(matrix), limits, LEVEL)
            assert not certificate.infeasible, (seed, certificate.share)
            assert certificate.reached <= 1e-3


@pytest.mark.parametrize("seed", range(12))
def test_limits_that_fight_are_proven_to(seed):
    """An organ within the target, or a mean that leaves no dose: the proof is below the truth and within 2 % of it."""
    generator, matrix, _, (target, organ, rest) = patient(seed, voxels=90, beamlets=20)
    inside = VoxelSet("inside", target.indices[:9], target.weights[:9])
    limits = (
        Constraint("lower", target, 57.0),
        Constraint("upper", inside, 57.0 * generator.uniform(0.4, 0.95)),
        Constraint("upper", organ, 80.0),
        Constraint("mean_upper", rest, generator.uniform(10.0, 40.0)),
    )
    true = true_share(matrix, limits)
    found = least_give(Dense(matrix), limits, LEVEL)
    assert true > 0.01
    assert found.infeasible
    assert 0.98 * true <= found.share <= true + 1e-9
    assert true - 1e-9 <= found.reached <= 1.02 * true
    assert found.reached == max(missing_share(limit, matrix @ found.fluence) for limit in limits)
    assert found.fluence.min() >= 0.0
    assert {0, 1} <= {one.constraint for one in found.conflicts} or found.conflicts[0].constraint in (0, 3)
    assert sum(one.part for one in found.conflicts) == pytest.approx(1.0, abs=1e-4)
    for one in found.conflicts:
        alone = true_share(matrix, limits, one.constraint) * limits[one.constraint].dose_gy
        assert one.alone_gy <= alone * (1 + 1e-9)
    # without the limits that are named nothing fights: each two of them are needed
    others = [limit for k, limit in enumerate(limits) if k not in {one.constraint for one in found.conflicts}]
    assert not others or true_share(matrix, others) <= 0.0


def test_two_limits_on_one_voxel_give_way_as_can_be_said_by_heart():
    """At least 60 and at most 40 Gy: 60 (1 - t) = 40 (1 + t) at t = 0.2; alone each gives 20 Gy."""
    one = VoxelSet("one", np.arange(1), np.ones(1))
    limits = (Constraint("lower", one, 60.0), Constraint("upper", one, 40.0))
    found = least_give(Dense(np.ones((1, 1))), limits, LEVEL)
    assert found.share == pytest.approx(0.2, abs=1e-6)
    assert found.reached == pytest.approx(0.2, abs=2e-3)
    assert [one.constraint for one in found.conflicts] == [0, 1]
    assert [one.part for one in found.conflicts] == pytest.approx([0.6, 0.4], abs=1e-6)
    assert [one.alone_gy for one in found.conflicts] == pytest.approx([20.0, 20.0], abs=1e-4)
    shifted = least_give(Dense(np.ones((1, 1))), limits, LEVEL, dose_offset_gy=np.array([55.0]))
    assert shifted.share == pytest.approx(
        15 / 40, abs=1e-6
    )  # 55 Gy are there whatever the fluence: only the upper gives
    assert [one.constraint for one in shifted.conflicts] == [1]


def test_limits_on_a_volume_are_proven_by_what_follows_from_them():
    """Ten voxels of one dose: 5 of 10 may exceed 20 Gy up to 70, all at least 60 Gy. And never a proof against the truth."""
    ten = VoxelSet("ten", np.arange(10), np.ones(10))
    even = Dense(np.ones((10, 1)))
    limits = (Constraint("upper", ten, 20.0, 5.0), Constraint("lower", ten, 60.0))
    assert not least_give(even, limits, LEVEL).infeasible
    assert least_give(even, limits, LEVEL).left_out == (0,)
    found = least_give(even, limits, LEVEL, most_gy=70.0)
    # sum of (60 (1 - t) - 20 (1 + t)) over 10 at most 5 (70 - 20 (1 + t)): 400 - 800 t <= 250 - 100 t
    assert found.share == pytest.approx(150 / 700, rel=1e-3)
    assert found.reached >= 0.499  # the truth: 60 (1 - t) = 20 (1 + t)
    under = (Constraint("lower", ten, 60.0, 2.0), Constraint("upper", ten, 20.0))
    found = least_give(even, under, LEVEL)
    # sum of (60 (1 - t) - 20 (1 + t)) over 10 at most 2 * 60 (1 - t)
    assert found.share == pytest.approx(280 / 680, rel=1e-3)
    assert found.left_out == ()
    # half may be hot: free voxels hold both
    free = Dense(np.eye(10))
    both = (Constraint("upper", ten, 20.0, 5.0), Constraint("lower", VoxelSet("five", np.arange(5), np.ones(5)), 60.0))
    assert least_give(free, both, LEVEL, most_gy=70.0).share <= 1e-6


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_on_the_objective_is_true_and_near(seed):
    """With limits and smoothing to 1e-4; what an unfinished solution proves is not above the optimum either."""
    generator, matrix, fluence, sets = patient(seed)
    limits = held_limits(generator, matrix @ fluence, sets)
    pairs = Smoothing(np.arange(14), np.arange(1, 15), np.ones(14), weight=1e-3, scale=1.0)
    problem = Problem(convex_terms(*sets), LEVEL, limits, pairs)
    found = solve(Dense(matrix), problem, settings=EXACT)
    best = optimality(Dense(matrix), problem, found)
    assert best.objective == found.objective[-1]
    assert best.left_out == ()
    assert -1e-5 <= best.gap <= 1e-4
    assert best.projected_gradient <= 0.05
    rough = solve(Dense(matrix), problem, settings=SolverSettings(max_iterations=15))
    early = optimality(Dense(matrix), problem, rough)
    assert early.lower_bound <= best.objective * (1 + 1e-5)
    assert early.projected_gradient > best.projected_gradient


@pytest.mark.parametrize("seed", range(4))
def test_tangents_close_by_see_through_kinks(seed):
    generator, matrix, fluence, sets = patient(seed)
    problem = Problem(with_tail(*sets), LEVEL, held_limits(generator, matrix @ fluence, sets))
    found = solve(Dense(matrix), problem, settings=EXACT)
    assert 0.0 <= optimality(Dense(matrix), problem, found).gap + 1e-5 <= 0.01


def test_what_is_not_convex_is_left_out_of_the_bound():
    _, matrix, _, (target, organ, rest) = patient(3)
    terms = (*convex_terms(target, organ, rest), Term("max_dvh", organ, 10.0, 50.0, 0.3 * organ.volume))
    limits = (Constraint("upper", organ, 50.0, 2.0),)
    problem = Problem(terms, LEVEL, limits)
    found = solve(Dense(matrix), problem, settings=EXACT)
    bound = optimality(Dense(matrix), problem, found)
    assert bound.left_out == ("max_dvh of organ", "upper limit of organ")
    without = Problem(terms[:-1], LEVEL)
    least = solve(Dense(matrix), without, settings=EXACT).objective[-1]
    assert bound.lower_bound <= least * (1 + 1e-6)


def test_offset_and_factor_belong_to_the_dose():
    generator, matrix, _, sets = patient(5)
    offset, factor = generator.uniform(0, 5, 60), generator.uniform(0.8, 1.2, 60)
    problem = Problem(convex_terms(*sets), LEVEL, (Constraint("upper", sets[1], 45.0),))
    found = solve(Dense(matrix), problem, dose_offset_gy=offset, dose_factor=factor, settings=EXACT)
    bound = optimality(Dense(matrix), problem, found, dose_offset_gy=offset, dose_factor=factor)
    assert -1e-5 <= bound.gap <= 1e-4


def test_total_meterset_is_linear_and_part_of_objective_and_bound():
    term = Meterset(0.4)
    value, slope = meterset(term, np.array([1.0, 2.0, 6.0]), 3.0)
    assert value == pytest.approx(0.4)
    np.testing.assert_allclose(slope, 0.4 / 9)
    value, slope = meterset(Meterset(0.4, count=2), np.array([1.0, 2.0, 6.0]), 3.0)
    assert value == pytest.approx(0.2)
    np.testing.assert_allclose(slope, [0.4 / 6, 0.4 / 6, 0.0])
    with pytest.raises(ValueError, match="meterset"):
        Meterset(-1.0)
    with pytest.raises(ValueError, match="0 variables"):
        Meterset(1.0, count=0)
    _, matrix, _, sets = patient(4)
    free = solve(Dense(matrix), Problem(convex_terms(*sets), LEVEL), settings=EXACT)
    problem = Problem(convex_terms(*sets), LEVEL, meterset=Meterset(20.0, free.fluence_scale))
    found = solve(Dense(matrix), problem, settings=EXACT)
    assert found.fluence.sum() < 0.95 * free.fluence.sum()
    assert -1e-5 <= optimality(Dense(matrix), problem, found).gap <= 1e-4


def test_a_search_can_be_cancelled_and_needs_limits():
    _, matrix, _, (_, organ, _) = patient(1)
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        least_give(Dense(matrix), (Constraint("upper", organ, 10.0),), LEVEL, cancel=cancel)
    with pytest.raises(ValueError, match="no limits"):
        least_give(Dense(matrix), (), LEVEL)


@pytest.mark.parametrize("seed", range(4))
def test_a_quadratic_problem_has_the_optimum_that_clarabel_finds(seed):
    """Squares, smoothing, a mean and hard limits of all convex kinds, to 1e-4 of the objective."""
    clarabel = pytest.importorskip("clarabel", reason="the extra 'solvers' is not installed")
    from scipy import sparse

    generator, matrix, fluence, sets = patient(seed)
    target, organ, rest = sets
    limits = held_limits(generator, matrix @ fluence, sets)
    terms = (
        Term("uniform", target, LEVEL, 100.0),
        Term("max_dose", rest, 0.0, 0.1),
        Term("variance", target, 0.0, 30.0),
        Term("linear", organ, 0.0, 0.5),
    )
    found = solve(Dense(matrix), Problem(terms, LEVEL, limits), settings=EXACT)
    share = [one.weights / one.volume for one in sets]
    about = matrix[target.indices] - (share[0] @ matrix[target.indices])[None]
    squares = (
        100.0 * matrix[target.indices].T @ (share[0][:, None] * matrix[target.indices])
        + 0.1 * matrix[rest.indices].T @ (share[2][:, None] * matrix[rest.indices])
        + 30.0 * about.T @ (share[0][:, None] * about)
    ) / LEVEL**2
    linear = -200.0 / LEVEL * (share[0] @ matrix[target.indices]) + 0.5 / LEVEL * (share[1] @ matrix[organ.indices])
    held = [rows_of(matrix, limit) for limit in limits]
    rows = np.vstack([*(rows for rows, _ in held), -np.eye(15)])
    levels = np.concatenate([*(bounds for _, bounds in held), np.zeros(15)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    exact = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(2 * squares)),
        linear,
        sparse.csc_matrix(rows),
        levels,
        [clarabel.NonnegativeConeT(len(levels))],
        settings,
    ).solve()
    optimum = exact.obj_val + 100.0
    assert found.objective[-1] == pytest.approx(optimum, rel=1e-4)
    bound = optimality(Dense(matrix), Problem(terms, LEVEL, limits), found)
    assert bound.lower_bound <= optimum * (1 + 1e-6)
    assert bound.lower_bound == pytest.approx(optimum, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_linear_problem_has_the_optimum_that_highs_finds(seed):
    """The least mean of an organ at hard limits on target and organ, a linear program, to 1e-4."""
    _, matrix, fluence, sets = patient(seed)
    target, organ, rest = sets
    dose = matrix @ fluence
    limits = (
        Constraint("lower", target, 0.9 * dose[target.indices].min()),
        Constraint("upper", target, 1.1 * dose[target.indices].max()),
        Constraint("mean_lower", target, 55.0),
    )
    terms = (Term("linear", organ, 0.0, 1.0), Term("linear", rest, 0.0, 0.5))
    start = solve(Dense(matrix), Problem((Term("uniform", target, LEVEL, 1.0),), LEVEL), settings=LONG)
    settings = replace(EXACT, relative_change=1e-9, window=20, round_iterations=100)
    found = solve(Dense(matrix), Problem(terms, LEVEL, limits), start=start.fluence, settings=settings)
    costs = (
        organ.weights / organ.volume @ matrix[organ.indices] + 0.5 * rest.weights / rest.volume @ matrix[rest.indices]
    ) / LEVEL
    held = [rows_of(matrix, limit) for limit in limits]
    exact = linprog(costs, A_ub=np.vstack([rows for rows, _ in held]), b_ub=np.concatenate([b for _, b in held]))
    assert found.objective[-1] == pytest.approx(exact.fun, rel=1e-4)
    bound = optimality(Dense(matrix), Problem(terms, LEVEL, limits), found)
    assert bound.lower_bound <= exact.fun * (1 + 1e-7)
    assert bound.lower_bound == pytest.approx(exact.fun, rel=1e-4)
