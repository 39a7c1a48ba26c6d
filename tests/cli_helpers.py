"""Stands in for ``workflow.plan`` where tests of the command line need no physics."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dicomplan.events import Cancel, Progress, ProgressCallback
from dicomplan.workflow.output import OutputFolder

GOALS = [
    {"structure": "PTV_7000", "goal": "D95% >= 70 Gy", "kind": "goal", "priority": 1, "met": True},
    {"structure": "Parotid_L", "goal": "Dmean <= 26 Gy", "kind": "goal", "priority": 3, "met": False},
    {"structure": "Larynx", "goal": "Dmean <= 45 Gy", "kind": "goal", "priority": 2, "met": False},
    {"structure": "SpinalCord", "goal": "D0.1cc <= 45 Gy", "kind": "hard", "priority": 0, "met": False},
]


@dataclass(frozen=True)
class PlanRequest:
    """The request as ``workflow.plan`` defines it."""

    study: tuple[Path, ...]
    template: str
    output: Path
    beam_doses: bool = False
    overwrite: bool = False
    identify: bool = False
    structure_set: str | None = None
    series: str | None = None
    patient_position: str | None = None
    repair: bool = False
    bridge: bool = False
    max_study_size: int = 20 * 10**9
    time_limit_s: float | None = None
    explore: str | None = None


@dataclass(frozen=True)
class PlanOutcome:
    """The outcome as ``workflow.plan`` defines it."""

    exit_code: int
    output: Path
    document: dict[str, Any]
    report: Path


def stand_in(*, exit_code: int = 0, status: str = "accepted", error: BaseException | None = None) -> ModuleType:
    """A module in the place of ``dicomplan.workflow.plan``: it keeps ``requests`` and returns or raises as told."""
    module: Any = ModuleType("dicomplan.workflow.plan")
    module.requests = []

    def run_plan(request: PlanRequest, progress: ProgressCallback, cancel: Cancel) -> PlanOutcome:
        module.requests.append(request)
        progress(Progress("read", "3 images", 0.5))
        if error is not None:
            raise error
        goals = [{**goal, "ideal": 25.0, "achieved": 46.125, "unit": "Gy"} for goal in GOALS]
        document = {
            "schema": 1,
            "status": status,
            "goals": goals,
            "warnings": [{"severity": "warning", "message": "one"}],
        }
        return PlanOutcome(exit_code, request.output, document, request.output / "report.html")

    module.PlanRequest, module.PlanOutcome, module.run_plan = PlanRequest, PlanOutcome, run_plan
    return module


def sleeping(*, swallow: bool = False) -> ModuleType:
    """A stand-in that writes half a result, says so on stderr and then works until it is stopped.

    With ``swallow`` it catches what the signal raises, as careless code below would, and looks at the token only.
    """
    module: Any = ModuleType("dicomplan.workflow.plan")

    def run_plan(request: PlanRequest, progress: ProgressCallback, cancel: Cancel) -> PlanOutcome:
        with OutputFolder(request.output, overwrite=request.overwrite, inputs=request.study) as folder:
            (folder / "RTPLAN.dcm").write_bytes(b"half")
            print("ready", file=sys.stderr, flush=True)
            for _ in range(600):
                try:
                    time.sleep(0.1)
                except BaseException:
                    if not swallow:
                        raise
                cancel.check()
            (folder / "plan.json").write_text(json.dumps({"schema": 1}))
        raise AssertionError("nobody stopped the run")

    module.PlanRequest, module.PlanOutcome, module.run_plan = PlanRequest, PlanOutcome, run_plan
    return module


if __name__ == "__main__":
    sys.modules["dicomplan.workflow.plan"] = sleeping(swallow="swallow" in sys.argv[1])
    from dicomplan.cli.main import main

    sys.exit(main(sys.argv[2:]))
