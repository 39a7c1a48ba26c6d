"""The wish list on small dense operators: the order of groups, the least shares (against linear programs), betterment."""

from dataclasses import replace

import numpy as np
import pytest
from optimization_helpers import Dense
from scipy.optimize import linprog

from dicomplan.optimization.constraints import Constraint
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.optimization.wishes import SLACK, Wish, fulfil, serve

LEVEL = 60.0
COUNT = 40


def sets():
    return tuple(VoxelSet(name, COUNT * k + np.arange(COUNT), np.full(COUNT, 0.03)) for k, name in enumerate("tor"))


def case(seed, beamlets=20):
    """A matrix that gives the target about its level; organ and rest receive as much as the target where they can."""
    generator = np.random.default_rng(seed)
    matrix = generator.random((3 * COUNT, beamlets)) ** 3
    matrix *= LEVEL / (matrix @ generator.random(beamlets))[:COUNT].mean()
    # a slight general pull, so that what the wishes leave open has one answer
    guide = Problem((Term("uniform", sets()[0], LEVEL, 0.01), Term("max_dose", sets()[2], 0.0, 0.001)), LEVEL)
    return matrix, guide


def fulfilled(matrix, guide, wishes, effort=12.0):
    start = solve(Dense(matrix), guide, settings=SolverSettings(max_iterations=200))
    return fulfil(Dense(matrix), guide, wishes, start, effort=effort)


def least_share(matrix, kept, giving):
    """Exact answer of a linear program: rows (signed) of limits that are kept, and of those that give by one share.

    Each of ``kept`` and ``giving``: (sign, rows, level); the dose must not be on the wrong side of the level.
    """
    above, limits = [], []
    for sign, rows, level in kept:
        above.append(np.column_stack([sign * matrix[rows], np.zeros(COUNT)]))
        limits.append(np.full(COUNT, sign * level))
    for sign, rows, level in giving:
        above.append(np.column_stack([sign * matrix[rows], np.full(COUNT, -level)]))
        limits.append(np.full(COUNT, sign * level))
    price = np.r_[np.zeros(matrix.shape[1]), 1.0]
    return linprog(price, A_ub=np.vstack(above), b_ub=np.concatenate(limits), bounds=(0, None)).fun


@pytest.mark.parametrize("seed", range(4))
def test_a_group_gives_way_by_the_least_share(seed):
    """Target minimum first, then organ maximum: as the linear programs of the two steps say."""
    matrix, guide = case(seed)
    target, organ, _ = sets()
    wishes = [Wish(Constraint("lower", target, 55.0), 1), Wish(Constraint("upper", organ, 20.0), 2)]
    found = fulfilled(matrix, guide, wishes)
    rows = target.indices, organ.indices
    first = least_share(matrix, [], [(-1, rows[0], 55.0)])
    assert found.shares[0] == pytest.approx(first, abs=2e-3)
    kept = 55.0 * (1.0 if first < 5e-4 else 1.0 - found.shares[0] - SLACK)
    second = least_share(matrix, [(-1, rows[0], kept)], [(1, rows[1], 20.0)])
    assert second > 0.1  # the goals fight
    assert found.shares[1] == pytest.approx(second, rel=0.02)
    dose = matrix @ found.solution.fluence
    assert dose[rows[0]].min() >= kept * (1 - 2e-3)
    assert dose[rows[1]].max() <= 20.0 * (1.02 * (1 + second) + SLACK)


def test_a_later_goal_far_out_of_reach_costs_the_first_group_nothing():
    """Shares are of a goal's own dose: at 0.5 Gy a share of 100 must not be worth more than the target's coverage."""
    matrix, guide = case(5)
    target, organ, _ = sets()
    wishes = [Wish(Constraint("lower", target, 55.0), 1), Wish(Constraint("mean_upper", organ, 0.5), 2)]
    found = fulfilled(matrix, guide, wishes, effort=2.0)
    first = least_share(matrix, [], [(-1, target.indices, 55.0)])
    assert found.shares[0] == pytest.approx(first, abs=0.01)
    assert (matrix @ found.solution.fluence)[target.indices].min() >= 55.0 * (1.0 - first - SLACK) * 0.99


