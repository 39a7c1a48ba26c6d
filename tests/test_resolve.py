"""Templates on a study's ROIs: names, absent structures, levels, order, what is reported."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomplan.errors import TemplateError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.algebra import evaluate, expression_names
from dicomplan.patient.case import Coverage, Structure
from dicomplan.plan.library import load_template
from dicomplan.plan.parse import parse_template
from dicomplan.plan.resolve import resolve

SQUARE = (np.array([[0.0, 0, 0], [9, 0, 0], [9, 9, 0], [0, 9, 0]]),)


def rois(*names, **types):
    """Drawn ROIs; a name that begins with ! has no contours; types by name."""
    return [
        Structure(name.lstrip("!"), number, types.get(name, "ORGAN"), () if name.startswith("!") else SQUARE)
        for number, name in enumerate(names, start=1)
    ]


def template(body="", targets="PTV: 60 Gy", rest=""):
    return parse_template(
        f"dicomplan: 1\nprescription: {{fractions: 30, targets: {{{targets}}}{rest}}}\nbeams: {{gantry: [0]}}\n{body}"
    )


def messages(resolved):
    return " | ".join(finding.message for finding in resolved.findings)


def refused(*arguments):
    with pytest.raises(TemplateError) as caught:
        resolve(*arguments)
    return caught.value


@pytest.mark.parametrize("roi", ["SpinalCord", "spinal cord", "SPINAL_CORD", "Spinal-Cord", "cord", "CORD", "Myelon"])
def test_names_and_synonyms_match_without_regard_to_spelling(roi):
    resolved = resolve(
        template("structures: {SpinalCord: [cord]}\ngoals: [{SpinalCord: [Dmax <= 45 Gy]}]"), rois("PTV", roi)
    )
    assert resolved.roi_names == {"PTV": "PTV", "SpinalCord": roi}
    assert resolved.goals[0].structure == "SpinalCord"


def test_names_that_are_not_declared_are_rois_of_the_study():
    body = "goals: [{left lung: [V20Gy <= 30 %]}]\nderived: {Ring: PTV + 5 mm - 'left lung'}"
    resolved = resolve(template(body), rois("PTV", "Left_Lung"))
    assert resolved.roi_names["left lung"] == "Left_Lung"
    (ring,) = resolved.derived
    assert expression_names(ring.expression) == ("PTV", "left lung")


def test_a_synonym_used_in_goals_and_expressions_becomes_the_canonical_name():
    body = "structures: {Parotid_L: [LeftParotid]}\nderived: {P: LeftParotid - PTV}\ngoals: [{leftparotid: [Dmean <= 26 Gy]}]"
    resolved = resolve(template(body), rois("PTV", "LeftParotid"))
    assert resolved.goals[0].structure == "Parotid_L"
    assert expression_names(resolved.derived[0].expression) == ("Parotid_L", "PTV")


def test_two_rois_for_one_name_are_refused():
    error = refused(template("structures: {SpinalCord: [cord]}"), rois("PTV", "SpinalCord", "Cord"))
    assert "'SpinalCord' matches 2 ROIs" in error.message
    assert "'Cord'" in error.message
    assert error.line == 4
    assert "matches 2" in refused(template(), rois("PTV", "ptv")).message


def test_absent_structures_are_all_named_with_line_near_name_and_rois():
    body = "structures:\n  SpinalCord: [cord]\n  Stem: []\nconstraints: {Larinx: [Dmax <= 3 Gy]}"
    error = refused(template(body), rois("PTV", "Larynx", "!Stem", "SpinlCord"))
    assert [problem.line for problem in error.problems] == [5, 6, 7]
    cord, stem, larynx = error.problems
    assert "did you mean 'SpinlCord'" in cord.hint
    assert "no closed contours" in stem.message
    assert "did you mean 'Larynx'" in larynx.hint
    assert "PTV, Larynx, SpinlCord" in larynx.hint
    assert error.exit_code == 4


def test_optional_structures_drop_out_of_goals_and_expressions_with_a_notice():
    body = """\
