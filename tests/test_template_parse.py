"""Templates: what a valid one means, and every way to get one wrong, with its line."""

import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomplan.errors import TemplateError, UsageError
from dicomplan.plan.library import load_template, template_names, template_text
from dicomplan.plan.parse import parse_template
from dicomplan.plan.template import BeamField, Objective

BASE = """\
dicomplan: 1
name: Test
prescription: {fractions: 30, targets: {PTV: 60 Gy}}
beams: {gantry: {count: 5}}
"""


def problems_of(text):
    with pytest.raises(TemplateError) as caught:
        parse_template(text)
    return caught.value.problems


def only_problem(text):
    (problem,) = problems_of(text)
    return problem


FULL = """\
dicomplan: 1                             # version
name: Head and neck 70 Gy in 35
prescription:
  {fractions: 35, targets: {PTV_7000: 70 Gy, "PTV_6300?": 63 Gy, PTV_5600: 56 Gy}, normalize: PTV_7000 D95% = 70 Gy}
machine: generic_6mv
structures:
  SpinalCord: [cord, spinal cord, SPINALCORD]
  Parotid_L: [LeftParotid, parotid lt]
  "Larynx?": [larynx]
derived:
  SpinalCord_PRV05: SpinalCord + 5 mm
  Ring: (PTV_7000 + 20 mm) - (PTV_7000 + 3 mm)
  Targets: PTV_7000 | PTV_6300 | PTV_5600
density: {Filling_Gold: 19.3 g/cm3}
body: {outside: air, include: [Couch, Bolus]}
beams:
  technique: imrt
  isocenter: targets
  gantry: [0, 40, 80, 120, 160, 200, 240, 280, 320]
constraints:
  SpinalCord: [D0.03cc <= 45 Gy]
goals:
  - PTV_7000: [D95% >= 70 Gy, D99% >= 66.5 Gy]
  - Parotid_L: [Dmean <= 26 Gy (acceptable 30 Gy)]
    Larynx: [Dmean <= 45 Gy]
objectives:
  PTV_7000: [{type: uniform, dose: 70 Gy, weight: 100}]
  Parotid_L: [{type: max_dvh, dose: 30 Gy, volume: 50 %}]
dose: {grid: 3 mm, influence: pencil_beam, final: pencil_beam}
delivery: {mode: step_and_shoot, max_segments: 100}
report: {risk: false}
"""


def test_the_contract_s_example():
    template = parse_template(FULL)
    assert template.name == "Head and neck 70 Gy in 35"
    assert template.source == FULL
    assert template.prescription.fractions == 35
    assert [(t.name, t.dose_gy, t.optional) for t in template.prescription.targets] == [
        ("PTV_7000", 70.0, False),
        ("PTV_6300", 63.0, True),
        ("PTV_5600", 56.0, False),
    ]
    normalize = template.prescription.normalize
    assert (normalize.structure, normalize.goal.metric.name, normalize.goal.limit) == ("PTV_7000", "D95%", 70)
    cord, parotid, larynx = template.structures
    assert (cord.synonyms, cord.optional, cord.line) == (("cord", "spinal cord", "SPINALCORD"), False, 7)
    assert parotid.synonyms == ("LeftParotid", "parotid lt")
    assert (larynx.name, larynx.optional) == ("Larynx", True)
    assert [(d.name, d.line) for d in template.derived] == [("SpinalCord_PRV05", 11), ("Ring", 12), ("Targets", 13)]
    assert template.density[0].mass_density_g_cm3 == 19.3
    assert template.body.include == ("Couch", "Bolus")
    assert [f.gantry_angle_deg for f in template.beams.fields] == list(range(0, 360, 40))
    (hard,) = template.constraints
    assert (hard.structure, hard.hard, hard.goal.limit, hard.line) == ("SpinalCord", True, 45, 21)
    assert [(g.structure, g.priority, g.goal.text) for g in template.goals] == [
        ("PTV_7000", 1, "D95% >= 70 Gy"),
        ("PTV_7000", 1, "D99% >= 66.5 Gy"),
        ("Parotid_L", 2, "Dmean <= 26 Gy (acceptable 30 Gy)"),
        ("Larynx", 2, "Dmean <= 45 Gy"),
    ]
    assert template.objectives == (
        Objective("PTV_7000", "uniform", 70.0, 100.0, None, 27),
        Objective("Parotid_L", "max_dvh", 30.0, 1.0, 50.0, 28),
    )
    assert (template.dose.grid_mm, template.delivery.max_segments) == (3.0, 100)


