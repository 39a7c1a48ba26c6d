"""Levels by dose: the change in dose stays below what is asked for, segments within what is allowed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from test_influence import plan as phantom_plan

from dicomplan.planning.delivering import sequence_plan
from dicomplan.planning.levels import steps_by_dose

NAME = "generic_6mv"


@cache
def fluences():
    """Smooth hills of different heights and slopes, MU."""
    _, _, maps = phantom_plan(NAME)
    found = []
    for number, one in enumerate(maps):
        y = 0.5 * (one.y_edges_mm[1:] + one.y_edges_mm[:-1])[:, None]
        x = 0.5 * (one.x_edges_mm[1:] + one.x_edges_mm[:-1])[None, :]
        hill = 8.0 * (1 + number) * (1.2 + np.cos(0.05 * (1 + number) * x) * np.cos(0.07 * y))
        found.append(hill[one.active])
    return tuple(found)


def delivered(steps):
    """Change in dose (root of the mean square, Gy) and segments of the plan in these steps."""
    operator, engine, maps = phantom_plan(NAME)
    done = sequence_plan(maps, fluences(), engine.machine, steps)
    given = np.concatenate([total[one.active] for total, one in zip(done.delivered_mu, maps, strict=True)])
    change = operator.forward(given).astype(np.float64) - operator.forward(np.concatenate(fluences()))
    return float(np.sqrt(np.mean(change**2))), sum(len(item.segments) for item in done.deliveries)


def chosen(tolerance_gy, most=None):
    operator, engine, maps = phantom_plan(NAME)
    return steps_by_dose(maps, fluences(), engine.machine, operator, tolerance_gy, most)


@pytest.mark.parametrize("tolerance", [1.0, 0.4, 0.2])
def test_the_dose_changes_by_no_more_than_the_tolerance(tolerance):
    error, _ = delivered(chosen(tolerance))
    # beams' changes are taken as independent, and the trials have fewer restarts than the plan
    assert error <= 1.4 * tolerance


def test_a_tighter_tolerance_takes_more_segments():
    found = [delivered(chosen(tolerance)) for tolerance in (1.0, 0.4, 0.2)]
    assert found[0][1] < found[1][1] < found[2][1]
    assert found[0][0] > found[1][0] > found[2][0]


@pytest.mark.parametrize("most", [12, 24, 48])
def test_segments_stay_within_what_is_allowed(most):
    error, segments = delivered(chosen(1e-6, most))
    assert segments <= most + 1  # more restarts may find fewer, and merging small segments one more
    # no worse than one step for all that takes as many
    highest = max(float(one.max()) for one in fluences())
    even = [delivered(highest / levels) for levels in range(1, 12)]
    assert error <= 1.1 * min(other for other, count in even if count <= segments)
