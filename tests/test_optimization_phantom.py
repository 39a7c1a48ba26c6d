"""Derived objectives on a flat patient with a toy dose engine: what templates ask for is reached."""

from dataclasses import replace

import numpy as np
import pytest
from optimization_helpers import (
    VOXEL_CC,
    Dense,
    ellipse,
    head_and_neck,
    pencil_matrix,
    region_set,
    resolved_on,
    structure_masks,
)

from dicomplan.metrics.dvh import DoseSamples, evaluate
from dicomplan.optimization.build import build, regions
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import SolverSettings, solve
from dicomplan.plan.derive import derive
from dicomplan.plan.library import load_template
from dicomplan.plan.parse import parse_template

C_SHAPE = """
dicomplan: 1
prescription: {{fractions: 25, targets: {{OuterTarget: 50 Gy}}}}
beams: {{gantry: [0]}}
{constraints}
goals: [{{OuterTarget: [D95% >= 47.5 Gy, D2% <= 55 Gy]}}]
"""


def c_shape():
    """A target wrapped round a core, 5 mm apart."""
    outer = ellipse(0, 15, 38, 38) & ~ellipse(0, 20, 17, 17) & ~ellipse(0, 55, 17, 35)
    return {"BODY": ellipse(0, 0, 80, 95), "Core": ellipse(0, 20, 12, 12), "OuterTarget": outer}


class Case:
    """A template on a flat patient, ready to be planned."""

    def __init__(self, template, roi_masks):
        self.resolved = resolved_on(template, list(roi_masks))
        self.masks = roi_masks | structure_masks(self.resolved, roi_masks)
        matrix, pairs = pencil_matrix(self.masks["BODY"])
        self.operator = Dense(matrix)
        self.smoothing = Smoothing(pairs[:, 0], pairs[:, 1], np.ones(len(pairs)), 0.05)
        self.specs = derive(self.resolved)
        self.sets = {region: region_set(region, self.masks) for region in regions(self.specs)}

    def plan(self, specs=None, warm_start=None):
        built = build(specs or self.specs, self.sets, self.resolved.highest_level_gy, self.smoothing)
        return solve(self.operator, built.problem, warm_start=warm_start, settings=SolverSettings(max_iterations=400))

    def samples(self, solution, name):
        dose = solution.dose_gy[self.masks[name][self.masks["BODY"]]]
        return DoseSamples.of_points(dose, VOXEL_CC)

    def values(self, solution):
        """(goal, value) of every constraint and goal."""
        asked = (*self.resolved.constraints, *self.resolved.goals)
        return [(one, evaluate(one.goal.metric, self.samples(solution, one.structure), one.goal.unit)) for one in asked]


@pytest.mark.parametrize("limit_gy", [30.0, 15.0])
def test_a_target_wrapped_round_an_organ_is_covered_while_the_organ_is_held(limit_gy):
    free = Case(parse_template(C_SHAPE.format(constraints="")), c_shape())
    without = free.plan()
    held = Case(
        parse_template(C_SHAPE.format(constraints=f"constraints: {{Core: [D0.1cc <= {limit_gy} Gy]}}")), c_shape()
    )
    solution = held.plan()
    assert free.samples(without, "Core").max_gy > limit_gy  # the limit has work to do
    assert solution.limits_met
    # aimed 1 % lower, and at every voxel
    assert held.samples(solution, "Core").max_gy <= 0.991 * limit_gy
    assert all(one.goal.met(value) for one, value in held.values(solution))


def test_the_head_and_neck_template_is_pursued_in_its_order():
    """Hard limits and targets are met at once; organs that cannot be spared entirely do not cost the targets."""
    case = Case(load_template("head_and_neck_70"), head_and_neck())
    solution = case.plan()
    values = case.values(solution)
    assert solution.limits_met
    for one, value in values:
        if one.priority <= 3 or one.structure == "Larynx":
            assert one.goal.met(value), (one.structure, one.goal.text, value)
    parotids = [value for one, value in values if one.structure.startswith("Parotid")]
    assert max(parotids) < 30.0
    # the pull goes on below the goal: the larynx has far less than 45 Gy
    assert next(value for one, value in values if one.structure == "Larynx") < 35.0

    # a second round with the goals that are not met raised, as planning does it
    unmet = [one for one in case.resolved.goals if not one.goal.met(dict(values)[one])]
    assert unmet
    raised = [
        replace(one, weight=one.weight * 3.0) if one.goal in unmet and not one.hard else one for one in case.specs
    ]
    again = case.plan(raised, warm_start=solution)
    after = dict(case.values(again))
    assert again.limits_met
    assert again.iterations < solution.iterations
    for one in unmet:
        assert after[one] < dict(values)[one], one.structure
    assert all(one.goal.met(after[one]) for one in case.resolved.goals if one.priority <= 3)


def test_a_goal_that_nothing_can_meet_does_not_wreck_the_target():
    """Mean dose of 1 Gy to an organ inside the target's reach: the target keeps its coverage."""
    body = "constraints: {Core: [D0.1cc <= 40 Gy]}"
    text = C_SHAPE.format(constraints=body) + "  # impossible\n"
    text = text.replace("D2% <= 55 Gy]}]", "D2% <= 55 Gy]}, {Core: [Dmean <= 1 Gy], BODY: [Dmean <= 1 Gy]}]")
    case = Case(parse_template(text), c_shape())
    solution = case.plan()
    values = {one.goal.text: value for one, value in case.values(solution)}
    assert values["Dmean <= 1 Gy"] > 2.0
    assert values["D95% >= 47.5 Gy"] > 46.0
    assert solution.limits_met
