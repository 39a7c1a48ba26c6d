"""Metrics of given points: definitions of TG-263, ties, ends, monotonicity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomplan.metrics.dvh import DoseSamples, cumulative_dvh, evaluate
from dicomplan.metrics.goals import Metric
from dicomplan.metrics.grammar import parse_metric


def value(name, samples, unit=""):
    return evaluate(parse_metric(name)[0], samples, unit)


# 1 cc each: 10, 20, ..., 100 Gy
STAIRS = DoseSamples.of_points(np.arange(10, 101, 10)[::-1], 1.0)


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("Dmean", "", 55),
        ("Dmax", "", 100),
        ("Dmin", "", 10),
        ("D1cc", "", 100),
        ("D1.5cc", "", 90),
        ("D10%", "", 100),
        ("D95%", "", 10),
        ("D90%", "", 20),
        ("D50%", "", 60),
        ("DC50%", "", 50),
        ("DC1cc", "", 10),
        ("DC1.5cc", "", 20),
        ("D30cc", "", 10),
        ("DC30cc", "", 100),
        ("V20Gy", "", 90),
        ("V20.5Gy", "cc", 8),
        ("V20Gy", "cc", 9),
        ("V100Gy", "%", 10),
        ("V100.1Gy", "%", 0),
        ("V0Gy", "%", 100),
        ("CV20Gy", "cc", 1),
        ("CV100Gy", "%", 90),
    ],
)
def test_definitions_on_a_staircase(name, unit, expected):
    assert value(name, STAIRS, unit) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 80), st.floats(0.001, 3)), min_size=1, max_size=30), st.floats(0.5, 100))
def test_dx_is_the_least_dose_of_the_hottest_part(points, percent):
    dose = np.array([point[0] for point in points])
    volume = np.array([point[1] for point in points])
    samples = DoseSamples.of_points(dose, volume)
    found = evaluate(Metric("D", percent, "%"), samples)
    wanted = percent / 100 * volume.sum()
    # at least the wanted volume receives the found dose; what receives more is less than that
    assert volume[dose >= found].sum() >= wanted - 1e-6
    assert volume[dose > found].sum() <= wanted + 1e-6
    cold = evaluate(Metric("DC", percent, "%"), samples)
    assert volume[dose <= cold].sum() >= wanted - 1e-6
    assert volume[dose < cold].sum() <= wanted + 1e-6
    assert samples.mean_gy == pytest.approx(np.average(dose, weights=volume))


def test_cumulative_dvh_falls_from_one_to_zero():
    dose, fraction = cumulative_dvh(STAIRS, 200)
    assert len(dose) == len(fraction) == 201
    assert fraction[0] == 1.0
    assert fraction[-1] == 0.0
    assert (np.diff(fraction) <= 0).all()
    assert fraction[np.searchsorted(dose, 45.0)] == pytest.approx(0.6)


def test_units_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="dose in Gy"):
        value("D95%", STAIRS, "cc")
    with pytest.raises(ValueError, match="must be in Gy"):
        value("V95%", STAIRS)
    with pytest.raises(ValueError, match="volume in"):
        value("V20Gy", STAIRS, "Gy")
    with pytest.raises(ValueError, match="no point"):
        DoseSamples.of_points([1.0], 0.0)