def test_objectives_of_every_type_are_read():
    terms = (
        "{type: min_mean, dose: 60 Gy}, {type: max_tail, dose: 62 Gy, volume: 5 %}, {type: linear, weight: 2}, "
        "{type: smooth_max, dose: 64 Gy}, {type: max_geud, dose: 20 Gy, a: 8}, {type: min_geud, dose: 59 Gy, a: -10}, "
        "{type: variance}"
    )
    template = parse_template(BASE + f"objectives: {{PTV: [{terms}]}}\n")
    assert template.objectives == (
        Objective("PTV", "min_mean", 60.0, line=5),
        Objective("PTV", "max_tail", 62.0, volume_percent=5.0, line=5),
        Objective("PTV", "linear", 0.0, 2.0, line=5),
        Objective("PTV", "smooth_max", 64.0, line=5),
        Objective("PTV", "max_geud", 20.0, exponent=8.0, line=5),
        Objective("PTV", "min_geud", 59.0, exponent=-10.0, line=5),
        Objective("PTV", "variance", 0.0, line=5),
    )


def test_scalars_stay_text():
    template = parse_template(
        BASE + "structures: {NO: [no, off, 1.0, null, 007], Yes: []}\ngoals: [{NO: [Dmean <= 3 Gy]}]\n"
    )
    assert [entry.name for entry in template.structures] == ["NO", "Yes"]
    assert template.structures[0].synonyms == ("no", "off", "1.0", "null", "007")
    assert template.goals[0].structure == "NO"


def test_what_is_left_out_has_documented_defaults():
    template = parse_template(BASE)
    assert [f.gantry_angle_deg for f in template.beams.fields] == [0, 72, 144, 216, 288]
    assert template.machine == "generic_6mv"
    assert template.dose.grid_mm == 3.0
    assert template.delivery.max_segments is None
    assert template.beams.isocenter == "targets"
    assert template.goals == template.constraints == template.objectives == ()


def test_other_forms():
    template = parse_template(
        BASE.replace(
            "{gantry: {count: 5}}", "{isocenter: [1.5, -20, 3 mm], fields: [{gantry: 60, couch: 90, collimator: 15}]}"
        )
        + "dose: {grid: ct}\nconstraints:\ngoals:\nstructures:\n"
    )
    assert template.beams.isocenter == (1.5, -20.0, 3.0)
    assert template.beams.fields == (BeamField(60, 90, 15),)
    assert template.dose.grid_mm is None
    quoted = parse_template(BASE.replace("60 Gy}", "60 Gy}, normalize: \"'PTV 1 + 2' Dmean = 60 Gy\""))
    assert quoted.prescription.normalize.structure == "PTV 1 + 2"


def test_a_question_mark_where_a_structure_is_used_lets_it_be_absent():
    template = parse_template(BASE + 'goals:\n  - "Larynx?": [Dmean <= 45 Gy]\n')
    assert template.goals[0].structure == "Larynx"
    assert [(entry.name, entry.optional) for entry in template.structures] == [("Larynx", True)]


