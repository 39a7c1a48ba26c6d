"""What a look at the accurate dose does to aims: hard limits move by their overshoot, back again, and never far."""

from __future__ import annotations

import numpy as np
import pytest

from dicomplan.metrics.grammar import parse_goal
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.pursuing import Aims, corrected

CORE = StructureGoal("Core", parse_goal("D0.03cc <= 8 Gy"), priority=0)


def shift_gy(values_gy: list[float], most: float) -> float:
    """Where a hard limit's aim is after looks that found these values."""
    aims = Aims((), ())
    for value in values_gy:
        aims = corrected(aims, {}, 50.0, np.zeros(0), {CORE: value}, most)
    return aims.shifts_gy.get(CORE, 0.0)


def test_a_broken_limit_moves_by_a_little_more_than_its_overshoot() -> None:
    assert shift_gy([8.2], 0.15) == pytest.approx(0.22)
    assert shift_gy([8.2, 8.1], 0.15) == pytest.approx(0.33)


def test_what_is_to_spare_brings_it_back_but_not_beyond() -> None:
    assert shift_gy([8.2, 7.9], 0.15) == pytest.approx(0.17)
    assert shift_gy([8.2, 2.0], 0.15) == 0.0
    assert shift_gy([7.0], 0.15) == 0.0


def test_a_search_cut_short_moves_it_only_so_far() -> None:
    """A first search may end 6 Gy above: the next would be asked for 2 Gy instead of 8."""
    assert shift_gy([14.0], 0.03) == pytest.approx(0.24)
    assert shift_gy([14.0, 9.0], 0.03) == pytest.approx(0.24)