def test_swapping_two_groups_swaps_what_is_reached():
    matrix, guide = case(7)
    target, organ, _ = sets()
    goals = Constraint("lower", target, 55.0), Constraint("upper", organ, 30.0)
    coverage_first = fulfilled(matrix, guide, [Wish(goals[0], 1), Wish(goals[1], 2)])
    organ_first = fulfilled(matrix, guide, [Wish(goals[0], 2), Wish(goals[1], 1)])
    doses = [matrix @ found.solution.fluence for found in (coverage_first, organ_first)]
    assert doses[0][target.indices].min() >= 55.0 * 0.997
    assert doses[1][organ.indices].max() <= 30.0 * 1.003
    assert doses[1][target.indices].min() < 0.9 * doses[0][target.indices].min()
    assert doses[1][organ.indices].max() < 0.9 * doses[0][organ.indices].max()


def test_equals_share_the_worst_then_the_one_that_can_gets_more():
    """Two goals of one group that do not fight each other: the worse one sets the share, the other still gets its own."""
    matrix, guide = case(3)
    target, organ, rest = sets()
    first = Wish(Constraint("lower", target, 58.0), 1)
    pair = [Wish(Constraint("upper", organ, 10.0), 2), Wish(Constraint("mean_upper", rest, 25.0), 2)]
    found = fulfilled(matrix, guide, [first, *pair])
    kept = 58.0 * (1.0 - (found.shares[0] + SLACK if found.shares[0] > 5e-4 else 0.0))
    worst = least_share(matrix, [(-1, target.indices, kept)], [(1, organ.indices, 10.0)])
    assert found.shares[1] == pytest.approx(worst, rel=0.05)
    assert found.shares[2] < 0.8 * found.shares[1]


def test_a_met_organ_goal_is_bettered_and_the_others_are_kept():
    matrix, guide = case(5)
    target, _, rest = sets()
    plain = [Wish(Constraint("lower", target, 50.0), 1), Wish(Constraint("mean_upper", rest, 80.0), 2)]
    without = fulfilled(matrix, guide, plain)
    better = fulfilled(matrix, guide, [plain[0], replace(plain[1], better=True)])
    doses = [matrix @ found.solution.fluence for found in (without, better)]
    assert better.shares[1] < -0.05
    assert doses[1][rest.indices].mean() < 0.97 * doses[0][rest.indices].mean()
    assert doses[1][target.indices].min() >= 50.0 * 0.997


def test_what_was_bettered_stays_when_the_list_is_worked_through_again():
    """A later pass begins where the last one ended: with a tenth of the work it must not fall back to the goals."""
    matrix, guide = case(5)
    target, organ, rest = sets()
    wishes = [
        Wish(Constraint("lower", target, 50.0), 1),
        Wish(Constraint("upper", organ, 20.0), 2),
        Wish(Constraint("mean_upper", rest, 80.0), 3, better=True),
    ]
    first = fulfilled(matrix, guide, wishes)
    again = fulfil(Dense(matrix), guide, wishes, first.solution, states=first.states, effort=1.2)
    means = [(matrix @ found.solution.fluence)[rest.indices].mean() for found in (first, again)]
    assert means[0] < 0.9 * 80.0
    assert means[1] < 1.02 * means[0]
    np.testing.assert_allclose(again.shares[:2], first.shares[:2], atol=0.01)


def test_hard_limits_are_kept_whatever_is_wished():
    matrix, guide = case(11)
    target, organ, _ = sets()
    hard = Constraint("upper", organ, 25.0)
    found = fulfilled(matrix, replace(guide, constraints=(hard,)), [Wish(Constraint("lower", target, 55.0), 1)])
    dose = matrix @ found.solution.fluence
    assert dose[organ.indices].max() <= 25.0 * 1.002
    exact = least_share(matrix, [(1, organ.indices, 25.0)], [(-1, target.indices, 55.0)])
    assert found.shares[0] == pytest.approx(exact, rel=0.02, abs=2e-3)


def test_served_at_once_an_earlier_group_is_still_dearer():
    matrix, guide = case(7)
    target, organ, _ = sets()
    goals = Constraint("lower", target, 55.0), Constraint("upper", organ, 30.0)
    start = solve(Dense(matrix), guide, settings=SolverSettings(max_iterations=200))
    doses = []
    for groups in ((1, 8), (8, 1)):
        wishes = [Wish(goal, group) for goal, group in zip(goals, groups, strict=True)]
        doses.append(matrix @ serve(Dense(matrix), guide, wishes, start).solution.fluence)
    assert doses[1][target.indices].min() < 0.95 * doses[0][target.indices].min()
    assert doses[1][organ.indices].max() < 0.95 * doses[0][organ.indices].max()