@pytest.mark.parametrize(
    ("addition", "line", "words"),
    [
        ("gaols: []", 5, ["unknown key 'gaols'", "did you mean 'goals'"]),
        ("name: Again", 5, ["'name' is given twice", "line 2"]),
        ("structures: {Cord: [a], cord: [b]}", 5, ["'cord' is given twice"]),
        ("structures: {Cord: cord}", 5, ["a list expected", "'cord'"]),
        ("structures: [Cord]", 5, ["a mapping", "a list"]),
        ("structures: {Cord: [c], Stem: [C]}", 5, ["'C' stands for Stem and for Cord"]),
        ("structures: {Cord: [[c]]}", 5, ["text expected"]),
        ("goals: [{PTV: [D95% >= 70 cc]}]", 5, ["PTV", "mixed", "cc"]),
        ("goals: [{PTV: D95% >= 70 Gy}]", 5, ["a list expected"]),
        ("goals: {PTV: [D95% >= 70 Gy]}", 5, ["a list expected", "dash"]),
        ("goals:\n  - PTV:\n    - D95% >= 70 Gy\n    - D95 >= 70 Gy", 8, ["no unit"]),
        ("constraints: {Cord: [keep low]}", 5, ["no goal"]),
        ("derived: {Ring: PTV + }", 5, ["Ring", "margin"]),
        ("derived: {Ring: [PTV]}", 5, ["text expected"]),
        ("derived:\n  A: B | PTV\n  B: C + 3 mm\n  C: A", 6, ["A needs B needs C needs A", "cycle"]),
        ("derived: {A: A + 3 mm}", 5, ["A needs A", "cycle"]),
        ("structures: {Ring: []}\nderived: {Ring: PTV + 3 mm}", 6, ["also a structure of line 5"]),
        ("density: {Gold: 19.3}", 5, ["g/cm3", "19.3 g/cm3"]),
        ("density: {Gold: 1930 g/cm3}", 5, ["not within"]),
        ("body: {outside: water}", 5, ["'water' is not known", "air"]),
        ("dose: {grid: 3}", 5, ["mm", "3 mm"]),
        ("dose: {grid: 3 cm}", 5, ["mm", "3 cm"]),
        ("dose: {influence: collapsed_cone}", 5, ["not built yet", "pencil_beam"]),
        ("dose: {final: monte_carlo}", 5, ["not known", "pencil_beam"]),
        ("delivery: {mode: vmat}", 5, ["'vmat' is not known", "sliding_window"]),
        ("delivery: {max_segments: 4}", 5, ["4 segments for 5 beams"]),
        ("delivery: {max_segments: many}", 5, ["whole number"]),
        ("report: {risk: true}", 5, ["not built yet"]),
        ("objectives: {PTV: [{type: uniform}]}", 5, ["uniform needs 'dose'"]),
        ("objectives: {PTV: [{type: linear, dose: 70 Gy}]}", 5, ["linear takes no dose"]),
        ("objectives: {PTV: [{type: max_geud, dose: 70 Gy}]}", 5, ["max_geud needs 'a'", "a: 8"]),
        ("objectives: {PTV: [{type: max_geud, dose: 70 Gy, a: 0.5}]}", 5, ["1 or more, 0.5 found"]),
        ("objectives: {PTV: [{type: min_geud, dose: 70 Gy, a: 2}]}", 5, ["1 or less", "not 0"]),
        ("objectives: {PTV: [{type: min_geud, dose: 70 Gy, a: 0}]}", 5, ["not 0"]),
        ("objectives: {PTV: [{type: max_geud, dose: 70 Gy, a: high}]}", 5, ["high"]),
        ("objectives: {PTV: [{type: uniform, dose: 70 Gy, a: 2}]}", 5, ["takes no a"]),
        ("objectives: {PTV: [{type: max_tail, dose: 70 Gy, volume: 0 %}]}", 5, ["0 % of the volume"]),
        ("objectives: {PTV: [{type: uniform, dose: 70 Gy, volume: 3 %}]}", 5, ["takes no volume"]),
        ("objectives: {PTV: [{type: max_dvh, dose: 70 Gy}]}", 5, ["needs 'volume'", "volume: 30 %"]),
        ("objectives: {PTV: [{type: soft, dose: 70 Gy}]}", 5, ["'soft' is not known", "uniform"]),
        ("objectives: {PTV: [{type: uniform, dose: 70 Gy, weight: -1}]}", 5, ["not within"]),
        ("machine: [a]", 5, ["text expected"]),
    ],
)
def test_each_mistake_is_named_with_its_line(addition, line, words):
    problem = only_problem(BASE + addition + "\n")
    assert problem.line == line
    for word in words:
        assert word in f"{problem.message} {problem.hint}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("60 Gy", "60", ["Gy", "60 Gy"]),
        ("60 Gy", "6000 cGy", ["Gy", "6000 cGy"]),
        ("60 Gy", "6000 Gy", ["not within"]),
        ("60 Gy", "nan Gy", ["number"]),
        ("fractions: 30", "fractions: 30.5", ["whole number"]),
        ("fractions: 30", "fractions: 0", ["not within"]),
        ("fractions: 30, ", "", ["'fractions' is missing"]),
        ("{PTV: 60 Gy}", "{}", ["at least one target"]),
        ("{gantry: {count: 5}}", "{}", ["'gantry' or 'fields' is missing"]),
        ("{count: 5}", "{choose: 7}", ["'choose' is not built yet"]),
        ("{count: 5}", "{}", ["a list of angles"]),
        ("{count: 5}", "[]", ["at least one angle"]),
        ("{count: 5}", "[0, 360]", ["360 degrees", "write 0"]),
        ("{count: 5}", "[0, -40]", ["write 320"]),
        ("{count: 5}", "[0, 40, 40.0]", ["gantry 40 is given twice"]),
        ("{count: 5}", "[0, north]", ["number"]),
        ("gantry: {count: 5}", "gantry: [0], fields: [{gantry: 3}]", ["exclude each other"]),
        ("gantry: {count: 5}", "fields: [{couch: 3}]", ["'gantry' is missing"]),
        ("gantry: {count: 5}", "gantry: [0], technique: 3dcrt", ["not built yet", "imrt"]),
        ("gantry: {count: 5}", "gantry: [0], technique: vmat", ["not known"]),
        ("gantry: {count: 5}", "gantry: [0], avoid: [{from: 110, to: 130}]", ["'avoid' is not built yet"]),
        ("gantry: {count: 5}", "gantry: [0], isocenter: [1, 2]", ["three numbers"]),
        ("60 Gy}", "60 Gy}, normalize: PTV D95% >= 60 Gy", ["normalize"]),
        ("60 Gy}", "60 Gy}, normalize: PTV V20Gy = 60 %", ["volume"]),
        ("60 Gy}", "60 Gy}, normalize: D95% = 60 Gy", ["PTV_7000 D95% = 70 Gy"]),
        ("dicomplan: 1", "dicomplan: 2", ["version 2", "newest known is 1"]),
        ("dicomplan: 1\n", "", ["'dicomplan' is missing"]),
    ],
)
def test_mistakes_in_what_is_needed(old, new, words):
    assert old in BASE
    problem = only_problem(BASE.replace(old, new))
    for word in words:
        assert word in f"{problem.message} {problem.hint}"


