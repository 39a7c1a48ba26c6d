"""Bounded descent: optima known otherwise, bounds that always hold, and what memory is good for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, minimize, rosen, rosen_der

from dicomplan.optimization.descent import Iterate, Memory, Merit, descend

FloatArray = NDArray[np.float64]


def squares(seed: int, rows: int = 30, count: int = 12) -> tuple[Merit, FloatArray, FloatArray]:
    """Half the sum of squares of A x - b, with A and b."""
    rng = np.random.default_rng(seed)
    matrix, wanted = rng.normal(size=(rows, count)) * np.geomspace(1.0, 30.0, count), rng.normal(size=rows)

    def merit(x: FloatArray) -> tuple[float, FloatArray]:
        left = matrix @ x - wanted
        return 0.5 * float(left @ left), matrix.T @ left

    return merit, matrix, wanted


def ended(
    merit: Merit, start: FloatArray, lower: float, upper: float, memory: Memory, most: int = 500
) -> list[Iterate]:
    bounds = np.full(len(start), lower), np.full(len(start), upper)
    found = []
    for at in descend(merit, start, *bounds, memory):
        assert at.variables.min() >= lower
        assert at.variables.max() <= upper
        found.append(at)
        if len(found) == most:
            break
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 2.0))
def test_bounded_least_squares_ends_where_another_method_does(seed: int, upper: float) -> None:
    merit, matrix, wanted = squares(seed)
    found = ended(merit, np.full(12, 0.5 * upper), 0.0, upper, Memory(20))
    other = lsq_linear(matrix, wanted, (0.0, upper), tol=1e-14)
    assert found[-1].value == pytest.approx(other.cost, rel=1e-7)
    values = [at.value for at in found]
    assert all(after < before for before, after in pairwise(values))


@pytest.mark.parametrize("upper", [0.7, 3.0])
def test_a_curved_valley_is_followed_to_its_end(upper: float) -> None:
    def merit(x: FloatArray) -> tuple[float, FloatArray]:
        return float(rosen(x)), np.asarray(rosen_der(x))

    start = np.array([-1.2, 0.5, -0.8, 0.2])
    found = ended(merit, start, -2.0, upper, Memory(10))
    other = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", bounds=[(-2.0, upper)] * 4, tol=1e-14)
    assert found[-1].value == pytest.approx(other.fun, abs=1e-8)


def test_the_merit_was_last_asked_where_the_iterate_is() -> None:
    merit, _, _ = squares(3)
    asked = []

    def noted(x: FloatArray) -> tuple[float, FloatArray]:
        asked.append(x.copy())
        return merit(x)

    for at in descend(noted, np.full(12, 0.1), np.zeros(12), np.full(12, np.inf), Memory(10)):
        np.testing.assert_array_equal(asked[-1], at.variables)


def test_what_was_learned_shortens_the_next_search() -> None:
    merit, _, _ = squares(4, rows=200, count=60)
    start = np.full(60, 0.1)
    least = ended(merit, start, -np.inf, np.inf, Memory(60))[-1].value
    memory = Memory(60)
    ended(merit, start, -np.inf, np.inf, memory, most=60)

    def until(kept: Memory) -> int:
        values = [at.value for at in ended(merit, start, -np.inf, np.inf, kept)]
        return next(k for k, value in enumerate(values) if value <= least * (1.0 + 1e-6))

    assert until(memory) < 0.5 * until(Memory(60))


def test_scaled_memory_gives_the_scaled_direction() -> None:
    merit, _, _ = squares(5)
    memory = Memory(8)
    ended(merit, np.full(12, 0.1), -np.inf, np.inf, memory, most=10)
    slope, free, factor = np.linspace(-1.0, 1.0, 12), np.arange(12) % 3 != 0, np.geomspace(0.1, 10.0, 12)
    plain, scaled = memory.direction(slope, free), memory.scaled(factor).direction(slope / factor, free)
    assert plain is not None
    assert scaled is not None
    assert not plain[~free].any()
    assert len(memory.steps) == 8
    # of a pair's own direction nothing depends on the units
    step, change = memory.steps[-1], memory.changes[-1]
    everything = np.ones(12, dtype=np.bool_)
    for one, units in ((memory, np.ones(12)), (memory.scaled(factor), factor)):
        found = one.direction(change / units, everything)
        assert found is not None
        np.testing.assert_allclose(found, -step * units, rtol=1e-9)


def test_variables_that_are_new_are_known_nothing_of() -> None:
    memory = Memory(5)
    memory.add(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    longer = memory.scaled(np.ones(3))
    np.testing.assert_array_equal(longer.steps[0], [1.0, 0.0, 0.0])
    shorter = longer.scaled(np.ones(1))
    np.testing.assert_array_equal(shorter.changes[0], [2.0])


def test_a_pair_of_no_curvature_is_not_kept_and_nothing_is_known_of_bound_variables() -> None:
    memory = Memory(5)
    memory.add(np.array([1.0, 0.0]), np.array([-1.0, 0.0]))
    assert memory.steps == []
    assert memory.direction(np.ones(2), np.ones(2, dtype=np.bool_)) is None
    memory.add(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert memory.direction(np.ones(2), np.array([False, True])) is None
