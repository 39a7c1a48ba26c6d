"""The report page: what it says, in what order, and that it harms nobody."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from report_helpers import make_grid, make_report_data

from dicomplan.dose.volume import DoseVolume
from dicomplan.report.dvh import thinned
from dicomplan.report.goals import dvh_point, goal_limit, ordered, value_text
from dicomplan.report.page import render_report
from dicomplan.report.values import DvhCurve, ReportData

NASTY = '<script>alert("x")</script>&\'</title>'


@cache
def _data(status: str = "accepted", organ_name: str = "Larynx") -> ReportData:
    return make_report_data(status=status, organ_name=organ_name)


@cache
def _page(status: str = "accepted", organ_name: str = "Larynx") -> str:
    return render_report(_data(status, organ_name))


class _Text(HTMLParser):
    """Collects the elements in order and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def _island(page: str, identifier: str) -> object:
    found = re.search(rf'<script type="application/json" id="{identifier}">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found.group(1))


def test_page_asks_for_nothing_outside() -> None:
    page = _page()
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttpRequest", re.sub(r"data:image/png;base64,[^\"]*", "", page)
    )
    for tag, attributes in _Text(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "default-src 'none'" in page
    assert len(page) < 8_000_000


def test_same_data_same_text() -> None:
    assert render_report(_data()) == _page()


def test_hostile_names_stay_text() -> None:
    clean, hostile = _Text(_page()), _Text(_page("accepted", NASTY))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in clean.tags]
    assert NASTY in hostile.text
    names = {curve["structure"] for curve in _island(_page("accepted", NASTY), "dvh-values")["curves"]}  # type: ignore[index]
    assert NASTY in names


def test_hostile_everything_else_stays_text() -> None:
    data = _data()
    document = {
        **data.document,
        "warnings": [NASTY],
        "machine": NASTY,
        "quality": {NASTY: NASTY},
        "template": {NASTY: NASTY},
    }
    spots = tuple(dataclasses.replace(spot, label=NASTY, structures=(NASTY,)) for spot in data.spots)
    hostile = dataclasses.replace(
        data, document=document, plan_label=NASTY, calibration=NASTY, spots=spots, created=NASTY, dose_label=NASTY
    )
    page = render_report(hostile)
    assert "<script>alert" not in page
    assert page.count("<script") == _page().count("<script")
    assert page.count("</title>") == _page().count("</title>")


def test_every_svg_is_well_formed() -> None:
    pictures = re.findall(r"<svg.*?</svg>", _page(), re.S)
    assert len(pictures) == 1 + 3 + 2 * 9
    for picture in pictures:
        root = ET.fromstring(picture)
        assert [float(part) for part in root.attrib["viewBox"].split()][2] > 0
        numbers = [
            value
            for item in root.iter()
            for name, value in item.attrib.items()
            if name in ("d", "x", "y", "width", "height")
        ]
        assert not any("nan" in value or "inf" in value for value in numbers)


def test_every_goal_is_there_with_its_values() -> None:
    text = _Text(_page()).text
    for goal in _data().document["goals"]:
        assert goal["goal"].replace("<=", "≤").replace(">=", "≥") in text
        assert value_text(goal["achieved"], goal) in text
        assert value_text(goal["ideal"], goal) in text


@pytest.mark.parametrize("status", ["accepted", "failed"])
def test_sections_come_in_order_of_need(status: str) -> None:
    page = _page(status)
    order = ["top", "unmet", "warnings", "prescription", "goals", "dvh", "isodoses", "beams", "isocentre", "bev", "spots",
             "structures", "densities", "machine", "notes", "calculation"]  # fmt: skip
    places = [page.index(f'id="{name}"') for name in order]
    assert places == sorted(places)


def test_broken_hard_constraint_comes_first_and_met_goals_not_at_all() -> None:
    page = _page("failed")
    first = page[page.index('id="unmet"') : page.index('id="prescription"')]
    text = _Text(first).text
    assert (
        text.index("Broken hard constraints")
        < text.index("SpinalCord")
        < text.index("Goals not met")
        < text.index("PTV_7000")
    )
    assert "47.30 Gy" in text
    assert "−2.30" in text
    assert "Brainstem" not in text
    assert "Failed" in _Text(page[: page.index('id="unmet"')]).text


def test_all_met_says_so() -> None:
    data = _data()
    goals = [{**goal, "met": True} for goal in data.document["goals"]]
    page = render_report(dataclasses.replace(data, document={**data.document, "goals": goals}))
    first = page[page.index('id="unmet"') : page.index('id="prescription"')]
    assert "All hard constraints and goals are met" in first
    assert "<table" not in first


def test_no_goals_claims_nothing() -> None:
    data = _data()
    page = render_report(dataclasses.replace(data, document={**data.document, "goals": []}))
    assert "No goal was judged" in page
    assert "goals are met" not in page


def test_not_deliverable_plan_without_dose() -> None:
    data = _data()
    document = {
        **data.document,
        "status": "not_deliverable",
        "violations": ["1_G000: leaf span 160 mm, at most 150 mm"],
        "goals": [],
    }
    text = _Text(
        render_report(dataclasses.replace(data, document=document, dose=None, dvhs=(), beams=(), targets=()))
    ).text
    assert "Not deliverable" in text
    assert "leaf span 160 mm" in text
    assert "no dose was computed" in text