def test_another_version_is_all_that_is_said():
    problem = only_problem("dicomplan: 7\nshiny: new\n")
    assert problem.line == 1
    assert "newest known is 1" in problem.message


def test_all_problems_are_reported_in_one_run_in_order_of_lines():
    text = """\
dicomplan: 1
prescription: {fractions: x, targets: {PTV: 60}}
beams: {gantry: [0], collimater: 3}
structures: {Cord: [c], cord: [d]}
derived: {Ring: (PTV + 3 mm}
goals:
  - PTV: [D95% >= 60 cc, Dmean <= 3 Gy]
    Cord: [Dmax <= 3]
machina: x
"""
    with pytest.raises(TemplateError) as caught:
        parse_template(text, file="clinic.yaml")
    error = caught.value
    assert [problem.line for problem in error.problems] == [2, 2, 3, 4, 5, 7, 8, 9]
    assert error.message == error.problems[0].message + " (and 7 more problems)"
    assert error.line == 2
    assert str(error).startswith("clinic.yaml, line 2: ")
    assert {problem.file for problem in error.problems} == {"clinic.yaml"}
    assert error.exit_code == 4


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "just text", "- a\n- b\n", "a: [1, 2", "a: b: c", "\tx: 1", "%x", "a: &b [*b]", "\x00"]
)
def test_what_is_no_template_is_a_template_error(text):
    with pytest.raises(TemplateError):
        parse_template(text)


def test_yaml_errors_have_their_line():
    with pytest.raises(TemplateError, match="not YAML") as caught:
        parse_template("dicomplan: 1\nname: Test\ngoals:\n  - PTV: [D95%[Gy] >= 70]\n")
    assert caught.value.line == 4
    assert "quote text" in caught.value.hint