structures: {"Larynx?": [], "Gold?": []}
density: {Gold: 19.3 g/cm3}
derived:
  Union: PTV | Larynx
  Difference: PTV - Larynx
  Absent: Larynx - PTV
  Intersection: PTV & Larynx
  Margin: Larynx + 3 mm
  Chain: PTV | Margin
constraints: {Margin: [Dmax <= 20 Gy]}
goals: [{Larynx: [Dmean <= 45 Gy], Chain: [Dmean <= 61 Gy]}]
objectives: {Larynx: [{type: mean_dose, dose: 3 Gy}], PTV: [{type: uniform, dose: 60 Gy}]}
"""
    resolved = resolve(template(body), rois("PTV", "!Larynx"))
    assert [goal.structure for goal in resolved.goals] == ["Chain"]
    assert resolved.constraints == ()
    assert resolved.density == ()
    assert [one.structure for one in resolved.objectives] == ["PTV"]
    # Union and Difference are the PTV, and nothing is asked of them
    assert [one.name for one in resolved.derived] == ["Chain"]
    assert expression_names(resolved.derived[0].expression) == ("PTV",)
    told = messages(resolved)
    for words in ("Larynx is not in the study", "Margin has nothing", "goal skipped, Larynx is absent: Dmean <= 45 Gy"):
        assert words in told
    assert "hard constraint skipped, Margin is absent" in told
    assert {finding.severity for finding in resolved.findings} == {"info"}


def test_a_use_does_not_make_a_declared_name_optional():
    body = 'structures: {Cord: []}\nderived: {"Ring?": Cord + 3 mm}'
    assert "'Cord' is not in the study" in refused(template(body), rois("PTV")).message
    # used in an optional derived structure only: may be absent
    assert resolve(template('derived: {"Ring?": Cord + 3 mm}'), rois("PTV")).derived == ()
    both = 'derived: {"Ring?": Cord + 3 mm}\ngoals: [{Cord: [Dmax <= 3 Gy]}]'
    assert "'Cord' is not in the study" in refused(template(both), rois("PTV")).message


LEVELS = 'PTV_7000: 70 Gy, "PTV_6300?": 63 Gy, "PTV_5600?": 56 Gy'


@pytest.mark.parametrize(
    ("structure", "expected"),
    [("PTV_7000", 70), ("PTV_6300", 63), ("Up63", 63), ("Low", 56), ("Mixed", 70), ("Cord", 70), ("Nested", 56)],
)
def test_percent_is_of_the_own_level_the_lowest_of_targets_or_the_highest(structure, expected):
    body = f"""\
derived:
  Up63: PTV_7000 | PTV_6300
  Low: PTV_5600 - (PTV_6300 + 8 mm)
  Nested: Low + 3 mm
  Mixed: PTV_5600 - Cord
