"""``templates new``: a draft can be read, finds the ROIs that it was made from, and guesses no dose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_helpers import shared_case, write_tiny_study
from hypothesis import given
from hypothesis import strategies as st

from dicomplan.cli.main import main
from dicomplan.errors import TemplateError
from dicomplan.patient.case import Structure
from dicomplan.patient.names import normalise
from dicomplan.plan.draft import UNKNOWN_DOSE_GY, draft_template, stated_dose_gy
from dicomplan.plan.parse import parse_template
from dicomplan.plan.resolve import ResolvedTemplate, resolve
from dicomplan.plan.usual_goals import usual_goals

SQUARE = np.array([[0.0, 0, 0], [10, 0, 0], [10, 10, 0], [0, 10, 0]])


def rois(names: Sequence[str | tuple[str, str]], empty: Sequence[str] = ()) -> tuple[Structure, ...]:
    """ROIs of (name, type), ORGAN where no type is given; those of ``empty`` have no contours."""
    pairs = [(item, "ORGAN") if isinstance(item, str) else item for item in names]
    drawn = [Structure(name, number, kind, (SQUARE,)) for number, (name, kind) in enumerate(pairs, start=1)]
    return (*drawn, *(Structure(name, 100 + number, "", ()) for number, name in enumerate(empty)))


def drafted(structures: Sequence[Structure]) -> tuple[str, ResolvedTemplate]:
    text = draft_template(structures)
    return text, resolve(parse_template(text), structures)


def asked(resolved: ResolvedTemplate) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for one in (*resolved.constraints, *resolved.goals):
        result.setdefault(one.structure, []).append(one.goal.text)
    return result


@pytest.mark.parametrize(
    ("name", "dose"),
    [
        ("PTV70", 70.0),
        ("PTV_7000", 70.0),
        ("PTV_5600", 56.0),
        ("PTV 50.4Gy", 50.4),
        ("PTV 50.4", 50.4),
        ("PTV_5040cGy", 50.4),
        ("ptv 45 gy boost", 45.0),
        ("PTV1_60Gy", 60.0),
        ("PTV2 5000", 50.0),
        ("PTV_7000_3mm", 70.0),
        ("PTV60 10mm", 60.0),
        ("PTV 8Gy", 8.0),
        ("PTV", None),
        ("PTV1", None),
        ("PTV_High", None),
        ("PTV70_PTV60", None),
        ("PTV_2000x3", None),
        ("PTV 3x18Gy", None),
        ("PTV 500 Gy", None),
        ("PTV_0Gy", None),
        ("PTV 20123456", None),
    ],
)
def test_a_dose_is_what_the_name_states_or_nothing(name: str, dose: float | None) -> None:
    assert stated_dose_gy(name) == dose


def test_levels_organs_and_rings_of_a_head_and_neck_study() -> None:
    names = ["PTV70", "PTV56", "PTV63", "cord", "LeftParotid", "Mandible", "Tongue", ("Skin", "EXTERNAL")]
    text, resolved = drafted(rois(names, empty=["Larynx"]))
    assert [(one.name, one.dose_gy) for one in resolved.targets] == [
        ("PTV_7000", 70.0),
        ("PTV_6300", 63.0),
        ("PTV_5600", 56.0),
    ]
    assert resolved.fractions == 35
    goals = asked(resolved)
    assert goals["SpinalCord"] == ["D0.03cc <= 45 Gy"]
    assert [one.structure for one in resolved.constraints] == ["SpinalCord"]
    assert goals["Parotid_L"] == ["Dmean <= 26 Gy"]
    assert goals["PTV_7000"] == ["D98% >= 95 %", "D2% <= 107 %"]
    assert goals["PTV_5600"] == ["D98% >= 95 %"]
    assert {"PTV_6300_Low", "PTV_5600_Low", "Outside", "Ring"} <= set(goals)
    assert not [finding for finding in resolved.findings if "absent" in finding.message]
    assert "Tongue" in text
    assert "Tongue" not in goals
    assert "# Without contours: Larynx" in text
    assert resolved.roi_names["BODY"] == "Skin"


def test_what_the_names_do_not_tell_is_marked() -> None:
    text, resolved = drafted(rois(["PTV", "PTV boost", "Bladder"]))
    assert {one.dose_gy for one in resolved.targets} == {UNKNOWN_DOSE_GY}
    unmarked = [line for line in text.splitlines() if f": {UNKNOWN_DOSE_GY:g} Gy" in line and "DECIDE" not in line]
    assert not unmarked
    for key in ("name:", "fractions:", "gantry:", "machine:", "goals:"):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(key))
        assert "DECIDE" in line
    # asked at no known dose: nothing can be left out
    assert len(asked(resolved)["Bladder"]) == 4


def test_goals_beyond_the_prescription_are_left_out() -> None:
    goals = asked(drafted(rois(["PTV_5040", "Bladder", "Rectum", "Lens_L"]))[1])
    assert goals["Rectum"] == ["V50Gy <= 50 %"]
    assert "Bladder" not in goals
    assert goals["Lens_L"] == ["D0.03cc <= 10 Gy"]


def test_lungs_are_judged_together_and_without_the_targets() -> None:
    _, resolved = drafted(rois(["PTV_6000", "Lung_L", "Right Lung"]))
    goals = asked(resolved)
    assert goals["Lungs_Eval"] == ["V20Gy <= 30 %", "Dmean <= 20 Gy"]
    assert not {"Lung_L", "Lung_R"} & set(goals)
    _, both = drafted(rois(["PTV_6000", "Lung_L", "Lungs"]))
    assert "Lungs_Eval" not in asked(both)
    assert asked(both)["Lungs"] == ["V20Gy <= 30 %", "Dmean <= 20 Gy"]


def test_helpers_are_no_targets_and_without_a_ptv_the_ctv_is_taken_with_a_remark() -> None:
    text, resolved = drafted(rois([("PTV_6000", "PTV"), ("zPTV_opt", "PTV"), ("PTV_6000_eval", "PTV"), "CTV", "GTV"]))
    assert [one.name for one in resolved.targets] == ["PTV_6000"]
    assert "GTV" in text
    text, resolved = drafted(rois(["CTV_6000", "GTV", ("Tumour", "CTV")]))
    assert [one.name for one in resolved.targets] == ["CTV_6000", "Tumour"]
    assert "there is no PTV" in text
    with pytest.raises(TemplateError, match="no ROI of the study is a target") as error:
        draft_template(rois(["Heart", "Cord"]))
    assert "Heart" in str(error.value)


def test_two_rois_of_one_meaning_are_left_to_a_person() -> None:
    text, resolved = drafted(rois(["PTV_6000", "cord", "SpinalCord", "Heart", "HEART"]))
    assert not {"SpinalCord", "cord", "Heart"} & set(asked(resolved))
    assert "Heart, HEART" in text
    same_dose = drafted(rois(["PTV70", "PTV_7000", "PTV 70 Gy left"]))[1]
    assert len(same_dose.targets) == 3
    assert {one.dose_gy for one in same_dose.targets} == {70.0}
    assert sorted(same_dose.roi_names[one.name] for one in same_dose.targets) == ["PTV 70 Gy left", "PTV70", "PTV_7000"]


ODD = [
    *(
        "PTV+70",
        "PTV 'a'",
        'PTV "b"',
        "PTV?",
        "PTV | 60",
        "PTV: 50",
        "PTV #1",
        "PTV_70\u00e9",
        "PTV\n60",
        "PTV\x07",
        "PTV-_",
    ),
    *(
        "Ring",
        "Outside",
        "targets",
        "All_Targets",
        "no",
        "70",
        "- x",
        "K\u00f6rper",
        "\u8133",
        "\u2028",
        "Lungs_Eval",
        "BODY",
    ),
    *(
        "Parotid_L",
        "parotid left",
        "PTV_6000_Low",
        "PTV_6000",
        "PTV 60 Gy",
        "Lung_L",
        "cord",
        "x" * 64,
        "{a: [b",
        "\ud800",
    ),
]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=12)),
            st.sampled_from(["", "ORGAN", "PTV", "CTV", "AVOIDANCE", "SUPPORT"]),
        ),
        max_size=6,
    )
)
def test_any_names_give_a_template_that_finds_its_rois(names: list[tuple[str, str]]) -> None:
    structures = rois([("PTV_6000", "PTV"), *names])
    doubled = {normalise(name) for name, _ in names} & {normalise("PTV_6000")}
    if doubled:  # two ROIs of one name: no target may be left
        structures = rois([("PTV other", "PTV"), *names])
        if normalise("PTV other") in {normalise(name) for name, _ in names}:
            return
    _, resolved = drafted(structures)
    own = [item.name for item in structures]
    assert len(set(resolved.roi_names.values())) == len(resolved.roi_names)
    assert set(resolved.roi_names.values()) <= set(own)
    # nothing that the draft names was missing
    assert not [finding for finding in resolved.findings if "skipped" in finding.message]


@pytest.mark.parametrize("name", ["SpinalCord", "Rectum", "Parotid_L", "OpticNrv_R", "Kidney_R"])
def test_usual_goals_are_goals(name: str) -> None:
    hard, goals = usual_goals(name)
    assert hard or goals


def test_nothing_is_usual_for_a_pair_without_a_side_or_an_unknown_name() -> None:
    for name in ("Parotid", "Parotid_X", "Tongue", "_L", ""):
        assert usual_goals(name) == ((), ())


def test_the_command_prints_what_check_accepts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "study")
    before = sorted(path.name for path in study.iterdir())
    assert main(["templates", "new", str(study)]) == 0
    text, told = capsys.readouterr()
    assert "DECIDE" in told
    file = tmp_path / "draft.yaml"
    file.write_text(text, encoding="utf-8")
    assert main(["templates", "check", str(file)]) == 0
    assert capsys.readouterr().out == "ok: Draft (1 targets, 9 fields, 1 constraints, 4 goals)\n"
    assert main(["templates", "new", str(study), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["text"].rstrip() == text.rstrip()
    assert sorted(path.name for path in study.iterdir()) == before
    assert main(["templates", "new", str(study), "--structure-set", "another"]) == 2
    assert main(["templates", "new", str(study / "CT_001.dcm")]) == 3
    assert main(["templates", "new", str(tmp_path / "nowhere")]) == 2


def test_of_several_structure_sets_one_must_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = write_tiny_study(tmp_path / "study" / "a")
    write_tiny_study(tmp_path / "study" / "b", entropy="other")
    assert main(["templates", "new", str(tmp_path / "study")]) == 3
    assert "--structure-set" in capsys.readouterr().err
    assert main(["templates", "new", str(first)]) == 0


@pytest.mark.parametrize(
    "case", ["openkbp_251", "lung1-002_xio_full", "slicerrt_eclipse_prostate_phantom", "tg119_cshape"]
)
def test_given_studies_are_drafted(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["templates", "new", str(shared_case(case))]) == 0
    template = parse_template(capsys.readouterr().out)
    assert template.prescription.targets
    assert template.goals
