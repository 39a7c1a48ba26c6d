"""The patient as dose engines see it: outline, what counts beside it, densities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dicomplan.errors import InputError
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback
from dicomplan.patient.body import find_body
from dicomplan.patient.case import Coverage, CTVolume, PatientCase, Structure
from dicomplan.patient.coverage import geometry_findings, rasterize
from dicomplan.patient.density import DensityVolume, air_outside, apply_overrides, densities
from dicomplan.plan.matching import BODY, Wanted, match_rois
from dicomplan.plan.resolve import ALWAYS_INCLUDED
from dicomplan.plan.yaml_nodes import Problems


@dataclass(frozen=True)
class PatientModel:
    """BODY and the ROIs outside of it that count (by name) as coverages, and mass density on the CT's grid.

    ``found_body``: whether BODY had to be found on the CT.
    """

    body: Coverage
    included: dict[str, Coverage]
    density: DensityVolume
    found_body: bool
    findings: tuple[Finding, ...]


def patient_model(case: PatientCase, progress: ProgressCallback, cancel: Cancel) -> PatientModel:
    """BODY (the EXTERNAL ROI, else found on the CT), BOLUS, SUPPORT and FIXATION ROIs, densities by the default table.

    Raises InputError for several outlines, and for contours that do not lie on the CT.
    """
    grid = case.ct.grid
    findings: list[Finding] = []
    outline = _outline(case.structures)
    found = outline is None
    if outline is None:
        progress(Progress("masks", "looking for the patient's outline"))
        outline = find_body(case.ct)
        findings.append(
            Finding("warning", "no structure of type EXTERNAL: BODY was found on the CT at half the density of water")
        )
    else:
        findings += geometry_findings(outline, grid)
    body = rasterize(outline, grid)
    included = {}
    for roi in case.structures:
        cancel.check()
        if roi is outline or not roi.contours or roi.roi_type.upper() not in ALWAYS_INCLUDED:
            continue
        findings += geometry_findings(roi, grid)
        included[roi.name] = rasterize(roi, grid)
        findings.append(Finding("info", f"{roi.name} ({roi.roi_type.upper()}) takes part in the dose calculation"))
    density, more = patient_density(case.ct, (body, *included.values()))
    more += couch_findings([case.structure(name) for name in included])
    return PatientModel(body, included, density, found, (*findings, *more))


def couch_findings(included: Sequence[Structure]) -> list[Finding]:
    """A warning unless one of the ROIs that count outside of BODY is a couch (type SUPPORT)."""
    if any(roi.roi_type.upper() == "SUPPORT" for roi in included):
        return []
    return [Finding("warning", "no couch takes part in the dose: posterior beams are not weakened by it")]


def patient_density(
    ct: CTVolume, inside: Sequence[Coverage], overrides: Sequence[tuple[Coverage, float]] = ()
) -> tuple[DensityVolume, list[Finding]]:
    """Mass density on the CT by the default table, with overrides (g/cm3), air outside of what is ``inside``."""
    findings = [
        Finding("warning", "densities come from the default HU table, which was not measured on this CT scanner")
    ]
    density = densities(ct)
    if density.beyond_table:
        findings.append(
            Finding(
                "warning",
                f"{density.beyond_table} voxels of the CT lie above the HU table and take its last density: metal or "
                "artefacts; state their density in the template",
            )
        )
    return air_outside(apply_overrides(density, overrides), inside), findings


def _outline(structures: Sequence[Structure]) -> Structure | None:
    """The ROI that is BODY by the rules of templates. Raises InputError for several."""
    problems = Problems(None)
    matched = match_rois((Wanted(BODY),), structures, problems)
    if problems.found:
        raise InputError(problems.found[0].message, tag="RTROIInterpretedType (3006,00A4)")
    name = matched.get(BODY)
    return next((roi for roi in structures if roi.name == name and roi.contours), None)
