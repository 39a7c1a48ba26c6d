"""A study as image files for other programs: CT, doses and masks, with an index."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan import __version__
from dicomplan.dicom.ct_geometry import SeriesGeometry
from dicomplan.dicom.ct_pixels import read_volume
from dicomplan.dicom.files import DicomObject, Scan, left_alone, pydicom_silenced
from dicomplan.dicom.read_dose import dose_of, dose_units, relative_dose_of
from dicomplan.dicom.read_structures import read_structures, reference_findings
from dicomplan.errors import InputError
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.images.outlines import INSIDE
from dicomplan.images.volumes import SUFFIXES, ImageFormat, require, write_volume
from dicomplan.patient.case import Structure
from dicomplan.patient.coverage import coverage_on_grid, geometry_findings, rasterize
from dicomplan.workflow.documents import as_finding, finding_documents, grid_document, sorted_findings
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.study_request import StudyRequest, chosen_ct

Masks = Literal["fractional", "binary"]
INDEX = "index.json"
"""Name of the index in the output folder."""
_LONGEST_NAME = 64


@dataclass(frozen=True)
class ConvertOutcome:
    """Where the result lies, its index (the document for ``--json``), and all findings, errors first."""

    output: Path
    document: dict[str, Any]
    findings: tuple[Finding, ...]


@dataclass
class _Result:
    """What was written so far."""

    folder: Path
    suffix: str
    files: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def write(self, stem: str, values: NDArray[np.generic], grid: VoxelGrid, **facts: Any) -> None:
        """Write one volume and note it: ``stem`` is its path in the folder, without suffix."""
        name = f"{stem}{self.suffix}"
        write_volume(self.folder / name, values, grid)
        self.files.append(
            {
                "file": name,
                **facts,
                "minimum": float(values.min()),
                "maximum": float(values.max()),
                "type": str(values.dtype),
                "geometry": grid_document(grid),
            }
        )


@pydicom_silenced()
def run_convert(
    request: StudyRequest,
    output: Path,
    *,
    image_format: ImageFormat = "nifti",
    masks: Masks = "fractional",
    overwrite: bool = False,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> ConvertOutcome:
    """Write ``ct.*`` (HU), ``dose_<n>.*`` (Gy, on its own grid), ``masks/<number>_<name>.*`` and ``index.json``.

    CT and doses are float32; masks lie on the CT's grid: covered fraction of each voxel (float32), or 1 where that is at
    least 0.5 (uint8). A study without CT gives its doses alone. What only forbids planning (oblique planes, no patient
    position) is a warning here; so is a ROI or dose that cannot be used: it is left out. File names hold letters, digits,
    ``_ - + .`` of a ROI's name, the index the name itself; neither names patient or input files.
    Raises UsageError for the output place, a missing optional part, or a choice that is not there; InputError for an
    ambiguous study, a CT without a regular grid, unreadable pixels, and a study with neither CT nor dose.
    """
    cancel = cancel or Cancel()
    require(image_format)
    destination = OutputFolder(output, overwrite=overwrite, inputs=request.study)
    scan = request.sound_scan(progress)
    chosen = chosen_ct(scan, request)
    if chosen.geometry is None and not scan.of_modality("RTDOSE"):
        raise InputError("neither CT nor dose found: nothing to convert", tag="Modality (0008,0060)")
    with destination as folder:
        result = _Result(folder, SUFFIXES[image_format])
        result.findings += [*scan.findings, *left_alone(scan, ("CT", "RTSTRUCT", "RTDOSE")), *chosen.findings]
        if chosen.geometry is not None:
            ct, found = read_volume(chosen.geometry, progress)
            result.findings += found
            progress(Progress("write", "CT"))
            result.write("ct", ct.hu, ct.grid, kind="ct", units="HU")
            cancel.check()
            del ct
            if chosen.structure_set is not None:
                _write_masks(result, chosen.structure_set, chosen.geometry, masks, progress, cancel)
        _write_doses(result, scan, chosen.geometry, progress, cancel)
        findings = sorted_findings(result.findings)
        document = {
            "schema": 1,
            "dicomplan": __version__,
            "format": image_format,
            "masks": masks,
            "patient_position": (chosen.geometry.patient_position or None) if chosen.geometry else None,
            "coordinates": "mm, DICOM LPS (x to the left, y to the back, z to the head); arrays in order z, y, x",
            "files": result.files,
            "findings": finding_documents(findings, files=False),
        }
        write_index(folder, document)
    return ConvertOutcome(destination.target, document, findings)


def write_index(folder: Path, document: dict[str, Any]) -> None:
    """Write ``index.json``."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    (folder / INDEX).write_text(f"{text}\n", encoding="utf-8")