goals: [{{{structure}: [D2% <= 107 %, V95% >= 98 %]}}]
"""
    resolved = resolve(template(body, LEVELS), rois("PTV_5600", "PTV_7000", "PTV_6300", "Cord"))
    dose, volume = resolved.goals
    assert (dose.goal.limit, dose.goal.unit) == (pytest.approx(1.07 * expected), "Gy")
    assert volume.goal.metric.argument == pytest.approx(0.95 * expected)
    assert (volume.goal.limit, volume.goal.unit) == (98, "%")


def test_targets_come_highest_first_and_absent_levels_drop_out():
    resolved = resolve(template("", '"PTV_5600?": 56 Gy, "PTV_6300?": 63 Gy, PTV_7000: 70 Gy'), rois("PTV56", "PTV70"))
    assert [(target.name, target.dose_gy) for target in resolved.targets] == [("PTV_7000", 70), ("PTV_5600", 56)]
    assert resolved.roi_names == {"PTV_7000": "PTV70", "PTV_5600": "PTV56"}
    assert resolved.highest_level_gy == 70
    assert "no target" in refused(template("", '"A?": 50 Gy'), rois("B")).message


def test_a_goal_that_an_absent_level_makes_equal_to_another_is_asked_once():
    body = (
        "derived: {Up: PTV_6300 | PTV_7000}\ngoals: [{PTV_7000: [D99% >= 95 %]}, {Up: [D99% >= 95 %, Dmax <= 77 Gy]}]"
    )
    resolved = resolve(template(body, LEVELS), rois("PTV_7000"))
    assert [(goal.structure, goal.goal.text) for goal in resolved.goals] == [
        ("PTV_7000", "D99% >= 95 %"),
        ("Up", "Dmax <= 77 Gy"),
    ]
    assert "asked already: Up D99% >= 95 %" in messages(resolved)
    both = resolve(template(body, LEVELS), rois("PTV_7000", "PTV_6300"))
    assert [(goal.structure, goal.goal.limit) for goal in both.goals] == [
        ("PTV_7000", 66.5),
        ("Up", pytest.approx(59.85)),
        ("Up", 77),
    ]


def test_derived_structures_come_in_order_of_dependency():
    body = "derived: {A: B + 3 mm, B: C - PTV, C: PTV + 9 mm}"
    resolved = resolve(template(body), rois("PTV"))
    assert [one.name for one in resolved.derived] == ["C", "B", "A"]
    assert resolved.structure_names == ("BODY", "PTV", "C", "B", "A")


def test_body_is_the_external_whatever_its_name():
    wish = template("derived: {Outside: BODY - PTV}\ngoals: [{body: [D1cc <= 66 Gy]}]")
    for name in ("BODY", "Patient", "Aussenhaut"):
        resolved = resolve(wish, rois("PTV", name, **{name: "EXTERNAL"}))
        assert resolved.roi_names["BODY"] == name
        assert resolved.goals[0].structure == "BODY"
    assert resolve(wish, rois("PTV", "Body")).roi_names["BODY"] == "Body"
    # found later by the workflow
    none = resolve(wish, rois("PTV", "!BODY", **{"!BODY": "EXTERNAL"}))
    assert "BODY" not in none.roi_names
    assert none.goals[0].structure == "BODY"
    assert [one.name for one in none.derived] == ["Outside"]
    two = rois("PTV", "Skin", "Outline", Skin="EXTERNAL", Outline="EXTERNAL")
    assert "matches 2 ROIs" in refused(wish, two).message
    named = resolve(wish, rois("PTV", "BODY", "Outline", BODY="EXTERNAL", Outline="EXTERNAL"))
    assert named.roi_names["BODY"] == "BODY"


def test_bolus_and_couch_are_included_by_type_and_by_name():
    resolved = resolve(
        template('body: {include: [Mask, "Board?"]}'),
        rois("PTV", "Mask", "Couch", "Bolus 1", Couch="SUPPORT", **{"Bolus 1": "BOLUS"}),
    )
    assert resolved.include == ("Mask", "Couch", "Bolus 1")
    assert "Bolus 1 (BOLUS) takes part" in messages(resolved)


def test_isocenter_and_normalisation_need_their_structures():
    text = (
        "dicomplan: 1\nprescription: {fractions: 30, targets: {PTV: 60 Gy}%s}\nbeams: {gantry: [0], isocenter: %s}\n%s"
    )
    named = parse_template(text % (", normalize: ptv D95% = 98 %", "Gland", ""))
    resolved = resolve(named, rois("PTV", "gland"))
    assert resolved.isocenter == "Gland"
    assert (resolved.normalize.structure, resolved.normalize.goal.limit) == ("PTV", pytest.approx(58.8))
    assert "'Gland'" in refused(named, rois("PTV")).message
    optional = parse_template(text % ("", "Gland", 'structures: {"Gland?": []}'))
    assert "beams.isocenter" in refused(optional, rois("PTV")).message
    point = parse_template(text % ("", "[1, 2, 3]", ""))
    assert resolve(point, rois("PTV")).isocenter == (1, 2, 3)
    # the word of the grammar, although a derived structure is called so
    word = parse_template(text % ("", "targets", "derived: {Targets: PTV + 3 mm}"))
    assert resolve(word, rois("PTV")).isocenter == "targets"


def test_side_is_never_guessed():
    error = refused(template("structures: {Parotid_L: []}"), rois("PTV", "Parotid"))
    assert "'Parotid_L' is not in the study" in error.message


def test_openkbp_names_meet_the_shipped_template():
    names = (
        "Brainstem",
        "Esophagus",
        "Larynx",
        "LeftParotid",
        "Mandible",
        "PTV56",
        "PTV70",
        "RightParotid",
        "SpinalCord",
    )
    resolved = resolve(load_template("head_and_neck_70"), rois("BODY", *names, BODY="EXTERNAL"))
    assert set(resolved.roi_names.values()) == {"BODY", *names}
    assert resolved.roi_names["Parotid_R"] == "RightParotid"
    assert [one.name for one in resolved.derived] == ["PTV_5600_Up", "PTV_5600_Low", "Outside", "Ring"]
    limits = {(goal.structure, goal.goal.metric.name): goal.goal.limit for goal in resolved.goals}
    assert limits["PTV_7000", "D99%"] == pytest.approx(66.5)
    assert limits["PTV_5600_Up", "D99%"] == pytest.approx(53.2)
    assert limits["PTV_5600_Low", "D5%"] == pytest.approx(61.6)
    assert len(resolved.goals) == 11


def test_shipped_templates_fit_their_studies():
    box = resolve(load_template("water_box"), rois("PTV", "BODY", BODY="EXTERNAL"))
    assert box.roi_names == {"BODY": "BODY", "PTV": "PTV"}
    shape = resolve(load_template("tg119_cshape"), rois("OuterTarget", "Core", "BODY", BODY="EXTERNAL"))
    assert shape.normalize.goal.limit == 50
    with pytest.raises(TemplateError, match="SpinalCord"):
        resolve(load_template("head_and_neck_70"), rois("PTV70", "BODY", BODY="EXTERNAL"))


NAMES = st.sampled_from(["A", "B", "C"])
EXPRESSIONS = st.recursive(
    NAMES,
    lambda inner: st.tuples(inner, st.sampled_from("|&-"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=8,
)


@settings(deadline=None, max_examples=80)
@given(EXPRESSIONS, st.sets(NAMES), st.integers(0, 1000))
def test_dropping_absent_structures_agrees_with_the_algebra(expression, absent, seed):
    """The pruned expression has the value that the whole one has with the absent structures as None."""
    grid = VoxelGrid((1, 2, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(seed)
    coverages = {
        name: None if name in absent else Coverage(grid, rng.uniform(0, 1, grid.shape).astype(np.float32))
        for name in "ABC"
    }
    body = f'structures: {{"A?": [], "B?": [], "C?": []}}\nderived: {{X: {expression}}}\ngoals: [{{X: [Dmax <= 3 Gy]}}]'
    resolved = resolve(template(body), rois("PTV", *(name for name in "ABC" if name not in absent)))
    whole = template(body).derived[0].expression
    from dicomplan.patient.algebra import parse_expression

    expected = evaluate(parse_expression(whole), coverages, grid)
    if expected is None:
        assert resolved.derived == ()
        assert resolved.goals == ()
    else:
        found = evaluate(resolved.derived[0].expression, coverages, grid)
        assert np.array_equal(found.fraction, expected.fraction)


def test_messages_say_nothing_of_where_the_study_lies():
    resolved = resolve(load_template("head_and_neck_70"), rois("PTV70", "SpinalCord"))
    assert not re.search(r"[/\\]|\.dcm", messages(resolved))


def test_an_roi_that_bears_one_name_is_not_guessed_for_another():
    resolved = resolve(template('structures: {Cord_Drawn: [SpinalCord], "cord?": []}'), rois("PTV", "SpinalCord"))
    assert resolved.roi_names == {"PTV": "PTV", "Cord_Drawn": "SpinalCord"}


def test_a_copy_that_another_derived_structure_needs_stays():
    body = 'structures: {"Larynx?": []}\nderived: {Copy: PTV | Larynx, Ring: Copy + 5 mm}'
    assert [one.name for one in resolve(template(body), rois("PTV")).derived] == ["Copy", "Ring"]
