"""Check DICOM objects: conformance, references, and whether a machine could deliver the plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomplan.dicom.conformance import conformance_findings
from dicomplan.dicom.deliverability import deliverability_findings
from dicomplan.dicom.files import MAX_STUDY_BYTES, DicomObject, left_alone, scan_study
from dicomplan.dicom.plan_record import plan_record
from dicomplan.dicom.references import study_reference_findings
from dicomplan.errors import InputError
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.machine.library import load_machine, machine_names
from dicomplan.machine.model import MachineModel
from dicomplan.workflow.documents import as_finding, finding_documents, sorted_findings

_CHECKED = ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")


@dataclass(frozen=True)
class CheckRequest:
    """What to check: folders, files or zips, and the machine (a shipped name or a file; None: the one that a plan names)."""

    paths: tuple[Path, ...]
    machine: str | None = None
    max_study_size: int = MAX_STUDY_BYTES


def run_check(
    request: CheckRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> dict[str, Any]:
    """The findings as the document of INTERFACE.md (``check``), sorted by severity.

    Without a machine a plan is checked on the shipped machine whose name is its TreatmentMachineName, else its
    deliverability is not looked at, which is said. Raises UsageError for a path or machine that is not there, MachineError
    for a bad machine file, InputError if nothing is readable DICOM.
    """
    cancel = cancel or Cancel()
    machine = None if request.machine is None else load_machine(request.machine)
    scan = scan_study(request.paths, progress, max_study_size=request.max_study_size)
    findings: list[Finding] = [*scan.findings, *left_alone(scan, _CHECKED)]
    findings += [as_finding(error) for error in scan.refusals]
    for number, item in enumerate(scan.objects):
        cancel.check()
        progress(Progress("check", f"{item.modality} {number + 1} of {len(scan.objects)}", number / len(scan.objects)))
        findings += conformance_findings(item)
        if item.modality == "RTPLAN":
            findings += _of_plan(item, machine)
    findings += study_reference_findings(scan)
    return {"schema": 1, "findings": finding_documents(_together(findings))}


def _of_plan(item: DicomObject, machine: MachineModel | None) -> list[Finding]:
    if item.kind != "RTPLAN":
        return [Finding("info", f"{item.kind}: deliverability is not looked at", file=item.file)]
    try:
        record = plan_record(item)
    except InputError as error:
        return [as_finding(error)]
    if not record.beams:
        return []
    if machine is None:
        names = sorted({beam.machine for beam in record.beams})
        if len(names) != 1 or names[0] not in machine_names():
            known = "no machine" if names == [""] else f"machine {', '.join(name or '(none)' for name in names)}"
            message = f"the plan is of {known}, which is not shipped: deliverability is not looked at (give --machine)"
            return [Finding("info", message, file=item.file, tag="TreatmentMachineName (300A,00B2)")]
        machine = load_machine(names[0])
    return list(deliverability_findings(item, record, machine))


def _together(findings: list[Finding]) -> tuple[Finding, ...]:
    """Sorted; what many files have alike is one finding that names the first of them and their number."""
    groups: dict[tuple[str, str, str | None], list[Finding]] = {}
    for finding in dict.fromkeys(findings):
        groups.setdefault((finding.severity, finding.message, finding.tag), []).append(finding)
    merged = []
    for (severity, message, tag), members in groups.items():
        more = f" (and in {len(members) - 1} other files)" if len(members) > 1 else ""
        merged.append(Finding(members[0].severity, message + more, members[0].file, tag))
        assert severity == members[0].severity
    return sorted_findings(merged)
