"""The scorecard: values, verdicts and the document that plan.json shows."""

import numpy as np
import pytest

from dicomplan.evaluation.scorecard import hard_constraints_met, score
from dicomplan.metrics.dvh import DoseSamples
from dicomplan.metrics.grammar import in_gray, parse_goal
from dicomplan.plan.template import StructureGoal

# 1 cc each of 1, 2, ... 100 Gy, and half of it
FINAL = DoseSamples.of_points(np.arange(1, 101), 1.0)
IDEAL = DoseSamples.of_points(np.arange(1, 101) / 2, 1.0)


def wish(text, priority=1, structure="PTV"):
    return StructureGoal(structure, parse_goal(text), priority)


@pytest.mark.parametrize(
    ("text", "achieved", "ideal", "met"),
    [
        ("D95% >= 6 Gy", 6, 3, True),
        ("D95% >= 6.0000001 Gy", 6, 3, False),
        ("D1cc <= 100 Gy", 100, 50, True),
        ("D1cc <= 99.9999999 Gy", 100, 50, False),
        ("Dmean <= 50 Gy", 50.5, 25.25, False),
        ("V20Gy <= 80 %", 81, 61, False),
        ("V20Gy <= 81 cc", 81, 61, True),
        ("CV20Gy >= 19 cc", 19, 39, True),
    ],
)
def test_values_and_verdicts_are_unrounded(text, achieved, ideal, met):
    (result,) = score([wish(text)], {"PTV": IDEAL}, {"PTV": FINAL})
    assert result.achieved == pytest.approx(achieved)
    assert result.ideal == pytest.approx(ideal)
    assert result.met is met
    assert result.goal == text


def test_verdict_is_of_the_final_dose_and_not_of_the_ideal():
    (result,) = score([wish("Dmax <= 60 Gy", 0)], {"PTV": IDEAL}, {"PTV": FINAL})
    assert (result.kind, result.priority, result.met) == ("hard", 0, False)
    assert not hard_constraints_met([result])
    (soft,) = score([wish("Dmax <= 60 Gy", 2)], {}, {"PTV": FINAL})
    assert (soft.kind, soft.ideal) == ("goal", None)
    assert hard_constraints_met([soft])


def test_document_has_the_keys_of_plan_json():
    (result,) = score([wish("Dmean <= 40 Gy (acceptable 60 Gy)", 3)], {"PTV": IDEAL}, {"PTV": FINAL})
    document = result.as_dict()
    assert document == {
        "structure": "PTV",
        "goal": "Dmean <= 40 Gy (acceptable 60 Gy)",
        "kind": "goal",
        "priority": 3,
        "ideal": pytest.approx(25.25),
        "achieved": pytest.approx(50.5),
        "unit": "Gy",
        "met": False,
        "limit": 40.0,
        "acceptable": 60.0,
        "acceptable_met": True,
    }


def test_percent_of_the_level_is_judged_in_gray():
    goal = StructureGoal("PTV", in_gray(parse_goal("D95% >= 95 %"), 6.0), 1)
    (result,) = score([goal], {}, {"PTV": FINAL})
    assert (result.limit, result.unit, result.met, result.goal) == (pytest.approx(5.7), "Gy", True, "D95% >= 95 %")
    with pytest.raises(ValueError, match="not resolved"):
        score([wish("D95% >= 95 %")], {}, {"PTV": FINAL})


def test_empty_structures_are_left_out_and_missing_ones_are_not():
    goals = [wish("Dmax <= 60 Gy", structure="Ring"), wish("Dmax <= 60 Gy")]
    results = score(goals, {}, {"PTV": FINAL, "Ring": None})
    assert [result.structure for result in results] == ["PTV"]
    with pytest.raises(KeyError):
        score(goals, {}, {"PTV": FINAL})