def test_disclaimer_at_both_ends() -> None:
    text = _Text(_page()).text
    words = "Research software, not a medical device. Not for clinical use."
    assert text.index(words) < 400
    assert len(text) - text.rindex(words) < 400
    assert _data().document["disclaimer"] in text


def test_dvh_numbers_are_the_data() -> None:
    curves = _island(_page(), "dvh-values")["curves"]  # type: ignore[index]
    assert len(curves) == 2 * len(_data().dvhs)
    for curve in curves:
        dvh = _data().dvhs[curve["index"]]
        source = dvh.ideal if curve["kind"] == "ideal" else dvh.final
        assert source is not None
        assert curve["structure"] == dvh.structure
        np.testing.assert_allclose(curve["dose_gy"], source.dose_gy, atol=5.1e-4)
        np.testing.assert_allclose(curve["volume_fraction"], source.volume_fraction, atol=5.1e-6)


def test_drawn_dvh_passes_through_the_data() -> None:
    page = _page()
    frame = _island(page, "dvh-values")["frame"]  # type: ignore[index]
    path = re.search(r'<path d="M([^"]*)" stroke="[^"]*" class="curve final d1"', page)
    assert path is not None
    points = np.array(path.group(1).split(), dtype=float).reshape(-1, 2)
    dose = (points[:, 0] - frame["left"]) / frame["width"] * frame["largest_gy"]
    volume = 1.0 - (points[:, 1] - frame["top"]) / frame["height"]
    final = _data().dvhs[1].final
    assert final is not None
    np.testing.assert_allclose(volume, np.interp(dose, final.dose_gy, final.volume_fraction), atol=0.01)
    assert dose.max() <= frame["largest_gy"] + 1e-6


def test_fine_dvh_is_thinned_with_both_ends() -> None:
    dose = np.linspace(0, 80, 8001)
    kept_dose, kept_volume = thinned(DvhCurve(dose, np.linspace(1, 0, 8001)))
    assert len(kept_dose) == 1000
    assert (kept_dose[0], kept_dose[-1], kept_volume[0], kept_volume[-1]) == (0.0, 80.0, 1.0, 0.0)
    np.testing.assert_allclose(kept_volume, 1 - kept_dose / 80, atol=1e-12)


def test_nothing_names_the_patient() -> None:
    page = _page()
    assert "sop_instance_uid" not in page
    assert not any(item["sop_instance_uid"] in page for item in _data().document["inputs"])
    assert "Doe^John" not in page
    shown = render_report(dataclasses.replace(_data(), identification=(("Patient", "Doe^John"),)))
    assert "Patient: Doe^John" in shown


def test_isocenter_beams_spots_and_versions_are_shown() -> None:
    text = _Text(_page()).text
    for part in ("(12.0, −230.0, 40.0)", "5_G160", "544.5", "−90.0 / 65.0", "Filling_Gold", "19.300", "0.21", "0.61.0", "95.0 s",
                 "Parotid_L, BODY", "39 mm L, 16 mm P, 15 mm S", "0.01 Gy per MU"):  # fmt: skip
        assert part in text, part


def test_dose_on_other_axes_is_refused() -> None:
    turned = make_grid((100.0, 100.0, 100.0), (5.0, 5.0, 5.0), ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    dose = DoseVolume(turned, np.zeros(turned.shape, np.float32))
    with pytest.raises(ValueError, match="axes of the CT"):
        render_report(dataclasses.replace(_data(), dose=dose))


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("D95% >= 70 Gy", "Gy", (False, 70.0)),
        ("Dmean <= 26 Gy (acceptable 30 Gy)", "Gy", (True, 26.0)),
        ("D95%[Gy] >= 70", "Gy", (False, 70.0)),
        ("V20Gy ≤ 30 %", "%", (True, 30.0)),
        ("D2% <= 107 %", "Gy", None),
    ],
)
def test_limit_is_read_only_in_the_goals_own_unit(text: str, unit: str, expected: object) -> None:
    assert goal_limit({"goal": text, "unit": unit}) == expected


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("D95% >= 70 Gy", "Gy", (70.0, 0.95)),
        ("D0.1cc <= 45 Gy", "Gy", (45.0, 0.002)),
        ("V20Gy <= 30 %", "%", (20.0, 0.30)),
        ("V20Gy <= 10 cc", "cc", (20.0, 0.2)),
        ("Dmax <= 75 Gy", "Gy", (75.0, 0.0)),
        ("Dmin >= 60 Gy", "Gy", (60.0, 1.0)),
        ("Dmean <= 26 Gy", "Gy", None),
        ("V95% >= 95 %", "%", None),
        ("CV17.5Gy >= 700 cc", "cc", None),
    ],
)
def test_goal_lies_where_the_curve_should_pass(text: str, unit: str, expected: tuple[float, float] | None) -> None:
    point = dvh_point({"goal": text, "unit": unit}, 50.0)
    assert point == (None if expected is None else pytest.approx(expected))


def test_value_near_its_limit_is_not_rounded_onto_it() -> None:
    goal = {"goal": "D99% >= 66.5 Gy", "unit": "Gy"}
    assert value_text(66.4996, goal) == "66.4996 Gy"
    assert value_text(66.5, goal) == "66.50 Gy"
    assert value_text(None, goal) == "–"


def test_hard_constraints_lead_and_priorities_follow() -> None:
    goals = ordered(list(_data().document["goals"]))
    assert [goal["priority"] for goal in goals] == sorted(goal["priority"] for goal in goals)
    assert goals[0]["kind"] == "hard"
