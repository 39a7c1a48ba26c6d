"""``demo``: study and plan stand side by side, as a whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_helpers import PlanOutcome, PlanRequest, stand_in

from dicomplan.cli.main import main
from dicomplan.errors import InputError


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The planner's stand-in, and a phantom of one file."""
    phantom: Any = ModuleType("dicomplan.phantoms.head_neck")
    phantom.head_neck = lambda: "phantom"
    writer: Any = ModuleType("dicomplan.phantoms.write")

    def write_phantom_study(folder: Path, study: str) -> None:
        folder.mkdir()
        (folder / "CT.dcm").write_text(study)

    writer.write_phantom_study = write_phantom_study
    planner: Any = stand_in()
    inner = planner.run_plan

    def run_plan(request: PlanRequest, *rest: Any) -> PlanOutcome:
        assert (request.study[0] / "CT.dcm").read_text() == "phantom"
        outcome: PlanOutcome = inner(request, *rest)
        request.output.mkdir()
        outcome.report.write_text("report")
        return outcome

    planner.run_plan = run_plan
    for module in (phantom, writer, planner):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    # Imported anew with the stand-ins, and forgotten again with them.
    monkeypatch.delitem(sys.modules, "dicomplan.workflow.demo", raising=False)
    yield planner
    sys.modules.pop("dicomplan.workflow.demo", None)


def test_study_and_plan_stand_side_by_side(planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path / "out"), "--quiet"]) == 0
    assert planned.requests[0].template == "head_and_neck_70"
    report = tmp_path / "out" / "plan" / "report.html"
    assert report.read_text() == "report"
    assert (tmp_path / "out" / "study" / "CT.dcm").is_file()
    assert f"Report: {report}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_default_place(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "accepted"
    assert (tmp_path / "dicomplan_demo" / "plan" / "report.html").is_file()
    assert main(["demo"]) == 2
    assert "--overwrite" not in capsys.readouterr().err


def test_a_failing_demo_leaves_nothing(planned: Any, tmp_path: Path) -> None:
    def run_plan(*_: Any) -> PlanOutcome:
        raise InputError("refused")

    planned.run_plan = run_plan
    assert main(["demo", str(tmp_path / "out"), "--quiet"]) == 3
    assert list(tmp_path.iterdir()) == []
