"""A search that is asked to end keeps the best that it has: the solver, and the wish list whose turn has not come."""

import time
from dataclasses import replace

import numpy as np
from optimization_helpers import Dense

from dicomplan.events import Cancel
from dicomplan.optimization.constraints import Constraint
from dicomplan.optimization.solver import Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.optimization.wishes import Wish, fulfil

LEVEL = 60.0


def case():
    generator = np.random.default_rng(3)
    matrix = generator.random((80, 20)) ** 3
    matrix *= LEVEL / (matrix @ np.ones(20))[:40].mean()
    target, organ = (VoxelSet(name, 40 * k + np.arange(40), np.ones(40)) for k, name in enumerate(("target", "organ")))
    return Dense(matrix), target, organ, Problem((Term("uniform", target, LEVEL, 0.01),), LEVEL)


def test_the_solver_ends_at_the_next_iteration_with_less_than_it_began_with():
    operator, _, _, problem = case()
    cancel, seen = Cancel(), []

    def note(event):
        seen.append(event)
        if len(seen) == 4:
            cancel.finish()

    found = solve(operator, problem, progress=note, cancel=cancel)
    assert found.stopped == "asked to end"
    assert found.iterations <= 5
    assert found.objective[-1] < found.objective[0]
    whole = solve(operator, problem)
    assert whole.iterations > found.iterations


def test_a_deadline_counts_from_now():
    cancel = Cancel()
    assert not cancel.finishing
    cancel.finish_within(0.05)
    assert not cancel.finishing
    time.sleep(0.06)
    assert cancel.finishing
    cancel.check()  # it is no cancellation


def test_groups_whose_turn_has_not_come_are_left_as_they_are():
    operator, target, organ, guide = case()
    start = solve(operator, guide, settings=SolverSettings(max_iterations=100))
    wishes = [Wish(Constraint("lower", target, 55.0), 1), Wish(Constraint("upper", organ, 10.0), 2, better=True)]
    cancel = Cancel()
    cancel.finish()
    found = fulfil(operator, guide, wishes, start, cancel=cancel)
    assert found.iterations == 0
    np.testing.assert_array_equal(found.solution.fluence, start.fluence)


def test_slack_is_what_a_later_group_may_take():
    """The coverage that cannot be reached is kept at what was reached and the slack that is asked for."""
    operator, target, organ, guide = case()
    guide = replace(
        guide, constraints=(Constraint("upper", target, 66.0),)
    )  # with which 60 Gy everywhere is out of reach
    start = solve(operator, guide, settings=SolverSettings(max_iterations=200))
    wishes = [Wish(Constraint("lower", target, 60.0), 1), Wish(Constraint("upper", organ, 5.0), 2)]
    lowest = {}
    for slack in (0.0, 0.05):
        found = fulfil(operator, guide, wishes, start, effort=12.0, slack=slack)
        dose = operator.forward(found.solution.fluence)
        lowest[slack] = float(dose[target.indices].min())
        reached = 60.0 * (1.0 - found.shares[0] - slack)
        assert lowest[slack] >= reached - 0.1
    # the organ's goal is out of reach: it takes all that it may
    assert 0.04 * 60.0 <= lowest[0.0] - lowest[0.05] <= 0.06 * 60.0
