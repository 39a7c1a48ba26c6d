"""The doses that are evaluated: those that are named, or those of a study, as one dose of the whole course."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject, Scan, read_object
from dicomplan.dicom.plan_record import plan_record
from dicomplan.dicom.read_dose import StoredDose, dose_of, dose_units, sum_of_beams
from dicomplan.dose.summing import on_axes, same_voxels, summed
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid

_PARTS = ("BEAM", "BEAM_SESSION", "CONTROL_POINT")  # DoseSummationTypes of what is less than a plan


@dataclass(frozen=True, eq=False)
class ChosenDoses:
    """Doses to be summed, with the objects that they came from, and what was noticed."""

    items: tuple[DicomObject, ...]
    doses: tuple[StoredDose, ...]
    findings: tuple[Finding, ...]


def chosen_doses(scan: Scan, named: Sequence[Path]) -> ChosenDoses:
    """The doses of the files ``named``; without any, those of the study that together are one course.

    Of a study: the dose of a plan stands for its beams' doses; beam doses alone must be complete where their plan is
    there; doses of different plans belong together. Raises InputError where that leaves a choice (naming --dose), where
    there is no dose, for doses that are not in Gy, and for parts and whole of one plan that would count twice.
    """
    findings: list[Finding] = []
    if named:
        items = _once([read_object(path)[0] for path in named], findings)
    else:
        items = _in_gray(scan.of_modality("RTDOSE"), findings)
    doses = [dose_of(item) for item in items]
    if not named:
        items, doses = _one_course(scan, items, doses, findings)
    _check_twice(doses)
    for item, dose in zip(items, doses, strict=True):
        if dose.planar:
            raise InputError("the dose is of one plane only", file=item.file, tag=at.tag_name("NumberOfFrames"))
        findings += dose.findings
        if dose.dose_type not in ("", "PHYSICAL"):
            message = f"a dose is of type {dose.dose_type}, not physical dose; it is taken as it is"
            findings.append(Finding("warning", message, file=item.file, tag=at.tag_name("DoseType")))
    if len(doses) > 1:
        findings.append(Finding("info", f"{len(doses)} doses are summed"))
    return ChosenDoses(tuple(items), tuple(doses), tuple(findings))


def total_dose(chosen: ChosenDoses, grid: VoxelGrid) -> tuple[DoseVolume, tuple[Finding, ...]]:
    """The sum on the axes of ``grid`` (the CT's, or what stands for it).

    Raises InputError for a dose in another frame of reference.
    """
    findings = []
    for item, dose in zip(chosen.items, chosen.doses, strict=True):
        frame, ours = dose.grid.frame_of_reference_uid, grid.frame_of_reference_uid
        if frame and ours and frame != ours:
            raise InputError(
                f"found frame of reference {frame}, expected that of the structures, {ours}",
                file=item.file,
                tag=at.tag_name("FrameOfReferenceUID"),
            )
    turned = [on_axes(DoseVolume(dose.grid, dose.dose_gy), grid.direction) for dose in chosen.doses]
    if not all(same_voxels(turned[0].grid, one.grid) for one in turned):
        findings.append(
            Finding(
                "warning",
                "the doses lie on different grids: each counts as 0 outside of its own, trilinear inside of it",
            )
        )
    return summed(turned), tuple(findings)


def _once(items: Sequence[DicomObject], findings: list[Finding]) -> list[DicomObject]:
    """Identical copies count once; other objects of one identifier are refused."""
    found: dict[str, DicomObject] = {}
    for item in items:
        first = found.setdefault(item.uid, item)
        if first is item:
            continue
        if first.sha256 != item.sha256:
            raise InputError("another dose has the same identifier", file=item.file, tag=at.tag_name("SOPInstanceUID"))
        findings.append(Finding("warning", "a dose was named twice and counts once", file=item.file))
    return list(found.values())


def _in_gray(items: Sequence[DicomObject], findings: list[Finding]) -> list[DicomObject]:
    """The doses in Gy; others are left alone if there are some in Gy, else reading them says what is wrong."""
    gray = [item for item in items if dose_units(item) == "GY"]
    if not items:
        raise InputError(
            "no RTDOSE found: there is no dose to evaluate", tag=at.tag_name("Modality"), hint="use --dose"
        )
    if not gray:
        return list(items)
    for item in items:
        if item not in gray:
            message = f"a dose in units {dose_units(item) or 'not stated'} is left alone"
            findings.append(Finding("warning", message, file=item.file, tag=at.tag_name("DoseUnits")))
    return gray


def _one_course(
    scan: Scan, items: list[DicomObject], doses: list[StoredDose], findings: list[Finding]
) -> tuple[list[DicomObject], list[StoredDose]]:
    whole = {dose.plan_uid for dose in doses if dose.summation_type not in _PARTS}
    kept = [
        (item, dose)
        for item, dose in zip(items, doses, strict=True)
        if dose.summation_type not in _PARTS or dose.plan_uid not in whole
    ]
    left = len(doses) - len(kept)
    if left:
        findings.append(Finding("info", f"{left} doses of beams are left alone: their plan's dose is there"))
    parts = [dose for _, dose in kept if dose.summation_type in _PARTS]
    types = {dose.summation_type for _, dose in kept}
    if types == {"BEAM"}:
        numbers = _beam_numbers(scan, {dose.plan_uid for dose in parts})
        if numbers is None:
            message = "the doses of single beams are summed; whether these are all of the plan is not known"
            findings.append(Finding("warning", message, tag=at.tag_name("ReferencedBeamNumber")))
        else:
            _check_complete(parts, numbers)
        return [item for item, _ in kept], parts
    plans = [dose.plan_uid for _, dose in kept]
    if parts or (len(kept) > 1 and ("" in plans or len(set(plans)) < len(plans) or "MULTI_PLAN" in types)):
        listed = "; ".join(
            f"{dose.summation_type or 'no summation type'} {item.uid} in {item.file}" for item, dose in kept
        )
        raise InputError(f"{len(kept)} doses could be meant: {listed}", hint="choose with --dose, once for each")
    if len(kept) > 1:
        findings.append(Finding("warning", f"the doses of {len(kept)} plans are summed"))
    return [item for item, _ in kept], [dose for _, dose in kept]


def _check_complete(parts: Sequence[StoredDose], numbers: Sequence[int]) -> None:
    try:
        sum_of_beams(parts, numbers)
    except InputError as error:
        error.hint = error.hint or "name those that are meant with --dose, once for each"
        raise


def _beam_numbers(scan: Scan, plans: set[str]) -> tuple[int, ...] | None:
    """Treatment beams of the one plan that the doses refer to; None where it is not in the study."""
    found = [item for item in scan.of_modality("RTPLAN") if item.uid in plans]
    return plan_record(found[0]).treatment_beam_numbers if len(found) == 1 and len(plans) == 1 else None


def _check_twice(doses: Sequence[StoredDose]) -> None:
    whole = {dose.plan_uid for dose in doses if dose.plan_uid and dose.summation_type not in _PARTS}
    if any(dose.summation_type in _PARTS and dose.plan_uid in whole for dose in doses):
        raise InputError(
            "the dose of a plan and doses of its beams are named: the beams would count twice",
            tag=at.tag_name("DoseSummationType"),
        )
