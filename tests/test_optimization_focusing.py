"""What a search need not look at: it counts for nothing, and the search ends where it would have ended anyway."""

from __future__ import annotations

import numpy as np
import pytest
from optimization_helpers import Dense
from test_influence import plan

from dicomplan.dose.sparse import explicit_influence
from dicomplan.optimization import focusing
from dicomplan.optimization.constraints import Constraint, ConstraintState, add_constraint
from dicomplan.optimization.focusing import Focus, could_matter
from dicomplan.optimization.operator import PartedOperator
from dicomplan.optimization.solver import Give, Problem, SolverSettings, solve
from dicomplan.optimization.terms import Term, add_term
from dicomplan.optimization.voxels import VoxelSet

SCALE = 50.0


class Parted(Dense):
    """A dense operator that can be had on some of its voxels, and counts what was asked of it."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.matrix_of_all, self.sizes = matrix, []

    def on_voxels(self, rows):
        self.sizes.append(len(rows))
        return Dense(self.matrix_of_all[rows])


def sets(seed, voxels=200):
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(voxels, 120, replace=False))
    return random, VoxelSet("a", chosen, random.uniform(0.01, 0.1, len(chosen)))


@pytest.mark.parametrize(
    "kind", ["max_dose", "min_dose", "max_dvh", "min_dvh", "max_tail", "min_tail", "uniform", "mean_dose"]
)
@pytest.mark.parametrize("seed", range(5))
def test_what_could_not_matter_has_no_gradient_however_doses_move_within_the_margin(kind, seed):
    random, voxels = sets(seed)
    dose, margin = random.uniform(0.0, 60.0, 200), 4.0
    volume = 0.2 * voxels.volume if kind.endswith(("tail", "dvh")) else 0.0
    term = Term(kind, voxels, random.uniform(15.0, 45.0), 3.0, volume)
    counts = could_matter([term], [], dose, margin)
    now = could_matter([term], [], dose, 0.0)
    assert not (now & ~counts).any()
    if kind in ("max_dose", "min_dose", "max_tail", "min_tail"):
        assert counts.sum() < len(voxels.indices)
    for _ in range(30):
        moved = dose + random.uniform(-margin, margin, 200)
        gradient, other = np.zeros(200), np.zeros(200)
        value = add_term(term, moved, SCALE, gradient)
        assert not gradient[~counts].any()
        # the doses of the others as they were: value and gradient are the same
        stale = np.where(counts, moved, dose)
        assert add_term(term, stale, SCALE, other) == pytest.approx(value, rel=1e-12, abs=1e-15)
        np.testing.assert_allclose(other, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["upper", "lower", "mean_upper"])
@pytest.mark.parametrize("seed", range(5))
def test_so_it_is_with_limits(kind, seed):
    random, voxels = sets(seed)
    dose, margin, n = random.uniform(0.0, 60.0, 200), 4.0, len(voxels.indices)
    size = 1 if kind.startswith("mean") else n
    held = np.where(random.uniform(size=size) < 0.8, 1.0, 0.0)
    multipliers = np.where((held > 0) & (random.uniform(size=size) < 0.1), random.uniform(size=size), 0.0)
    limit, state = Constraint(kind, voxels, 40.0), ConstraintState(multipliers, held, 100.0, 1.0)
    counts = could_matter([], [(limit, state)], dose, margin)
    if size > 1:
        assert counts.sum() < n
    for _ in range(30):
        gradient = np.zeros(200)
        add_constraint(limit, state, dose + random.uniform(-margin, margin, 200), SCALE, gradient)
        assert not gradient[~counts].any()


def one_sided(seed, voxels=600, beamlets=40):
    """A target, and about it voxels of which few come near what they may have."""
    random = np.random.default_rng(seed)
    matrix = random.random((voxels, beamlets)) ** 3
    matrix[60:] *= random.uniform(0.0, 1.0, voxels - 60)[:, None] ** 2
    matrix *= SCALE / matrix[:60].sum(axis=1).mean()
    target, rest = VoxelSet("t", np.arange(60), np.ones(60)), VoxelSet("r", np.arange(60, voxels), np.ones(voxels - 60))
    terms = (Term("uniform", target, SCALE, 100.0), Term("max_dose", rest, 0.6 * SCALE, 30.0))
    return matrix, Problem(terms, SCALE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("extra", ["none", "limit", "gives", "offset and factor"])
def test_a_search_that_looks_at_few_voxels_finds_the_same(seed, extra):
    matrix, problem = one_sided(seed)
    rest = problem.terms[1].voxels
    more = {}
    if extra == "limit":
        problem = Problem(problem.terms, SCALE, (Constraint("upper", rest, 0.75 * SCALE),))
    elif extra == "gives":
        limit = Constraint("upper", VoxelSet("o", np.arange(100, 130), np.ones(30)), 0.2 * SCALE)
        problem = Problem(problem.terms, SCALE, (limit,), gives=(Give((0,), 1.0),))
    elif extra == "offset and factor":
        random = np.random.default_rng(seed)
        more = {"dose_offset_gy": random.uniform(0, 3, 600), "dose_factor": random.uniform(0.9, 1.1, 600)}
    settings = SolverSettings(max_iterations=2000, relative_change=1e-10)
    operator = Parted(matrix)
    assert isinstance(operator, PartedOperator)
    assert not isinstance(Dense(matrix), PartedOperator)
    found, expected = (solve(one, problem, settings=settings, **more) for one in (operator, Dense(matrix)))
    assert operator.sizes
    assert max(operator.sizes) < 0.6 * 600
    assert found.objective[-1] == pytest.approx(expected.objective[-1], rel=1e-5)
    np.testing.assert_allclose(found.dose_gy, expected.dose_gy, atol=0.005 * SCALE)
    assert found.limits_met == expected.limits_met
    whole = matrix @ found.fluence * more.get("dose_factor", 1.0) + more.get("dose_offset_gy", 0.0)
    np.testing.assert_allclose(found.dose_gy, whole, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_voxel_that_was_overlooked_is_taken_up_again(seed, monkeypatch):
    """Without any margin and with few looks, voxels come to count that were not looked at."""
    monkeypatch.setattr(focusing, "_MARGINS", (0.0, 0.0))
    monkeypatch.setattr(focusing, "_FIRST_MARGIN", 0.0)
    monkeypatch.setattr(focusing, "_EVERY", 40)
    missed = []
    real = Focus.look

    def look(self, *arguments):
        missed.append(real(self, *arguments))
        return missed[-1]

    monkeypatch.setattr(Focus, "look", look)
    matrix, problem = one_sided(seed)
    settings = SolverSettings(max_iterations=3000, relative_change=1e-10)
    found, expected = (solve(one, problem, settings=settings) for one in (Parted(matrix), Dense(matrix)))
    assert any(missed)
    assert found.objective[-1] == pytest.approx(expected.objective[-1], rel=1e-5)
    gradient = np.zeros(len(found.dose_gy))
    value = sum(add_term(term, matrix @ found.fluence, SCALE, gradient) for term in problem.terms)
    assert value == pytest.approx(expected.objective[-1], rel=1e-5)


@pytest.mark.parametrize("form", ["factorised", "explicit", "explicit, the rest restored"])
def test_operators_of_some_voxels_say_the_same_of_them(form):
    operator = plan("agility_6mv")[0]
    if form != "factorised":
        operator = explicit_influence(operator, 40.0 if form == "explicit" else None)
    random = np.random.default_rng(2)
    rows = np.sort(random.choice(operator.voxel_count, 500, replace=False))
    part = operator.on_voxels(rows)
    assert isinstance(operator, PartedOperator)
    assert (part.voxel_count, part.beamlet_count) == (500, operator.beamlet_count)
    fluence, pull = random.uniform(0, 30, operator.beamlet_count), random.normal(size=500)
    np.testing.assert_array_equal(part.forward(fluence), operator.forward(fluence)[rows])
    wide = np.zeros(operator.voxel_count)
    wide[rows] = pull
    expected = operator.adjoint(wide)
    np.testing.assert_allclose(part.adjoint(pull), expected, atol=1e-5 * np.abs(expected).max())
