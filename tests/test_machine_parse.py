"""Machine files: what is wrong is told all at once, each with its line; what is right becomes the value it says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dicomplan.errors import MachineError
from dicomplan.machine.model import MachineModel
from dicomplan.machine.parse import parse_machine

BASE = """\
dicomplan_machine = 1
name = "small"
description = "A small machine"
[geometry]
source_axis_distance_mm = 1000
[jaw_y]
first_range_mm = [-200, 100.0]
second_range_mm = [-100.0, 200]
min_opening_mm = 5
transmission = 0.01
[mlc]
leaf_boundaries_mm = [
  -60, -20, # the outer leaf is wide
  0, 20,
  60]
leaf_span_mm = 150
over_travel_mm = 100
retraction_mm = 200
min_gap_mm = 1
interdigitation = false
transmission = 0.02
[beam]
nominal_energy_mv = 6
spectrum = [[1.0, 2], [2.0, 3], [4.0, 5]]
profile = [[0, 1], [100, 1.05]]
source_fwhm_mm = 2.5
collimator_distance_mm = 450
[calibration]
dose_per_mu_gy = 0.01
source_surface_distance_mm = 900
depth_mm = 100
field_mm = 100
[delivery]
dose_rate_mu_min = 500
min_segment_meterset_mu = 2
min_segment_area_cm2 = 3
"""


def parsed(text: str = BASE, **tables: str) -> MachineModel:
    def read_table(name: str) -> str:
        if name.removesuffix(".csv") not in tables:
            raise MachineError(f"there is no table '{name}'")
        return tables[name.removesuffix(".csv")]

    return parse_machine(text, file="small.toml", read_table=read_table)


def changed(old: str, new: str) -> str:
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new)


def problems(text: str, **tables: str) -> list[MachineError]:
    with pytest.raises(MachineError) as caught:
        parsed(text, **tables)
    assert caught.value.exit_code == 4
    assert caught.value.problems
    return list(caught.value.problems)


def test_the_values_are_those_of_the_file() -> None:
    machine = parsed()
    assert (machine.name, machine.description) == ("small", "A small machine")
    assert machine.jaw_x is None
    assert machine.jaw_y is not None
    assert machine.jaw_y.first_range_mm == (-200.0, 100.0)
    assert machine.jaw_y.second_range_mm == (-100.0, 200.0)
    assert (machine.jaw_y.min_opening_mm, machine.jaw_y.transmission) == (5.0, 0.01)
    assert machine.jaw_y.max_speed_mm_s == 0.0
    mlc = machine.mlc
    np.testing.assert_array_equal(mlc.leaf_boundaries_mm, [-60, -20, 0, 20, 60])
    assert (mlc.leaf_span_mm, mlc.over_travel_mm, mlc.retraction_mm, mlc.min_gap_mm) == (150, 100, 200, 1)
    assert (mlc.interdigitation, mlc.transmission) == (False, 0.02)
    beam = machine.beam
    np.testing.assert_array_equal(beam.energies_mev, [0.5, 1.5, 3.0])  # bin centres; the first bin begins at 0
    np.testing.assert_array_equal(beam.photon_weights, [2, 3, 5])
    np.testing.assert_array_equal(beam.profile_radius_mm, [0, 100])
    np.testing.assert_array_equal(beam.profile_factor, [1, 1.05])
    assert (beam.nominal_energy_mv, beam.source_fwhm_mm, beam.collimator_distance_mm) == (6, 2.5, 450)
    calibration = machine.calibration
    assert (calibration.dose_per_mu_gy, calibration.source_surface_distance_mm) == (0.01, 900)
    assert (calibration.depth_mm, calibration.field_mm) == (100, 100)
    assert (machine.dose_rate_mu_min, machine.min_segment_meterset_mu, machine.min_segment_area_cm2) == (500, 2, 3)
    assert machine.source == BASE
    assert machine.provenance == ()


def test_optional_values_reach_their_fields() -> None:
    more = "softening_per_mm = 0.0003\nextra_focal_weight = 0.08\nextra_focal_fwhm_mm = 30\nextra_focal_distance_mm = 125\n"
    more += "extra_focal_tail = 0.4\nelectron_weight = 0.2\nelectron_depth_mm = 6\n"
    text = changed("[calibration]\n", more + "[calibration]\n")
    leaf = "leaf_end_offset_mm = 0.7\ntongue_and_groove_mm = 0.4\nmax_speed_mm_s = 25\n"
    machine = parsed(
        text.replace("[beam]\n", leaf + "[beam]\n").replace("[geometry]", 'provenance = ["a", "b"]\n[geometry]')
    )
    beam = machine.beam
    assert beam.softening_per_mm == 0.0003
    assert (beam.extra_focal_weight, beam.extra_focal_fwhm_mm, beam.extra_focal_distance_mm) == (0.08, 30, 125)
    assert beam.extra_focal_tail == 0.4
    assert (beam.electron_weight, beam.electron_depth_mm) == (0.2, 6)
    mlc = machine.mlc
    assert (mlc.leaf_end_offset_mm, mlc.tongue_and_groove_mm, mlc.max_speed_mm_s) == (0.7, 0.4, 25)
    assert machine.provenance == ("a", "b")


def test_a_profile_that_is_left_out_is_flat() -> None:
    beam = parsed(changed("profile = [[0, 1], [100, 1.05]]\n", "")).beam
    np.testing.assert_array_equal(np.interp([0, 50, 300], beam.profile_radius_mm, beam.profile_factor), 1.0)


def test_runs_of_widths_are_boundaries_about_the_axis() -> None:
    text = re.sub(
        r"leaf_boundaries_mm = \[.*?60\]", "leaf_widths_mm = [[1, 40], [2, 20.0], [1, 40]]", BASE, flags=re.DOTALL
    )
    np.testing.assert_array_equal(parsed(text).mlc.leaf_boundaries_mm, [-60, -20, 0, 20, 60])


def test_tables_may_lie_in_files() -> None:
    text = changed("spectrum = [[1.0, 2], [2.0, 3], [4.0, 5]]", 'spectrum = "s.csv"')
    machine = parsed(text, s="# edges, photons\n\n1.0,2\n 2.0 , 3\n4.0,5\n")
    np.testing.assert_array_equal(machine.beam.energies_mev, parsed().beam.energies_mev)
    np.testing.assert_array_equal(machine.beam.photon_weights, parsed().beam.photon_weights)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("dicomplan_machine = 1", "dicomplan_machine = 2", 1, ["version 2", "newest is 1"]),
        ("dicomplan_machine = 1", "", 1, ["'dicomplan_machine' is missing"]),
        ('name = "small"', 'name = ""', 2, ["name", "empty text"]),
        ('name = "small"', 'name = "a name of many letters"', 2, ["22 characters", "16"]),
        ('name = "small"', 'name = "Bürolinac"', 2, ["ASCII"]),
        ('description = "A small machine"', "description = 7", 3, ["text", "7 found"]),
        ("source_axis_distance_mm = 1000", "source_axis_distance_mm = 100", 5, ["100 mm", "500 to 2000 mm"]),
        ("source_axis_distance_mm = 1000", "source_axis_distance_mm = true", 5, ["number", "true found"]),
        ("source_axis_distance_mm = 1000", "source_axis_distance_mm = nan", 5, ["nan"]),
        ("source_axis_distance_mm = 1000", f"source_axis_distance_mm = 1{'0' * 400}", 5, ["inf"]),
        ("source_axis_distance_mm = 1000", "", 4, ["'geometry.source_axis_distance_mm' is missing"]),
        ("[geometry]", "[geometri]", 1, ["[geometry] is missing"]),
        ("first_range_mm = [-200, 100.0]", "first_range_mm = [100, -200]", 7, ["jaw_y.first_range_mm", "smaller"]),
        ("first_range_mm = [-200, 100.0]", "first_range_mm = [-200, 100, 0]", 7, ["two numbers", "3 found"]),
        ("first_range_mm = [-200, 100.0]", "first_range_mm = -200", 7, ["list of numbers", "-200 found"]),
        ("second_range_mm = [-100.0, 200]", "second_range_mm = [-900.0, 200]", 8, ["-900 mm", "item 1"]),
        ("second_range_mm = [-100.0, 200]", "second_range_mm = [-300, -250]", 8, ["beyond the first"]),
        ("min_opening_mm = 5", "min_opening_mm = 500", 9, ["500 mm", "400 mm"]),
        ("min_opening_mm = 5", "min_opening_mm = -5", 9, ["-5 mm is not within 0"]),
        ("transmission = 0.01", "transmission = 1.01", 10, ["1.01 is not within 0 to 1"]),
        ("  -60, -20,", "  -60, -70,", 13, ["item 2", "ascend", "-70 mm follows -60 mm"]),
        ("  0, 20,", "  0, 0,", 14, ["item 4", "0 mm follows 0 mm"]),
        ("  0, 20,", '  0, "20",', 14, ["item 4", "'20' found"]),
        ("leaf_span_mm = 150", "leaf_span_mm = 0", 16, ["0 mm is not within 1"]),
        ("over_travel_mm = 100", "over_travel_mm = 201", 17, ["201 mm", "retraction of 200 mm"]),
        ("min_gap_mm = 1", "min_gap_mm = -1", 19, ["-1 mm"]),
        ("min_gap_mm = 1", "mingap_mm = 1", 19, ["unknown key 'mlc.mingap_mm'", "did you mean 'min_gap_mm'"]),
        ("min_gap_mm = 1", "mingap_mm = 1", 11, ["'mlc.min_gap_mm' is missing"]),
        ("interdigitation = false", 'interdigitation = "no"', 20, ["true or false", "'no' found"]),
        ("transmission = 0.02", "transmission = -0.02", 21, ["-0.02 is not within 0 to 1"]),
        ("nominal_energy_mv = 6", "nominal_energy_mv = 1.5", 24, ["between 2 and 4 MeV", "1.5 MV", "MeV"]),
        ("[2.0, 3]", "[0.5, 3]", 24, ["0.5 MeV follows 1 MeV"]),
        ("[2.0, 3]", "[2.0, -3]", 24, ["-3 photons"]),
        ("[2.0, 3]", "[2.0]", 24, ["item 2", "pair of numbers", "a list of 1"]),
        ("[2.0, 3]", "[2.0, inf]", 24, ["no usable number"]),
        ("[[1.0, 2], [2.0, 3], [4.0, 5]]", "[[1.0, 0], [2.0, 0]]", 24, ["no photons"]),
        ("[[1.0, 2], [2.0, 3], [4.0, 5]]", "[]", 24, ["pairs"]),
        ("[[1.0, 2], [2.0, 3], [4.0, 5]]", '"../up.csv"', 24, ["without a folder"]),
        ("[[1.0, 2], [2.0, 3], [4.0, 5]]", '"none.csv"', 24, ["no table 'none.csv'"]),
        ("profile = [[0, 1], [100, 1.05]]", "profile = [[5, 1], [100, 1.05]]", 25, ["0 mm with factor 1", "5 mm"]),
        ("profile = [[0, 1], [100, 1.05]]", "profile = [[0, 1], [0, 1.05]]", 25, ["0 mm follows 0 mm"]),
        ("profile = [[0, 1], [100, 1.05]]", "profile = [[0, 1], [100, -1]]", 25, ["factor -1"]),
        ("collimator_distance_mm = 450", "collimator_distance_mm = 1000", 27, ["1000 mm", "isocentre"]),
        ("depth_mm = 100", "depth_mm = -1", 31, ["-1 mm"]),
        ("field_mm = 100", "field_mm = 130", 32, ["leaf pairs", "-60 to 60 mm"]),
        ("field_mm = 100", "field_mm = 100\nfield_cm = 10", 33, ["unknown key 'calibration.field_cm'", "field_mm"]),
        ("dose_rate_mu_min = 500", "dose_rate_mu_min = 1979-05-27", 34, ["a date or time found"]),
    ],
)
def test_each_problem_has_its_line(old: str, new: str, line: int, words: list[str]) -> None:
    text = changed(old, new)
    told = [f"{problem.message} {problem.hint or ''}" for problem in problems(text) if problem.line == line]
    assert any(all(word in one for word in words) for one in told), told


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nominal_energy_mv = 6", "nominal_energy_mv = 3"),  # a bin from 2 to 4 MeV may hold photons up to 3 MeV
        ("over_travel_mm = 100", "over_travel_mm = 200"),
        ("source_fwhm_mm = 2.5", "source_fwhm_mm = 0"),
        ("transmission = 0.02", "transmission = 0"),
        ("field_mm = 100", "field_mm = 120"),
        ("leaf_span_mm = 150", "leaf_span_mm = 600"),
        ("[1.0, 2]", "[1.0, 0]"),
    ],
)
def test_what_is_on_the_limit_is_taken(old: str, new: str) -> None:
    parsed(changed(old, new))


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        ("extra_focal_weight = 0.1\nextra_focal_distance_mm = 100", "extra_focal_fwhm_mm above 0"),
        ("extra_focal_weight = 0.1\nextra_focal_fwhm_mm = 30", "extra_focal_distance_mm above 0"),
        ("electron_weight = 0.1", "electron_depth_mm above 0"),
        ("extra_focal_distance_mm = 460", "not above the collimator (450 mm)"),
    ],
)
def test_values_that_need_each_other(addition: str, words: str) -> None:
    found = problems(changed("[calibration]\n", f"{addition}\n[calibration]\n"))
    assert [words in problem.message for problem in found] == [True]
    assert found[0].line == 28


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ("[[1, 60], [2, 30]]", "symmetric"),
        ("[[1.5, 40]]", "whole number"),
        ("[[0, 40]]", "whole number"),
        ("[[3, 0]]", "leaf width of 0 mm"),
        ("[[200, 10]]", "reach to 1000 mm"),
        ("[]", "pairs"),
    ],
)
def test_impossible_runs_of_widths(widths: str, words: str) -> None:
    text = re.sub(r"leaf_boundaries_mm = \[.*?60\]", f"leaf_widths_mm = {widths}", BASE, flags=re.DOTALL)
    (found,) = problems(text)
    assert words in found.message
    assert found.line == 12


def test_boundaries_are_given_in_one_way() -> None:
    (both,) = problems(changed("leaf_span_mm", "leaf_widths_mm = [[2, 5]]\nleaf_span_mm"))
    assert "one of them" in both.message
    assert both.line == 16
    (neither,) = problems(re.sub(r"leaf_boundaries_mm = \[.*?60\]", "", BASE, flags=re.DOTALL))
    assert "missing" in neither.message
    assert neither.line == 11


def test_all_problems_are_told_in_order_and_the_first_is_the_message() -> None:
    text = (
        changed("min_gap_mm = 1", "min_gap_mm = -1").replace("depth_mm = 100", "depth = 100") + "[wedge]\nangle = 3\n"
    )
    text = text.replace('name = "small"', "name = 5")
    with pytest.raises(MachineError) as caught:
        parsed(text)
    error = caught.value
    assert [problem.line for problem in error.problems] == [2, 19, 28, 31, 37]
    assert error.message == f"{error.problems[0].message} (and 4 more problems)"
    assert (error.line, error.file) == (2, "small.toml")
    assert "unknown key 'wedge'" in error.problems[-1].message


def test_an_empty_file_lists_what_is_missing() -> None:
    messages = " ".join(problem.message for problem in problems(""))
    for name in ("dicomplan_machine", "name", "description", "geometry", "mlc", "beam", "calibration", "delivery"):
        assert name in messages
    assert "jaw" not in messages
    assert "leaf" not in messages  # one problem for a missing table, not one for each of its keys


def test_a_key_that_should_be_a_table() -> None:
    (found,) = problems("jaw_x = 5\n" + BASE)
    assert found.line == 1
    assert "a table expected, 5 found" in found.message


def test_problems_of_a_table_name_its_file_and_line() -> None:
    text = changed("[[1.0, 2], [2.0, 3], [4.0, 5]]", '"s.csv"').replace("min_gap_mm = 1", "min_gap_mm = -1")
    own, first, second = problems(text, s="# head\n1.0,2\n1.0;2\n\n2.0,3,4\n")
    assert (own.file, own.line) == ("small.toml", 19)
    assert (first.file, first.line) == ("s.csv", 3)
    assert (second.file, second.line) == ("s.csv", 5)
    (descending,) = problems(changed("[[1.0, 2], [2.0, 3], [4.0, 5]]", '"s.csv"'), s="2.0,1\n1.0,1\n")
    assert (descending.file, descending.line) == ("s.csv", 2)
    (empty,) = problems(changed("[[1.0, 2], [2.0, 3], [4.0, 5]]", '"s.csv"'), s="# nothing\n")
    assert (empty.file, empty.line) == ("small.toml", 24)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \n", 2),
        ("a = 1\nb = [1,\n2\nc = 3\n", 4),
        ("a = 1\na = 2\n", 2),
        ("a = 1\n[b]\n[b]\n", 3),
        ("a = 1\nb = [1, 2\n", 2),
        ("a = 1\n\nb = " + "[" * 5000, 1),
        ("a = " + "1" * 5000, 1),
        ("\0", 1),
        ("%PDF-1.4\n", 1),
    ],
)
def test_what_is_not_toml_is_refused_at_its_line(text: str, line: int) -> None:
    with pytest.raises(MachineError) as caught:
        parsed(text)
    assert caught.value.line == line
    assert caught.value.file == "small.toml"