def _write_masks(
    result: _Result,
    item: DicomObject,
    geometry: SeriesGeometry,
    masks: Masks,
    progress: ProgressCallback,
    cancel: Cancel,
) -> None:
    grid = geometry.grid
    structures, contours, found = read_structures(
        item.header, file=item.file, frame_of_reference_uid=grid.frame_of_reference_uid
    )
    result.findings += [*found, *reference_findings(contours, geometry.slices, grid, file=item.file)]
    drawn = [structure for structure in structures if structure.contours]
    if drawn:
        (result.folder / "masks").mkdir()
    for index, structure in enumerate(drawn):
        progress(Progress("write", f"mask {index + 1} of {len(drawn)}", index / len(drawn)))
        cancel.check()
        try:
            warnings = geometry_findings(structure, grid)
            coverage = rasterize(structure, grid)
        except InputError as error:
            result.findings.append(Finding("warning", f"{error.message}: left out", file=item.file, tag=error.tag))
            continue
        result.findings += warnings
        fraction = np.clip(coverage_on_grid(coverage, grid), 0.0, 1.0)
        result.write(
            f"masks/{structure.number}_{safe_name(structure.name)}",
            fraction if masks == "fractional" else (fraction >= INSIDE).astype(np.uint8),
            grid,
            kind="mask",
            units="covered fraction" if masks == "fractional" else "1 inside, 0 outside",
            **_roi_facts(structure),
            volume_cc=round(coverage.volume_cc, 6),
        )


def _roi_facts(structure: Structure) -> dict[str, Any]:
    return {
        "name": structure.name,
        "number": structure.number,
        "roi_type": structure.roi_type,
        "color_rgb": list(structure.color_rgb),
    }


def safe_name(name: str) -> str:
    """A ROI's name as part of a file name: ASCII letters, digits, ``_ - + .``; never empty, hidden or a path.

    Accents are dropped (``Hüfte`` gives ``Hufte``), whatever else is not allowed becomes one ``_``.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    text = re.sub(r"[^A-Za-z0-9+.-]+", "_", plain)
    text = re.sub(r"\.{2,}", ".", text)[:_LONGEST_NAME].strip("._-")
    return text or "roi"


def _write_doses(
    result: _Result, scan: Scan, geometry: SeriesGeometry | None, progress: ProgressCallback, cancel: Cancel
) -> None:
    number = 0
    for item in scan.of_modality("RTDOSE"):
        cancel.check()
        try:
            values, grid, facts, found = _dose(item)
        except InputError as error:
            finding = as_finding(error, "warning")
            message = f"a dose is left out: {finding.message}"
            result.findings.append(Finding("warning", message, file=item.file, tag=finding.tag))
            continue
        number += 1
        progress(Progress("write", f"dose {number}"))
        result.findings += found
        result.findings += _frame_finding(item, grid, geometry)
        result.write(f"dose_{number}", values, grid, kind="dose", number=number, **facts)


def _frame_finding(item: DicomObject, grid: VoxelGrid, geometry: SeriesGeometry | None) -> Iterator[Finding]:
    frame = grid.frame_of_reference_uid
    if geometry is not None and frame and frame != geometry.grid.frame_of_reference_uid:
        message = "a dose is in another frame of reference than the CT"
        yield Finding("warning", message, file=item.file, tag="FrameOfReferenceUID (0020,0052)")


def _dose(
    item: DicomObject,
) -> tuple[NDArray[np.float32], VoxelGrid, dict[str, Any], tuple[Finding, ...]]:
    """Values, grid, facts for the index and findings of an RTDOSE. Raises InputError."""
    if dose_units(item) == "RELATIVE":
        relative = relative_dose_of(item)
        facts: dict[str, Any] = {"units": "RELATIVE", "summation_type": relative.summation_type, "beam_numbers": []}
        found = (Finding("warning", "a dose is RELATIVE, not in Gy", file=item.file, tag="DoseUnits (3004,0002)"),)
        return relative.values, relative.grid, facts, found
    dose = dose_of(item)
    facts = {"units": "Gy", "summation_type": dose.summation_type, "beam_numbers": list(dose.beam_numbers)}
    return dose.dose_gy, dose.grid, facts, dose.findings
