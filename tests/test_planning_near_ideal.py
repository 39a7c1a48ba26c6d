"""What delivery costs against the ideal plan, and the aims that keep goals near it."""

from __future__ import annotations

import pytest

from dicomplan.metrics.grammar import parse_goal
from dicomplan.plan.derive import ObjectiveSpec, Region
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.near_ideal import UNSEEN, delivery_loss, goal_loss, kept_near, worsening
from dicomplan.planning.pursuing import Aims

LEVEL = 50.0


def goal(text, priority=1, structure="PTV"):
    return StructureGoal(structure, parse_goal(text), priority)


@pytest.mark.parametrize(
    ("text", "ideal", "value", "worse"),
    [
        ("D95% >= 50 Gy", 50.5, 50.0, 1.0),
        ("D95% >= 50 Gy", 50.0, 51.0, -2.0),
        ("Dmean <= 20 Gy", 10.0, 12.5, 5.0),
        ("V20Gy <= 30 %", 25.0, 27.5, 2.5),
        ("CV20Gy >= 200 cc", 210.0, 200.0, 5.0),
    ],
)
def test_worsening_is_in_percent_of_the_prescription_or_points(text, ideal, value, worse):
    assert worsening(goal(text), ideal, value, LEVEL) == pytest.approx(worse)


def test_a_plan_like_the_ideal_one_costs_nothing():
    ideal = {goal("D95% >= 50 Gy"): 49.0, goal("Dmean <= 20 Gy", 2): 25.0, goal("V20Gy <= 30 %", 3): 20.0}
    assert delivery_loss(ideal, ideal, LEVEL) == (0.0, 0.0)


def test_beyond_the_limit_counts_in_full_inside_in_half_and_a_little_not_at_all():
    one = goal("Dmean <= 20 Gy")
    ideal = {one: 20.0}
    own = delivery_loss({one: 21.0}, ideal, LEVEL)[1]
    assert own > 2.0  # 1 Gy of 50 Gy, and something for the missed goal itself
    within = goal("Dmean <= 40 Gy")
    assert delivery_loss({within: 22.0}, {within: 20.0}, LEVEL)[1] == pytest.approx(0.5 * (4.0 - UNSEEN))
    assert delivery_loss({within: 20.0 + 0.4 * UNSEEN}, {within: 20.0}, LEVEL) == (0.0, 0.0)
    later = goal("Dmean <= 40 Gy", 2)
    assert delivery_loss({later: 22.0}, {later: 20.0}, LEVEL)[1] == pytest.approx(0.7 * 0.5 * (4.0 - UNSEEN))


def test_what_gets_better_than_ideal_is_to_its_credit():
    one = goal("Dmean <= 20 Gy")
    assert delivery_loss({one: 21.0}, {one: 25.0}, LEVEL)[1] < 0.0


def test_the_goal_loss_is_the_sum_of_what_got_worse():
    hard, one, two = goal("D0.1cc <= 45 Gy", 0), goal("Dmean <= 20 Gy"), goal("D95% >= 50 Gy")
    ideal = {hard: 30.0, one: 10.0, two: 51.0}
    assert goal_loss({hard: 50.0, one: 11.0, two: 50.0}, ideal, LEVEL) == pytest.approx(2.0 + 2.0)
    assert goal_loss({hard: 50.0, one: 9.0, two: 52.0}, ideal, LEVEL) == 0.0


def test_a_broken_hard_limit_comes_first():
    hard, one = goal("D0.1cc <= 45 Gy", 0), goal("Dmean <= 20 Gy")
    broken = delivery_loss({hard: 45.9, one: 10.0}, {hard: 40.0, one: 20.0}, LEVEL)
    held = delivery_loss({hard: 45.0, one: 30.0}, {hard: 40.0, one: 20.0}, LEVEL)
    assert broken[0] == pytest.approx(0.9 / 45.9)
    assert held < broken


def test_only_goals_with_something_to_spare_are_kept():
    spared, tight, missed, volume = (
        goal("Dmean <= 40 Gy", 2, "Parotid"),
        goal("D2% <= 53 Gy"),
        goal("D95% >= 50 Gy"),
        goal("V20Gy <= 30 %", 3, "Lung"),
    )
    kinds = {spared: "mean_dose", tight: "max_dvh", missed: "min_dvh", volume: "max_dvh"}
    specs = tuple(
        ObjectiveSpec(
            Region(one.structure),
            kind,
            one.goal.limit if one.goal.unit == "Gy" else 20.0,
            1.0,
            allowed_percent=30.0 if one is volume else 2.0,
            priority=one.priority,
            goal=one,
        )
        for one, kind in kinds.items()
    )
    ideal = {spared: 20.0, tight: 52.9, missed: 49.0, volume: 12.0}
    more = kept_near(Aims((), specs), ideal, LEVEL).wishes
    assert more[: len(specs)] == specs
    added = more[len(specs) :]
    assert [one.goal for one in added] == [spared, volume]
    assert added[0].dose_gy == pytest.approx(20.0 + UNSEEN / 100.0 * LEVEL)  # per cent of the prescription
    assert added[1].allowed_percent == pytest.approx(12.0 + UNSEEN)  # points
    assert [one.priority for one in added] == [2, 3]