def test_deep_nesting_is_refused():
    with pytest.raises(TemplateError, match=r"deep|YAML"):
        parse_template("a: " + "[" * 5000 + "]" * 5000)


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(
        [
            "prescription",
            "structures",
            "derived",
            "density",
            "body",
            "beams",
            "constraints",
            "goals",
            "objectives",
            "dose",
        ]
    ),
)
def test_any_value_of_any_key_is_read_or_refused(value, key):
    document = {**yaml.safe_load(BASE), key: value}
    try:
        assert parse_template(yaml.safe_dump(document)).name == "Test"
    except TemplateError as error:
        assert error.problems  # noqa: PT017
        assert all(problem.line for problem in error.problems)  # noqa: PT017


def test_shipped_templates_are_valid():
    assert {"head_and_neck_70", "water_box", "tg119_cshape"} <= set(template_names())
    for name in template_names():
        template = load_template(name)
        assert template.source == template_text(name)
        assert template.goals
        assert template.machine == "generic_6mv"


def test_head_and_neck_70_is_what_the_issue_asks():
    template = load_template("head_and_neck_70")
    assert template.prescription.fractions == 35
    assert [(t.name, t.dose_gy, t.optional) for t in template.prescription.targets] == [
        ("PTV_7000", 70, False),
        ("PTV_6300", 63, True),
        ("PTV_5600", 56, True),
    ]
    assert [f.gantry_angle_deg for f in template.beams.fields] == list(range(0, 360, 40))
    assert [(g.structure, g.goal.text) for g in template.constraints] == [
        ("SpinalCord", "D0.1cc <= 45 Gy"),
        ("Brainstem", "D0.1cc <= 50 Gy"),
    ]
    by_priority = {}
    for goal in template.goals:
        by_priority.setdefault(goal.priority, []).append((goal.structure, goal.goal.text))
    assert by_priority[1] == [(name, "D99% >= 95 %") for name in ("PTV_7000", "PTV_6300_Up", "PTV_5600_Up")]
    assert by_priority[2] == [("PTV_7000", "D2% <= 75 Gy")]
    assert by_priority[3] == [("Bone_Mandible", "D0.1cc <= 73.5 Gy"), ("Outside", "D1cc <= 73.5 Gy")]
    assert by_priority[4] == [
        ("Parotid_L", "Dmean <= 26 Gy"),
        ("Parotid_R", "Dmean <= 26 Gy"),
        ("Larynx", "Dmean <= 45 Gy"),
        ("Esophagus", "Dmean <= 45 Gy"),
    ]
    assert by_priority[5] == [("PTV_6300_Low", "D5% <= 110 %"), ("PTV_5600_Low", "D5% <= 110 %")]
    assert by_priority[6][0][0] == "Ring"


def test_templates_by_name_and_by_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeff" + BASE, encoding="utf-8")
    assert load_template(str(path)).name == "Test"
    with pytest.raises(UsageError, match="head_and_neck_70"):
        load_template("head_and_nek_70")
    with pytest.raises(UsageError, match="no such"):
        load_template(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="folder"):
        load_template(tmp_path)
    with pytest.raises(UsageError, match="no template"):
        template_text("../schema")
    path.write_bytes(BASE.encode() + b"machine: \xff\n")
    with pytest.raises(TemplateError, match="UTF-8") as caught:
        load_template(path)
    assert caught.value.line == 5
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(TemplateError, match="too large"):
        load_template(path)


def test_reading_templates_loads_no_heavy_library():
    code = (
        "import sys; from dicomplan.plan.library import load_template; load_template('head_and_neck_70');"
        "import dicomplan.plan.resolve, dicomplan.plan.schema;"
        "print([m for m in ('numba', 'scipy', 'SimpleITK', 'cv2', 'rt_utils') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_dose_to_water_or_medium():
    assert parse_template(BASE).dose.dose_to == "medium"
    assert parse_template(BASE + "dose: {report: water}\n").dose.dose_to == "water"
    assert parse_template(BASE + "dose: {final: pencil_beam}\n").dose.dose_to == "water"
    assert "to water" in only_problem(BASE + "dose: {final: pencil_beam, report: medium}\n").message
