"""``plan --explore A:B``: a front that runs from the best of one goal to the best of the other, told in every form."""

from __future__ import annotations

import re
from pathlib import Path

import plan_helpers as helpers
import pytest
from plan_helpers import plan, template

from dicomplan.cli.plan import outcome_text
from dicomplan.dicom.read import read_study
from dicomplan.errors import UsageError
from dicomplan.plan.library import load_template
from dicomplan.plan.resolve import ResolvedTemplate, resolve
from dicomplan.planning.exploring import explored_goals


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    return plan(tmp_path_factory.mktemp("explored"), template(), explore="PTV_5000 D98%:Ring")


def test_the_front_runs_from_one_best_to_the_other(explored: helpers.Planned) -> None:
    front = explored.document["exploration"]
    assert [goal["structure"] for goal in front["goals"]] == ["PTV_5000", "Ring"]
    assert 5 <= len(front["points"]) <= 10
    coverage, ring = zip(*(point["pair"] for point in front["points"]), strict=True)
    assert coverage[0] > coverage[-1] + 1.0
    assert ring[0] > ring[-1] + 1.0
    left = [point["pair"] for point in front["points"] if not point["dominated"]]
    assert len(left) >= 3
    assert sorted(left) == sorted(left, key=lambda pair: pair[1])


def test_what_is_not_traded_is_kept(explored: helpers.Planned) -> None:
    front = explored.document["exploration"]
    traded = [goal["goal"] for goal in front["goals"]]
    own = {goal["goal"]: goal["ideal"] for goal in explored.document["goals"]}
    limit = {goal["goal"]: goal for goal in explored.document["goals"]}
    for point in front["points"]:
        for value in point["values"]:
            if value["goal"] in traded:
                continue
            if value["kind"] == "hard":
                assert value["met"]
            elif limit[value["goal"]]["at_most"]:
                assert value["value"] <= max(own[value["goal"]], float(re.findall(r"[\d.]+", value["goal"])[-1])) * 1.02
            else:
                assert value["value"] >= own[value["goal"]] * 0.98


def test_it_is_told_on_the_command_line_and_in_the_report(explored: helpers.Planned) -> None:
    said = outcome_text(explored.outcome)
    assert "Trade-off" in said
    assert said.count("\n") > len(explored.document["exploration"]["points"])
    report = explored.outcome.report.read_text(encoding="utf-8")
    assert 'id="trade-off"' in report
    assert report.count("<circle") >= len(explored.document["exploration"]["points"])


@pytest.fixture(scope="module")
def resolved(explored: helpers.Planned) -> ResolvedTemplate:
    wanted = load_template(str(explored.template))
    return resolve(wanted, read_study([explored.study]).case.structures, file=str(explored.template))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SpinalCord", "two goals and a colon"),
        ("SpinalCord:Liver", "'Liver' names no goal"),
        ("PTV_5000:Ring", "names several goals"),
        ("Ring:ring Dmean", "the same goal"),
    ],
)
def test_what_names_no_two_goals_is_refused(resolved: ResolvedTemplate, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        explored_goals(resolved, text)


def test_a_metric_tells_goals_of_one_structure_apart(resolved: ResolvedTemplate) -> None:
    found = explored_goals(resolved, "ptv 5000 D2%:spinal_cord")
    assert [(goal.structure, goal.goal.metric.name) for goal in found] == [("PTV_5000", "D2%"), ("SpinalCord", "Dmean")]


def test_a_refusal_leaves_nothing(explored: helpers.Planned, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        plan(tmp_path, template(), study=explored.study, explore="Ring:Liver")
    assert not (tmp_path / "out").exists()
