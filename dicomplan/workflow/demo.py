"""The first result with no data at hand: a phantom study, planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.phantoms.head_neck import head_neck
from dicomplan.phantoms.write import write_phantom_study
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.plan import PlanOutcome, PlanRequest, run_plan

DEMO_TEMPLATE = "head_and_neck_70"
"""The shipped template that the demo plans with."""


def run_demo(output: Path, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None) -> PlanOutcome:
    """Write the head-and-neck phantom to ``output/study`` and plan it into ``output/plan``.

    ``output`` must be new or empty and is there as a whole or not at all, as with ``plan``. Returns the plan's outcome
    with the final places of its files. Raises UsageError for an output that cannot be written, and what ``run_plan``
    raises.
    """
    cancel = cancel or Cancel()
    destination = OutputFolder(output)
    with destination as folder:
        progress(Progress("phantom", "head-and-neck phantom: CT and structures"))
        study = folder / "study"
        write_phantom_study(study, head_neck())
        cancel.check()
        request = PlanRequest(study=(study,), template=DEMO_TEMPLATE, output=folder / "plan")
        outcome = run_plan(request, progress, cancel)
    plan = destination.target / "plan"
    return replace(outcome, output=plan, report=plan / outcome.report.name)
