"""The structures of a resolved template as fractional coverage on one CT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, Severity, ignore_progress
from dicomplan.patient.algebra import evaluate
from dicomplan.patient.body import find_body
from dicomplan.patient.case import Coverage, PatientCase, Structure
from dicomplan.patient.coverage import geometry_findings, rasterize
from dicomplan.patient.names import normalise
from dicomplan.plan.matching import BODY
from dicomplan.plan.resolve import ResolvedTemplate


@dataclass(frozen=True)
class StructureCoverages:
    """Coverage of each structure by its canonical name (ROIs, BODY, derived), and of ROIs that are only included.

    ``found_body`` is the outline when it had to be found, else None. ``derived`` names the derived ones, in order.
    """

    by_name: Mapping[str, Coverage]
    included: Mapping[str, Coverage]
    derived: tuple[str, ...]
    found_body: Structure | None
    findings: tuple[Finding, ...]


def structure_coverages(
    case: PatientCase,
    resolved: ResolvedTemplate,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> StructureCoverages:
    """Rasterise every ROI that the template uses, find BODY where none is drawn, and work out derived structures.

    Raises InputError for contours that do not lie on the CT, ValueError for a template that was not resolved on them.
    """
    cancel = cancel or Cancel()
    grid = case.ct.grid
    findings: list[Finding] = []
    covered: dict[str, Coverage] = {}
    found = None
    if BODY not in resolved.roi_names:
        progress(Progress("masks", "looking for the patient's outline"))
        found = find_body(case.ct, number=1 + max((item.number for item in case.structures), default=0))
        covered[BODY] = rasterize(found, grid)
        findings.append(
            Finding("warning", "no structure of type EXTERNAL: BODY was found on the CT at half the density of water")
        )
    for canonical, roi in resolved.roi_names.items():
        cancel.check()
        progress(Progress("masks", canonical))
        structure = case.structure(roi)
        findings += geometry_findings(structure, grid)
        covered[canonical] = rasterize(structure, grid)
    included: dict[str, Coverage] = {}
    known = {roi: canonical for canonical, roi in resolved.roi_names.items()}
    for roi in resolved.include:
        if roi in known:
            included[roi] = covered[known[roi]]
            continue
        structure = case.structure(roi)
        findings += geometry_findings(structure, grid)
        included[roi] = rasterize(structure, grid)
    for one in resolved.derived:
        cancel.check()
        progress(Progress("masks", one.name))
        value = evaluate(one.expression, covered, grid)
        if value is None:
            raise ValueError(f"{one.name}: the template was resolved, yet nothing of its expression is there")
        if value.volume_cc <= 0:
            constrained = any(normalise(goal.structure) == normalise(one.name) for goal in resolved.constraints)
            severity: Severity = "warning" if constrained else "info"
            what = "constraints and goals are" if constrained else "goals are"
            findings.append(Finding(severity, f"{one.name} is empty in this patient; its {what} not judged"))
        covered[one.name] = value
    return StructureCoverages(covered, included, tuple(one.name for one in resolved.derived), found, tuple(findings))
