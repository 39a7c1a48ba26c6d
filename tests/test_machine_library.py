"""The shipped machines are physically sensible, and machine files are found by name or path."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from machines_for_tests import generic_120

from dicomplan.errors import MachineError, UsageError
from dicomplan.machine.library import load_machine, machine_names, machine_text
from dicomplan.machine.model import MachineModel

FILES = Path(__file__).parents[1] / "dicomplan" / "machine" / "files"
SHARED = Path("/work/shared")
LEAF_PAIRS = {"generic_6mv": 60, "reference_6mv": 60, "agility_6mv": 80, "artiste_6mv": 80}


@pytest.fixture(params=machine_names())
def machine(request: pytest.FixtureRequest) -> MachineModel:
    return load_machine(request.param)


def test_names_make_the_round_trip(machine: MachineModel) -> None:
    assert machine.name in machine_names()
    assert machine.source.startswith(machine_text(machine.name))
    assert machine.description
    assert machine.provenance


def test_leaves_cover_the_field_symmetrically(machine: MachineModel) -> None:
    boundaries = machine.mlc.leaf_boundaries_mm
    assert machine.mlc.leaf_pairs == LEAF_PAIRS[machine.name]
    assert (boundaries[0], boundaries[-1]) == (-200.0, 200.0)
    np.testing.assert_allclose(boundaries, -boundaries[::-1], atol=1e-12)
    narrow = np.ptp(boundaries[:-1][np.diff(boundaries) == 5.0])
    widths = np.unique(np.diff(boundaries)).tolist()
    assert (widths, narrow) == (([5.0, 10.0], 195.0) if machine.mlc.leaf_pairs == 60 else ([5.0], 395.0))


def test_the_spectrum_is_that_of_a_6_mv_beam(machine: MachineModel) -> None:
    """Mean photon energy about a third of the nominal energy (1.9 MeV by Mohan et al. 1985), nothing beyond it."""
    energies, photons = machine.beam.energies_mev, machine.beam.photon_weights
    assert 1.6 < np.average(energies, weights=photons) < 2.2
    assert energies.max() < machine.beam.nominal_energy_mv
    assert np.all(np.diff(energies) > 0)
    assert photons.min() >= 0
    np.testing.assert_allclose(np.diff(energies), 0.25)
    assert energies[0] == 0.125


def test_the_calibration_is_a_dose_of_one_cgy_per_mu(machine: MachineModel) -> None:
    calibration = machine.calibration
    # the Agility's is what was measured: 1 cGy per MU at the depth of maximum, SSD 1000 mm
    assert calibration.dose_per_mu_gy == (0.00812 if machine.name == "agility_6mv" else 0.01)
    # at the isocentre, where the field is defined
    assert calibration.source_surface_distance_mm + calibration.depth_mm == machine.source_axis_distance_mm
    assert calibration.field_mm == 100.0


def test_the_reference_machine_is_a_bare_point_source() -> None:
    machine = load_machine("reference_6mv")
    beam = machine.beam
    assert beam.source_fwhm_mm == 0
    np.testing.assert_array_equal(beam.profile_factor, 1.0)
    assert machine.jaw_x is not None
    assert machine.jaw_y is not None
    nothing = (machine.mlc.transmission, machine.jaw_x.transmission, machine.jaw_y.transmission)
    nothing += (beam.softening_per_mm, beam.extra_focal_weight, beam.electron_weight, machine.mlc.leaf_end_offset_mm)
    assert nothing == (0.0,) * 7


def test_the_generic_machine_is_the_one_of_the_sequencing_tests() -> None:
    machine, known = load_machine("generic_6mv"), generic_120()
    np.testing.assert_array_equal(machine.mlc.leaf_boundaries_mm, known.mlc.leaf_boundaries_mm)
    for name in ("leaf_span_mm", "over_travel_mm", "retraction_mm", "min_gap_mm", "interdigitation", "transmission"):
        assert getattr(machine.mlc, name) == getattr(known.mlc, name), name
    for jaw, other in ((machine.jaw_x, known.jaw_x), (machine.jaw_y, known.jaw_y)):
        assert jaw is not None
        assert other is not None
        assert (jaw.first_range_mm, jaw.second_range_mm) == (other.first_range_mm, other.second_range_mm)
    assert machine.calibration == known.calibration


def test_the_generic_beam_has_the_horns_of_a_flattening_filter() -> None:
    """Fluence rises by some percent off axis to compensate scatter and softening, and ends at the primary collimator."""
    beam = load_machine("generic_6mv").beam
    at = {radius: np.interp(radius, beam.profile_radius_mm, beam.profile_factor) for radius in (0, 50, 100, 140, 250)}
    assert at[0] == 1.0
    assert 1.02 < at[50] < at[100] < at[140] < 1.12
    assert at[250] < 0.6
    assert beam.profile_factor[-1] == 0


def test_tables_are_the_numbers_of_their_sources() -> None:
    """Skipped without the shared material."""
    spectrum = SHARED / "reference" / "egsnrc" / "mohan_6mv_spectrum.csv"
    profile = SHARED / "data" / "beam" / "dkfz_6mv" / "referenceData" / "primflu.dat"
    if not (spectrum.exists() and profile.exists()):
        pytest.skip("no shared reference material here")
    beam = load_machine("generic_6mv").beam
    edges, photons = np.loadtxt(spectrum, delimiter=",", unpack=True)
    np.testing.assert_array_equal(beam.photon_weights, photons)
    np.testing.assert_allclose(beam.energies_mev + 0.125, edges)
    radius, fluence = np.loadtxt(profile, unpack=True)
    np.testing.assert_array_equal(beam.profile_radius_mm, radius)
    np.testing.assert_array_equal(beam.profile_factor, fluence)


def test_every_table_is_used_and_says_where_it_is_from() -> None:
    named = set()
    for name in machine_names():
        beam = tomllib.loads(machine_text(name))["beam"]
        named |= {beam[key] for key in ("spectrum", "profile") if isinstance(beam.get(key), str)}
    tables = list(FILES.glob("*.csv"))
    assert {table.name for table in tables} == named
    for table in tables:
        assert "Source: " in table.read_text(encoding="utf-8")
    for name in ("dkfz_artiste_6mv_profile.csv", "dkfz_synergy_6mv_profile.csv"):
        borrowed = (FILES / name).read_text(encoding="utf-8")
        assert "Permission is hereby granted" in borrowed
        assert "Copyright (c) 2018 e0404 @ DKFZ" in borrowed


def test_the_source_of_a_machine_holds_its_tables() -> None:
    """Plan identifiers are made from it: another spectrum must be another text, and it stays a machine file."""
    machine = load_machine("generic_6mv")
    assert "# mohan_6mv_spectrum.csv:\n" in machine.source
    assert "14.14,1.001290323" in machine.source
    assert tomllib.loads(machine.source) == tomllib.loads(machine_text("generic_6mv"))


def same(one: MachineModel, other: MachineModel) -> bool:
    arrays = [(m.mlc.leaf_boundaries_mm, m.beam.energies_mev, m.beam.profile_factor) for m in (one, other)]
    return one.source == other.source and all(map(np.array_equal, *arrays))


def test_a_copy_is_the_same_machine_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_machine("generic_6mv")
    copy = tmp_path / "mine.toml"
    copy.write_text(machine_text("generic_6mv"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for place in (copy, str(copy), "mine.toml", "./mine.toml", Path("mine.toml")):
        assert same(load_machine(place), known)


def test_a_table_beside_the_file_goes_before_the_shipped_one(tmp_path: Path) -> None:
    copy = tmp_path / "mine.toml"
    copy.write_text(machine_text("generic_6mv"), encoding="utf-8")
    (tmp_path / "mohan_6mv_spectrum.csv").write_text("# narrow\n1.0,0\n2.0,5\n", encoding="utf-8")
    machine = load_machine(copy)
    np.testing.assert_array_equal(machine.beam.energies_mev, [0.5, 1.5])
    np.testing.assert_array_equal(machine.beam.photon_weights, [0.0, 5.0])
    assert machine.source != load_machine("generic_6mv").source


def test_a_shipped_name_is_not_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "generic_6mv").write_text("nothing of the kind", encoding="utf-8")
    assert load_machine("generic_6mv").mlc.leaf_pairs == 60


@pytest.mark.parametrize("name", ["generic6mv", "GENERIC_6MV", "generic_6vm"])
def test_an_unknown_name_is_answered_with_the_near_and_the_shipped_ones(name: str) -> None:
    with pytest.raises(MachineError) as caught:
        load_machine(name)
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None
    assert "did you mean 'generic_6mv'?" in caught.value.hint
    assert "reference_6mv" in caught.value.hint
    with pytest.raises(UsageError, match="no machine is called"):
        machine_text(name)


@pytest.mark.parametrize("name", ["", "..", "linac"])
def test_other_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(MachineError, match="no machine is called"):
        load_machine(name)


@pytest.mark.parametrize("name", ["nothing.toml", "../nothing/at/all", "nul\0.toml", "."])
def test_files_that_cannot_be_read_are_machine_errors(name: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        load_machine(tmp_path / name)
    assert caught.value.file is not None


def test_bytes_that_are_no_text_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"dicomplan_machine = 1\nname = 'B\xfcro'\n")
    with pytest.raises(MachineError, match="not UTF-8") as caught:
        load_machine(path)
    assert caught.value.line == 2


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + machine_text("generic_6mv").replace("\n", "\r\n").encode())
    assert load_machine(path).mlc.leaf_pairs == 60
