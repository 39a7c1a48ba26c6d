"""What a look at the accurate dose does to aims: hard limits move by their overshoot, back again, and never far."""

from __future__ import annotations

import numpy as np
import pytest

from dicomplan.metrics.grammar import parse_goal
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import ObjectiveSpec, Region
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.pursuing import Aims, corrected

CORE = StructureGoal("Core", parse_goal("D0.03cc <= 8 Gy"), priority=0)


REGION = Region("Core")
LIMIT = ObjectiveSpec(REGION, "max_dose", 7.92, 1.0, hard=True, goal=CORE)


def shift_gy(judged_gy: list[float], most: float, unseen_gy: float = 0.0) -> float:
    """Where a hard limit's aim is after looks that judged so, with voxels that saw ``unseen_gy`` less."""
    voxels = VoxelSet("Core", np.arange(1), np.ones(1))
    aims = Aims((LIMIT,), ())
    for value in judged_gy:
        aims = corrected(aims, {REGION: voxels}, 50.0, np.array([value - unseen_gy]), {CORE: value}, most)
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
    assert shift_gy([14.0], 0.03) == pytest.approx(1.5)
    assert shift_gy([14.0, 9.0], 0.03) == pytest.approx(1.5)


def test_what_voxels_do_not_see_is_always_made_up_for() -> None:
    assert shift_gy([14.0], 0.03, unseen_gy=3.0) == pytest.approx(3.0)
    assert shift_gy([8.1], 0.03, unseen_gy=3.0) == pytest.approx(3.0)
