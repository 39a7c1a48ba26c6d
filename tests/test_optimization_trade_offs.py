"""A front between two goals on a small dense operator: convex, monotonous, its ends those of linear programs."""

import numpy as np
import pytest
from optimization_helpers import Dense
from scipy.optimize import linprog

from dicomplan.events import Cancel
from dicomplan.optimization.constraints import Constraint
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.trade_offs import trade_off
from dicomplan.optimization.voxels import VoxelSet

LEVEL, COUNT = 60.0, 40


@pytest.fixture(scope="module")
def case():
    """A target held at 30 to 110 Gy, two organs whose means fight over the beamlets."""
    generator = np.random.default_rng(11)
    matrix = generator.random((3 * COUNT, 24)) ** 2
    matrix *= LEVEL / (matrix @ np.ones(24))[:COUNT].mean()
    # half of the beamlets pass through one organ, half through the other
    matrix[COUNT : 2 * COUNT, :12] *= 0.2
    matrix[2 * COUNT :, 12:] *= 0.2
    sets = tuple(VoxelSet(name, COUNT * k + np.arange(COUNT), np.ones(COUNT)) for k, name in enumerate("tab"))
    limits = (Constraint("lower", sets[0], 30.0), Constraint("upper", sets[0], 110.0))
    guide = Problem((Term("uniform", sets[0], LEVEL, 0.001),), LEVEL, limits)
    pair = (Constraint("mean_upper", sets[1], 20.0), Constraint("mean_upper", sets[2], 20.0))
    return matrix, guide, pair


def exact(matrix, minimised, held=None):
    """Least mean of one organ that a linear program finds, the other one's mean held at most at a dose."""
    target, means = matrix[:COUNT], [matrix[k * COUNT : (k + 1) * COUNT].mean(axis=0) for k in (1, 2)]
    rows, limits = [-target, target], [np.full(COUNT, -30.0), np.full(COUNT, 110.0)]
    if held is not None:
        rows.append(means[1 - minimised][None, :])
        limits.append(np.array([held]))
    return linprog(means[minimised], A_ub=np.vstack(rows), b_ub=np.concatenate(limits), bounds=(0, None)).fun


def test_the_front_is_that_of_linear_programs(case):
    matrix, guide, pair = case
    operator = Dense(matrix)
    start = solve(operator, guide, settings=SolverSettings(max_iterations=300))
    points = trade_off(operator, guide, pair, start, count=6, settings=SolverSettings(1500, 1e-5))
    assert len(points) == 6
    means = np.array([[20.0 * (1.0 + share) for share in one.shares] for one in points])
    assert means[0, 0] == pytest.approx(exact(matrix, 0), rel=0.03)
    assert means[-1, 1] == pytest.approx(exact(matrix, 1), rel=0.03)
    assert (np.diff(means[:, 0]) > 0).all()
    assert (np.diff(means[:, 1]) < 0).all()
    for first, second in means:
        assert second >= exact(matrix, 1, held=first) * 0.999
        assert second == pytest.approx(exact(matrix, 1, held=first), rel=0.03)
    for one in points:
        dose = operator.forward(one.solution.fluence)[:COUNT]
        assert dose.min() >= 30.0 * 0.998
        assert dose.max() <= 110.0 * 1.002


def test_a_search_that_is_to_end_returns_what_it_has(case):
    matrix, guide, pair = case
    operator, cancel = Dense(matrix), Cancel()
    start = solve(operator, guide)
    cancel.finish()
    assert len(trade_off(operator, guide, pair, start, cancel=cancel)) == 1
    with pytest.raises(ValueError, match="front of 1"):
        trade_off(operator, guide, pair, start, count=1)
