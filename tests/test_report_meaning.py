"""What the report's words claim: verdict, normalisation, percentages, moving leaves, set-up errors, scale bars."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from report_helpers import make_report_data

from dicomplan.beams.delivery import Aperture
from dicomplan.metrics.dvh import DoseSamples
from dicomplan.report.bev import bev_section
from dicomplan.report.colors import structure_colors
from dicomplan.report.goals import goals_section, header, prescription_section, unmet_section
from dicomplan.report.robustness import robustness_section
from dicomplan.report.tables import beams_section, calculation_section, notes_section, warnings_section
from dicomplan.report.trade_off import trade_off_section
from dicomplan.report.values import ReportData
from dicomplan.workflow.plan_document import cold_targets


@cache
def _data() -> ReportData:
    return make_report_data()


def _with(**changed: Any) -> ReportData:
    """The made-up plan with other entries in its document."""
    return dataclasses.replace(_data(), document={**_data().document, **changed})


def _moving() -> ReportData:
    """The made-up plan as a sliding window: every segment ends where the next one begins."""
    beams = []
    for beam in _data().beams:
        shapes = [segment.aperture for segment in beam.delivery.segments]
        ends = [*shapes[1:], Aperture(shapes[-1].leaf_positions_mm + 1.0, shapes[-1].jaw_y_mm, shapes[-1].jaw_x_mm)]
        parts = zip(beam.delivery.segments, ends, strict=True)
        segments = tuple(dataclasses.replace(segment, end=end) for segment, end in parts)
        beams.append(dataclasses.replace(beam, delivery=dataclasses.replace(beam.delivery, segments=segments)))
    facts = [
        {
            "name": beam.delivery.beam.name,
            "delivery": "sliding_window",
            "modulation_complexity_score": 0.11,
            "dose_rate_mu_min": 247.3,
            "floor_mu": 1.76,
            "leaves_synchronised": False,
        }
        for beam in _data().beams
    ]
    return dataclasses.replace(_with(beams=facts), beams=tuple(beams))


def _words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def test_a_plan_without_hard_constraints_is_not_said_to_meet_them() -> None:
    soft = [{**goal, "met": True} for goal in _data().document["goals"] if goal["kind"] == "goal"]
    data = _with(goals=soft)
    assert "hard constraint is met" not in _words(header(data))
    assert "sets no hard constraint" in _words(header(data))
    assert _words(unmet_section(data)).strip() == "All goals are met on the final dose."


def test_a_missed_goal_takes_the_green_from_an_accepted_plan() -> None:
    missed = header(_data())
    assert "badge accepted lax" in missed
    assert "every hard constraint is met on the final dose, but 2 goals are not met" in _words(missed)
    met = header(_with(goals=[{**goal, "met": True} for goal in _data().document["goals"]]))
    assert "lax" not in met
    assert "not met" not in _words(met)


@pytest.mark.parametrize(("cold_cc", "warned"), [(4.0, False), (6.0, True)])
def test_a_cold_target_is_warned_of_whatever_the_goals_ask(cold_cc: float, warned: bool) -> None:
    """Of 100 cc so many get half of 60 Gy: D95% is what the coldest of the hottest 95 cc get."""
    samples = DoseSamples.of_points([30.0, 60.0], [cold_cc, 100.0 - cold_cc])
    found = cold_targets({"PTV": (60.0, samples), "Empty": (60.0, None)})
    assert [finding.message for finding in found] == ["cold target: D95% of PTV is 30.0 Gy, 50 % of its level"] * warned


def test_warnings_stand_in_the_documents_order_errors_first_and_notes_apart() -> None:
    found = [
        {"severity": "warning", "message": "hot spot: much"},
        {"severity": "info", "message": "a structure is absent"},
        {"severity": "error", "message": "no plan can"},
        {"severity": "warning", "message": "no couch"},
    ]
    words = _words(warnings_section(_with(warnings=found)))
    assert words.index("error: no plan can") < words.index("hot spot") < words.index("no couch")
    assert "absent" not in words
    assert "absent" in _words(notes_section(_with(warnings=found)))
    assert notes_section(_with(warnings=found[:1])) == ""


@pytest.mark.parametrize("limited_by", [None, "SpinalCord D0.1cc <= 45 Gy"])
def test_normalisation_is_told_as_a_sentence(limited_by: str | None) -> None:
    prescription = {
        **_data().document["prescription"],
        "normalize": {"factor": 0.98937, "wanted": 1.01234, "limited_by": limited_by},
    }
    template = {"prescription": {"normalize": "PTV_7000 D95% = 70 Gy"}}
    words = _words(prescription_section(_with(prescription=prescription, template=template)))
    assert "Normalised for PTV_7000 D95% = 70 Gy: all metersets times 0.9894" in words
    assert ("1.0123 was wanted; held back by SpinalCord" in words) == (limited_by is not None)
    assert "{" not in words


def test_a_percentage_of_the_level_is_said_in_gray_too() -> None:
    goal = {"structure": "PTV_7000", "goal": "D2% <= 107 % (acceptable 110 %)", "kind": "goal", "priority": 1, "unit": "Gy",
            "ideal": 73.0, "achieved": 74.0, "met": True, "limit": 74.9, "at_most": True}  # fmt: skip
    assert "D2% ≤ 107 % (74.9 Gy) (acceptable" in _words(goals_section(_with(goals=[goal])))
    volume = {**goal, "goal": "V20Gy <= 30 %", "unit": "%", "limit": 30.0}
    assert "V20Gy ≤ 30 % (" not in _words(goals_section(_with(goals=[volume])))


def test_meterset_per_gray_and_what_the_dose_is_stated_to_stand_at_the_top() -> None:
    engines = {"final": "collapsed_cone", "dose_to": "medium"}
    words = _words(header(_with(engines=engines, quality={"mu_per_gy": 270.6})))
    assert "collapsed cone, dose to medium" in words
    assert "MU per fraction (271 MU/Gy)" in words


def test_moving_leaves_have_control_points_a_floor_and_no_segments() -> None:
    data = _moving()
    beams = _words(beams_section(data))
    assert "Control points" in beams
    assert "Segments" not in beams
    intervals = [len(beam.delivery.segments) for beam in data.beams]
    assert f" {sum(intervals) + len(intervals)} " in beams  # one more than intervals in each beam
    assert "Floor [MU]" in beams
    assert "1.76" in beams
    assert "247" in beams
    assert "control points (sliding window)" in _words(header(data))
    pictures = bev_section(data, structure_colors(data.structures))
    assert "segments moving" in pictures
    assert "with segments" not in pictures


def test_still_leaves_have_segments_and_no_floor() -> None:
    beams = _words(
        beams_section(_with(beams=[{"name": "1_G000", "delivery": "step_and_shoot", "edge_metric_per_mm": 0.1}]))
    )
    assert "Segments" in beams
    assert "Edge metric" in beams
    assert "Floor" not in beams


def test_set_up_errors_are_named_by_side_and_misses_are_marked() -> None:
    goal = {"structure": "SpinalCord", "goal": "D0.1cc <= 45 Gy", "kind": "hard", "unit": "Gy", "limit": 45.0, "at_most": True,
            "nominal": 44.0, "shifted": [43.0, 46.5], "worst": 46.5, "expected": 44.5, "met_in": 2, "of": 3}  # fmt: skip
    found = {"shifts_mm": [[5.0, 0.0, 0.0], [0.0, -3.0, 4.0]], "planned_for": "worst", "goals": [goal]}
    table = robustness_section(_with(robustness=found))
    head = _words(table[table.index("<thead") : table.index("</thead")])
    assert (
        "Met in As planned Worst Mean 5 mm L 3 mm A, 4 mm S" in head
    )  # DICOM: x to the left, y to the back, z to the head
    body = table[table.index("<tbody") :]
    missed = [_words(part).strip() for part in re.findall(r'<span class="missed">.*?</span>', body)]
    assert missed == ["2 of 3", "46.50", "46.50"]  # in the count, as the worst, and in its column
    assert "44.00" in _words(body)


def test_many_set_up_errors_go_on_in_tables_that_fit_a_page() -> None:
    shifted = [40.0 + 0.1 * step for step in range(20)]
    goal = {"structure": "SpinalCord", "goal": "D0.1cc <= 45 Gy", "kind": "hard", "unit": "Gy", "limit": 45.0, "at_most": True,
            "nominal": 41.0, "shifted": shifted, "worst": 41.9, "expected": 41.0, "met_in": 21, "of": 21}  # fmt: skip
    found = {"shifts_mm": [[1.0 + step, 0.0, 0.0] for step in range(20)], "planned_for": "worst", "goals": [goal]}
    tables = re.findall(r"<table.*?</table>", robustness_section(_with(robustness=found)), re.S)
    assert all(table.count("<th") <= 14 for table in tables)
    words = _words("".join(tables))
    assert all(f" {step + 1} mm L " in words for step in range(20))
    assert all(f" {value:.2f} " in words for value in shifted)


def test_a_trade_off_says_what_its_plans_miss_and_who_pays() -> None:
    def goal(structure: str, text: str, ideal: float) -> dict[str, Any]:
        metric, sign, limit, _ = text.split()
        return {"structure": structure, "goal": text, "kind": "goal", "priority": 1, "unit": "Gy", "limit": float(limit),
                "at_most": sign == "<=", "metric": metric, "ideal": ideal, "achieved": 99.0, "met": False}  # fmt: skip

    goals = [goal("PTV_7000", "D2% <= 75 Gy", 74.0), goal("Larynx", "Dmean <= 45 Gy", 30.0),
             goal("PTV_7000", "D95% >= 70 Gy", 70.2), goal("Parotid_L", "Dmean <= 26 Gy", 18.0)]  # fmt: skip

    def point(*reached: float) -> dict[str, Any]:
        pairs = zip(goals, reached, strict=True)
        values = [{**one, "value": value, "met": (value <= one["limit"]) == one["at_most"]} for one, value in pairs]
        return {"pair": reached[:2], "dominated": False, "values": values}

    front = {"goals": goals[:2], "plan": [74.0, 30.0], "points": [point(72, 33, 68.9, 25.0), point(75, 22, 70.1, 18.2)]}
    section = trade_off_section(_with(goals=goals, exploration=front))
    rows = [_words(row) for row in re.findall(r"<tr>.*?</tr>", section[section.index("<tbody") :])]
    assert "3 of 4" in rows[0]
    assert "PTV_7000 D95% 68.90 Gy" in rows[0]
    assert "Parotid_L Dmean 25.00 Gy (here 18.00)" in rows[0]  # within its limit, and 7 Gy worse all the same
    assert "4 of 4 – –" in rows[1]
    assert "this plan 74.00 30.00 4 of 4" in rows[2]  # its fluence meets all, whatever its final dose does
    picture = _words(section[section.index("<svg") : section.index("</svg")])
    assert "Larynx Dmean [Gy], goal ≤ 45" in picture


def test_the_letter_below_a_beams_eye_view_is_clear_of_the_scale() -> None:
    pictures = re.findall(
        r'<svg[^>]*class="bev".*?</svg>', bev_section(_data(), structure_colors(_data().structures)), re.S
    )
    for picture in pictures:
        left, _, width, _ = map(float, re.search(r'viewBox="([^"]*)"', picture).group(1).split())  # type: ignore[union-attr]
        start, length = map(float, re.search(r'd="M(\S+) \S+h(\S+)" class="bar"', picture).groups())  # type: ignore[union-attr]
        assert start > left + 0.55 * width
        assert f"{length / 10:g} cm" in picture


def test_how_it_was_made_has_words_and_units() -> None:
    quality = {"mu_per_gy": 140.3, "sequencing_error_percent": 0.7, "total_mu": 280.6}
    made = {"form": "factorised", "voxels": 28939, "beamlets": 736, "nonzeros": 0, "bytes": 5000480}
    passes = {"iterations": 34, "objective": [0.2, 0.1], "objective_metersets": [], "goal_losses": [0.5]}
    words = _words(calculation_section(_with(quality=quality, influence=made, optimization=passes)))
    assert "MU per Gy of the highest level" in words
    assert "5.0 MB" in words
    assert not re.search(r"nonzeros|non-zeros|mu per gy|goal losses|objective metersets", words)
    assert np.all([label in words for label in ("beamlets", "iterations on the fluence", "goals worse than ideal")])
