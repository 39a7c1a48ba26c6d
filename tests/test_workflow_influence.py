"""``dicomplan influence``: a matrix that others can read gives the dose that the planning system gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pytest
from plan_helpers import template
from scipy.sparse import load_npz

from dicomplan.cli.main import main
from dicomplan.workflow.influence import InfluenceOutcome, InfluenceRequest, run_influence
from dicomplan.workflow.study_request import StudyRequest


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.write_small_study(tmp_path_factory.mktemp("influence") / "study")


def written(study: Path, folder: Path, **options: object) -> InfluenceOutcome:
    path = folder / "template.yaml"
    path.write_text(template(), encoding="utf-8")
    return run_influence(InfluenceRequest(StudyRequest((study,)), str(path), folder / "out", **options))


def test_the_matrix_gives_the_dose_of_an_open_field(study: Path, tmp_path: Path) -> None:
    """1 MU in every beamlet: the dose of the target per MU is that of an open field, in Gy of the course."""
    outcome = written(study, tmp_path)
    found = outcome.document
    assert found["left_out"]["target_mean_percent"] < 0.5
    assert found["left_out"]["body_integral_percent"] < 1.0
    matrix = load_npz(outcome.output / "influence.npz")
    assert matrix.shape == (found["voxels"], found["beamlets"])
    assert matrix.nnz == found["nonzeros"]
    with np.load(outcome.output / "structures.npz") as structures:
        target, rows = structures["PTV_5000"].astype(np.float64), structures["voxels"]
        assert len(rows) == matrix.shape[0]
        assert (structures["BODY"] > 0).all()
    dose = matrix @ np.ones(matrix.shape[1])
    mean = float(dose @ target / target.sum())
    # 1 cGy/MU at the isocentre in 10 cm depth of a 10 x 10 field; three fields of about 5 x 5 cm (-7 %) see it in 4 to 6 cm
    # depth (+ 18 to 28 %), 25 fractions
    assert 3 * 25 * 0.0105 < mean < 3 * 25 * 0.0125
    index = json.loads((outcome.output / "influence.json").read_text(encoding="utf-8"))
    assert index == found


def test_a_short_cutoff_is_counted_and_warned_of(study: Path, tmp_path: Path) -> None:
    found = written(study, tmp_path, cutoff_mm=20.0).document
    assert found["left_out"]["target_mean_percent"] > 0.5
    assert any("cut-off of 20 mm leaves out" in one["message"] for one in found["findings"])


def test_rows_may_be_all_of_the_body(study: Path, tmp_path: Path) -> None:
    found = written(study, tmp_path, voxels="body", cutoff_mm=60.0).document
    with np.load(tmp_path / "out" / "structures.npz") as structures:
        assert (structures["stands_for"] == 1.0).all()
        # every voxel that BODY covers at all: its volume is theirs, weighted by the covered fraction
        volume = structures["BODY"].sum() * np.prod(found["grid"]["spacing_mm"]) / 1000.0
    assert volume == pytest.approx(900.0, rel=1e-3)


def test_from_the_command_line_as_portpy_has_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "template.yaml"
    path.write_text(template(fields="{gantry: 0}"), encoding="utf-8")
    words = ["influence", str(study), "--template", str(path), "--output", str(tmp_path / "out")]
    assert main([*words, "--format", "portpy", "--cutoff", "60mm", "--quiet"]) == 0
    assert "million non-zeros" in capsys.readouterr().out
    with h5py.File(tmp_path / "out" / "Beams" / "Beam_0_Data.h5") as file:
        assert file["inf_matrix_sparse"].shape[1] == 3
    # its own folder may be replaced, no other
    assert main([*words, "--cutoff", "60"]) == 2
    assert main([*words, "--cutoff", "60", "--overwrite"]) == 0
    assert main([*words, "--cutoff", "2"]) == 2
