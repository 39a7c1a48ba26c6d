"""Terms of the objective: gradients, convexity, independence of the grid, meaning; kernels against slow twins."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import optimization_twins as twins

from dicomplan.metrics.dvh import DoseSamples
from dicomplan.optimization import _kernels
from dicomplan.optimization.constraints import Constraint, ConstraintState, add_constraint, hold, relaxed
from dicomplan.optimization.smoothing import Smoothing, smoothing
from dicomplan.optimization.terms import CONVEX, Term, TermKind, add_term
from dicomplan.optimization.voxels import VoxelSet

SCALE = 60.0
KINDS = get_args(TermKind)
EXPONENTS = {"max_geud": 8.0, "min_geud": -10.0}


def voxel_set(generator, voxels, count):
    indices = np.sort(generator.choice(voxels, count, replace=False))
    return VoxelSet("set", indices, generator.uniform(0.1, 2.0, count))


def make_term(kind, voxels, dose, share=0.3, weight=3.0):
    volume = share * voxels.volume if kind.endswith(("tail", "dvh")) else 0.0
    count = len(voxels.indices)
    return Term(
        kind,
        voxels,
        dose,
        weight,
        volume,
        pull=0.4 if kind == "mean_dose" else 0.0,
        exponent=EXPONENTS.get(kind, 0.0),
        reference_gy=dose * (0.7 + 0.03 * (np.arange(count) % 20)) if kind == "reference" else None,
    )


def value(term, dose):
    return add_term(term, dose, SCALE, np.zeros_like(dose))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [25.0, 40.0, 50.0])
def test_gradients_are_those_of_central_differences(kind, level):
    generator = np.random.default_rng(int(level))
    dose = generator.uniform(20, 60, 80)
    term = make_term(kind, voxel_set(generator, 80, 50), level)
    gradient = np.zeros(80)
    add_term(term, dose, SCALE, gradient)
    differences, step = np.zeros(80), 1e-4
    for k in range(80):
        shift = step * (np.arange(80) == k)
        differences[k] = (value(term, dose + shift) - value(term, dose - shift)) / (2 * step)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6 * np.abs(differences).max() + 1e-13)
    assert value(term, dose) == 0.0 or np.abs(gradient).max() > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_gradient_somewhere_in_the_test_above(kind):
    generator = np.random.default_rng(1)
    term = make_term(kind, voxel_set(generator, 80, 50), 40.0)
    bad = np.full(80, 20.0) if kind.startswith("min") else np.full(80, 60.0)
    assert value(term, bad + generator.uniform(0, 1, 80)) > 0.0


@given(st.sampled_from(sorted(CONVEX)), st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_convex_kinds_lie_below_their_chords(kind, seed, part):
    generator = np.random.default_rng(seed)
    term = make_term(kind, voxel_set(generator, 30, 20), 40.0, share=generator.uniform(0.05, 1.0))
    first, second = generator.uniform(0, 80, (2, 30))
    chord = part * value(term, first) + (1 - part) * value(term, second)
    assert value(term, part * first + (1 - part) * second) <= chord + 1e-12


@given(st.sampled_from(sorted(CONVEX)), st.integers(0, 10**6))
def test_gradients_of_convex_kinds_support_them_from_below_even_at_ties(kind, seed):
    generator = np.random.default_rng(seed)
    term = make_term(kind, voxel_set(generator, 30, 20), 4.0, share=generator.uniform(0.05, 1.0))
    here, there = generator.integers(1, 9, (2, 30)).astype(float)
    gradient = np.zeros(30)
    at = add_term(term, here, SCALE, gradient)
    assert value(term, there) >= at + gradient @ (there - here) - 1e-12


@given(st.sampled_from(KINDS), st.integers(0, 10**6))
def test_cutting_voxels_in_two_changes_nothing(kind, seed):
    """A finer grid with the same dose gives the same value, and each half its share of the gradient."""
    generator = np.random.default_rng(seed)
    voxels = VoxelSet("set", np.arange(20), generator.uniform(0.1, 2.0, 20))
    dose, share, cut = generator.uniform(20, 60, 20), generator.uniform(0.02, 0.9), generator.uniform(0.1, 0.9, 20)
    halves = VoxelSet("set", np.arange(40), np.concatenate([cut * voxels.weights, (1 - cut) * voxels.weights]))
    coarse, fine = np.zeros(20), np.zeros(40)
    expected = add_term(make_term(kind, voxels, 40.0, share), dose, SCALE, coarse)
    found = add_term(make_term(kind, halves, 40.0, share), np.concatenate([dose, dose]), SCALE, fine)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-13)
    np.testing.assert_allclose(fine[:20] + fine[20:], coarse, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(fine[:20], cut * coarse, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_doses_and_levels_in_other_units_give_the_same_value(kind):
    generator = np.random.default_rng(5)
    voxels, dose = voxel_set(generator, 50, 40), generator.uniform(20, 60, 50)
    centigray = add_term(make_term(kind, voxels, 4000.0), 100 * dose, 100 * SCALE, np.zeros(50))
    assert centigray == pytest.approx(value(make_term(kind, voxels, 40.0), dose), rel=1e-12)


def test_values_that_can_be_said_by_heart():
    voxels = VoxelSet("set", np.arange(4), np.ones(4))
    dose = np.array([30.0, 60.0, 66.0, 72.0])

    def one(kind, level, volume=0.0, pull=0.0):
        return value(Term(kind, voxels, level, 1.0, volume, pull), dose)

    assert one("uniform", 60.0) == pytest.approx((0.25 + 0.01 + 0.04) / 4)
    assert one("max_dose", 60.0) == pytest.approx((0.01 + 0.04) / 4)
    assert one("min_dose", 60.0) == pytest.approx(0.25 / 4)
    assert one("mean_dose", 54.0) == pytest.approx(0.05**2)  # the mean is 57 Gy
    assert one("mean_dose", 57.0, pull=0.1) == pytest.approx(0.095)
    assert one("mean_dose", 27.0) == pytest.approx(0.1**2 + 0.4 * 0.2)  # the straight line from 0.1 on
    assert one("min_mean", 60.0) == pytest.approx(0.05**2)
    assert one("max_tail", 60.0, 1.5) == pytest.approx(((72 + 0.5 * 66) / 1.5 / 60 - 1) ** 2)
    assert one("min_tail", 60.0, 2.0) == pytest.approx(0.25**2)
    assert one("max_dvh", 60.0, 1.0) == pytest.approx(0.01 / 4)  # the hottest voxel may
    assert one("max_dvh", 60.0, 0.5) == pytest.approx((0.01 + 0.5 * 0.04) / 4)
    assert one("min_dvh", 60.0, 1.0) == 0.0
    assert one("min_dvh", 60.0, 0.25) == pytest.approx(0.75 * 0.25 / 4)
    assert one("linear", 0.0) == pytest.approx(0.95)
    assert one("variance", 0.0) == pytest.approx((27.0**2 + 3**2 + 9**2 + 15**2) / 4 / 60**2)
    means = [value(Term("max_geud", voxels, 54.0, 1.0, exponent=1.0), dose), one("mean_dose", 54.0)]
    assert means[0] == pytest.approx(means[1])  # a = 1 is the mean
    squares = np.sqrt((30.0**2 + 60**2 + 66**2 + 72**2) / 4)
    assert value(Term("max_geud", voxels, 0.0, 1.0, exponent=2.0), dose) == pytest.approx((squares / 60) ** 2)
    harmonic = 4 / (1 / 30 + 1 / 60 + 1 / 66 + 1 / 72)
    assert value(Term("min_geud", voxels, 60.0, 1.0, exponent=-1.0), dose) == pytest.approx((1 - harmonic / 60) ** 2)
    reference = Term("reference", voxels, 0.0, 1.0, reference_gy=np.array([30.0, 54.0, 66.0, 78.0]))
    assert value(reference, dose) == pytest.approx((0.1**2 + 0.1**2) / 4)


@given(st.integers(0, 10**6))
def test_generalised_means_lie_between_mean_and_extreme(seed):
    """The smooth maximum from below by at most s log(V / v); the gEUD rises with a from the minimum to the maximum."""
    generator = np.random.default_rng(seed)
    voxels, dose = voxel_set(generator, 40, 30), generator.uniform(1, 60, 40)
    own, volume = dose[voxels.indices], voxels.volume
    mean = float(voxels.weights @ own) / volume

    def level(kind, exponent=0.0):
        squared = value(Term(kind, voxels, 0.0 if kind != "min_geud" else 100.0, 1.0, exponent=exponent), dose)
        return SCALE * np.sqrt(squared) if kind != "min_geud" else 100.0 - SCALE * np.sqrt(squared)

    soft = level("smooth_max")
    hottest = voxels.weights[own.argmax()]
    assert own.max() - 0.01 * SCALE * np.log(volume / hottest) - 1e-9 <= soft <= own.max() + 1e-9
    assert soft >= mean
    rising = [level("min_geud", a) for a in (-200.0, -10.0, -1.0, 0.5, 1.0)]
    rising += [level("max_geud", a) for a in (1.0, 2.0, 8.0, 200.0)]
    assert (np.diff(rising) >= -1e-9).all()
    assert rising[4] == pytest.approx(mean)
    assert own.min() - 1e-9 <= rising[0] <= 1.1 * own.min()
    assert 0.9 * own.max() <= rising[-1] <= own.max() + 1e-9


@pytest.mark.parametrize("kind", ["smooth_max", "max_geud", "min_geud"])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e4, 1e12])
def test_generalised_means_stay_finite_at_any_dose(kind, size):
    """Doses of nothing and of far too much: neither value nor gradient overflows."""
    generator = np.random.default_rng(2)
    voxels = voxel_set(generator, 40, 30)
    term = replace(make_term(kind, voxels, 40.0), exponent=50.0 * np.sign(EXPONENTS.get(kind, 0.0)))
    gradient = np.zeros(40)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = add_term(term, size * generator.uniform(0, 1, 40), SCALE, gradient)
    assert np.isfinite(found)
    assert np.isfinite(gradient).all()


def test_even_dose_has_no_variance_at_any_level_and_the_reference_itself_no_distance():
    voxels = voxel_set(np.random.default_rng(2), 40, 30)
    for level in (0.0, 20.0, 80.0):
        assert value(make_term("variance", voxels, 0.0), np.full(40, level)) == pytest.approx(0.0, abs=1e-20)
    dose = np.random.default_rng(3).uniform(0, 60, 40)
    same = Term("reference", voxels, 0.0, 1.0, reference_gy=dose[voxels.indices])
    assert value(same, dose) == 0.0


@given(st.integers(0, 10**6))
def test_the_tail_bounds_the_dose_at_its_volume(seed):
    """A tail term that is zero promises D_v; a dose-volume term is zero just when D_v is met."""
    generator = np.random.default_rng(seed)
    voxels, dose = voxel_set(generator, 40, 30), generator.uniform(20, 60, 40)
    volume = generator.uniform(0.05, 0.9) * voxels.volume
    samples = DoseSamples.of_points(dose[voxels.indices], voxels.weights)
    hottest, coldest = samples.hottest_gy(volume), samples.coldest_gy(volume)
    for limit in (hottest - 0.01, hottest + 0.01):
        assert (value(Term("max_dvh", voxels, limit, 1.0, volume), dose) > 0) == (limit < hottest)
        assert value(Term("max_tail", voxels, limit, 1.0, volume), dose) > 0 or limit > hottest
    for limit in (coldest - 0.01, coldest + 0.01):
        assert (value(Term("min_dvh", voxels, limit, 1.0, volume), dose) > 0) == (limit > coldest)
        assert value(Term("min_tail", voxels, limit, 1.0, volume), dose) > 0 or limit < coldest


@given(st.integers(0, 10**6), st.booleans())
def test_kernels_against_slow_twins(seed, ties):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 40))
    dose = generator.integers(0, 6, 40).astype(float) if ties else generator.uniform(0, 6, 40)
    voxels = voxel_set(generator, 40, count)
    indices, weights = voxels.indices, voxels.weights
    level, volume = float(generator.integers(0, 6)), float(generator.uniform(0.01, 1.0) * voxels.volume)

    gradient = np.zeros(40)
    found = _kernels.squares(dose, indices, weights, level, 2.0, 3.0, gradient)
    expected, slope = twins.squares(dose, indices, weights, level, 2.0, 3.0)
    assert found == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-12)

    assert _kernels.weighted_sum(dose, indices, weights) == pytest.approx(float(weights @ dose[indices]), rel=1e-12)
    gradient = np.ones(40)
    _kernels.add_weights(indices, weights, 2.0, gradient)
    np.testing.assert_allclose(gradient[indices], 1 + 2 * weights)
    assert gradient.sum() == pytest.approx(40 + 2 * weights.sum())

    values = np.empty(count)
    assert _kernels.gather(dose, indices, -1.0, values) == (-dose[indices]).max()
    np.testing.assert_array_equal(values, -dose[indices])
    threshold, share = _kernels.threshold_of_top(values, weights, volume)
    expected, slope = twins.tail_mean(values, weights, volume)
    assert _kernels.top_sum(values, weights, threshold, share) / volume == pytest.approx(expected, rel=1e-9)
    gradient = np.zeros(40)
    _kernels.add_top(values, indices, weights, threshold, share, 1 / volume, gradient)
    np.testing.assert_allclose(gradient[indices], slope, rtol=1e-9, atol=1e-12)

    gradient = np.zeros(40)
    found = _kernels.squares_under_top(values, indices, weights, -level, threshold, share, 0.7, -1.0, gradient)
    expected, slope = twins.squares_under_top(values, weights, -level, volume, 0.7)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient[indices], -slope, rtol=1e-9, atol=1e-9)

    multipliers, gradient = generator.uniform(0, 2, count), np.zeros(40)
    found, force = _kernels.shifted_squares(dose, indices, weights, level, -0.1, multipliers, 5.0, gradient)
    expected, slope = twins.shifted_squares(dose, indices, weights, level, -0.1, multipliers, 5.0)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert force == pytest.approx(-slope.sum() / 0.1, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-12)


def test_threshold_of_many_voxels_is_that_of_sorting():
    """Enough voxels for many to share a bin of the histogram, most of them at one dose."""
    generator = np.random.default_rng(3)
    values = np.where(generator.random(50_000) < 0.6, 0.0, generator.normal(50, 0.01, 50_000))
    weights = generator.uniform(0.5, 1.5, 50_000)
    order = np.argsort(-values, kind="stable")
    total = np.cumsum(weights[order])
    for part in (1e-5, 0.001, 0.02, 0.3, 0.39, 0.7, 0.999):
        volume = part * total[-1]
        threshold, share = _kernels.threshold_of_top(values, weights, volume)
        assert threshold == values[order][np.searchsorted(total, volume)]
        inside = weights[values > threshold].sum() + share * weights[values == threshold].sum()
        assert inside == pytest.approx(volume, rel=1e-9)


@pytest.mark.parametrize("kind", ["upper", "lower", "mean_upper", "mean_lower"])
def test_gradients_of_limits_are_those_of_central_differences(kind):
    generator = np.random.default_rng(9)
    voxels, dose = voxel_set(generator, 40, 25), generator.uniform(20, 60, 40)
    constraint = Constraint(kind, voxels, 40.0)
    held = hold(constraint, dose)
    state = ConstraintState(generator.uniform(0, 3, len(held)), held, 20.0, 0.0)
    gradient = np.zeros(40)
    _, fall = add_constraint(constraint, state, dose, SCALE, gradient)
    step = 1e-4
    for k in range(40):
        shift = step * (np.arange(40) == k)
        ends = [add_constraint(constraint, state, dose + s * shift, SCALE, np.zeros(40))[0] for s in (1, -1)]
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-9)
    ends = [add_constraint(relaxed(constraint, s * step), state, dose, SCALE, np.zeros(40))[0] for s in (1, -1)]
    assert -40.0 * fall == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_what_may_break_a_volume_limit_leaves_room_for_interpolation():
    """Of 1 cc on 3 mm voxels a cube of 7 mm, of 0.1 cc nothing worth a voxel; borders covered less than half are free."""
    dose = np.arange(4000.0)
    voxels = VoxelSet("set", np.arange(4000), np.full(4000, 0.027))
    free = np.flatnonzero(hold(Constraint("upper", voxels, 10.0, 1.0), dose) == 0)
    np.testing.assert_array_equal(free, np.arange(4000 - 12, 4000))  # the hottest 0.343 cc
    assert (hold(Constraint("upper", voxels, 10.0, 0.1), dose) > 0).all()
    np.testing.assert_array_equal(
        np.flatnonzero(hold(Constraint("lower", voxels, 10.0, 1.0), dose) == 0), np.arange(12)
    )
    covered = np.where(np.arange(4000) % 2, 1.0, 0.3)
    partial = VoxelSet("set", np.arange(4000), 0.027 * covered, covered)
    np.testing.assert_array_equal(hold(Constraint("upper", partial, 10.0), dose) > 0, covered > 0.5)
    thin = VoxelSet("thin", np.arange(3), np.full(3, 0.01), np.full(3, 0.3))
    assert (hold(Constraint("upper", thin, 10.0), dose) > 0).all()


def test_smoothing_is_the_mean_square_of_differences():
    pairs = Smoothing(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 3.0]), weight=2.0)
    fluence = np.array([1.0, 3.0, 2.0])
    found, gradient = smoothing(pairs, fluence, 10.0)
    assert found == pytest.approx(2.0 * (1 * 4 + 3 * 1) / 4 / 100)
    step = 1e-5
    for k in range(3):
        shift = step * (np.arange(3) == k)
        ends = smoothing(pairs, fluence + shift, 10.0)[0] - smoothing(pairs, fluence - shift, 10.0)[0]
        assert gradient[k] == pytest.approx(ends / (2 * step), rel=1e-6)
    assert gradient.sum() == pytest.approx(0.0, abs=1e-15)  # an even map is not pulled at
    assert smoothing(pairs, np.full(3, 7.0), 10.0)[0] == 0.0


def test_values_that_make_no_sense_are_refused():
    good = VoxelSet("set", np.arange(3), np.ones(3))
    for indices, weights in (([0, 0, 1], [1, 1, 1]), ([2, 1], [1, 1]), ([-1, 1], [1, 1]), ([0, 1], [1, 0]), ([], [])):
        with pytest.raises(ValueError, match="voxels of set"):
            VoxelSet("set", np.array(indices, np.int64), np.array(weights, np.float64))
    for kind, volume, weight, pull in (
        ("max_tail", 0.0, 1.0, 0.0),
        ("uniform", 1.0, 1.0, 0.0),
        ("max_dvh", -1.0, 1.0, 0.0),
        ("uniform", 0.0, -1.0, 0.0),
        ("max_dose", 0.0, 1.0, 0.1),
    ):
        with pytest.raises(ValueError, match="of set"):
            Term(kind, good, 10.0, weight, volume, pull)
    for kind, exponent in (("max_geud", 0.5), ("min_geud", 2.0), ("min_geud", 0.0), ("uniform", 2.0), ("max_geud", 0)):
        with pytest.raises(ValueError, match="exponent"):
            Term(kind, good, 10.0, 1.0, exponent=exponent)
    for kind, reference in (("reference", None), ("uniform", np.ones(3)), ("reference", np.ones(4))):
        with pytest.raises(ValueError, match="reference"):
            Term(kind, good, 10.0, 1.0, reference_gy=reference)
    with pytest.raises(ValueError, match="volume"):
        Constraint("mean_upper", good, 10.0, 1.0)
    with pytest.raises(ValueError, match="pair"):
        Smoothing(np.array([0]), np.array([1]), np.array([0.0]), 1.0)
    with pytest.raises(ValueError, match="shapes"):
        Smoothing(np.array([0]), np.array([1, 2]), np.array([1.0]), 1.0)
