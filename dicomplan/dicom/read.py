"""Read a study: CT series and RTSTRUCT into a PatientCase and the source that the writers copy from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dicomplan.dicom import attributes as at
from dicomplan.dicom.byte_sources import ByteSource
from dicomplan.dicom.ct_geometry import SeriesGeometry, series_geometry
from dicomplan.dicom.ct_pixels import read_volume
from dicomplan.dicom.files import MAX_STUDY_BYTES, DicomObject, left_alone, pydicom_silenced, scan_study
from dicomplan.dicom.objects import copied_attributes
from dicomplan.dicom.read_dose import StoredDose, read_dose
from dicomplan.dicom.read_plan import StoredPlan, read_plan
from dicomplan.dicom.read_structures import check_planes, read_structures, reference_findings, uncovered
from dicomplan.dicom.select import ct_series, select
from dicomplan.dicom.source import InputObject, Study, StudySource
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.geometry.frames import PATIENT_POSITIONS
from dicomplan.patient.bridging import bridged_structures
from dicomplan.patient.case import PatientCase, Structure

__all__ = ["StoredDose", "StoredPlan", "read_ct_source", "read_dose", "read_plan", "read_study"]


@pydicom_silenced()
def read_study(
    paths: Sequence[Path],
    *,
    structure_set: str | None = None,
    series: str | None = None,
    patient_position: str | None = None,
    repair: bool = False,
    bridge: bool = False,
    max_study_size: int = MAX_STUDY_BYTES,
    progress: ProgressCallback = ignore_progress,
) -> Study:
    """Read CT and RTSTRUCT of one study from folders (recursive), files or zips.

    ``structure_set`` and ``series`` choose among several (see :func:`dicomplan.dicom.select.select`);
    ``patient_position`` replaces the images' own; ``repair`` interpolates single missing slices; ``bridge`` fills
    CT planes between a ROI's contours that have none of their own by shape interpolation; what they change is reported
    as warnings. ``max_study_size`` in bytes is held against the headers before pixels are read. HU are float32
    ``(z, y, x)`` sorted along the slice normal; contours are in patient coordinates, mm.
    Findings say what is odd; their sentences name no file (``Finding.file`` does).

    Raises UsageError for a path that is not there, InputError for everything that cannot be planned on: no CT, no
    RTSTRUCT, several candidates, another patient or frame of reference, a grid that is not regular and upright, missing
    rescale values, an absent or contradicting PatientPosition, unreadable pixels or contours.
    """
    if patient_position is not None and patient_position not in PATIENT_POSITIONS:
        raise UsageError(f"patient position '{patient_position}' is not one of {', '.join(PATIENT_POSITIONS)}")
    scan = scan_study(paths, progress, max_study_size=max_study_size)
    if scan.refusals:
        raise scan.refusals[0]
    selection = select(scan, structure_set=structure_set, series=series, repair=repair)
    geometry = series_geometry(selection.series.objects, patient_position, repair=repair)
    if geometry.refusals:
        raise geometry.refusals[0]
    findings = [*scan.findings, *left_alone(scan), *selection.findings]
    return study_of(geometry, selection.structure_set, findings, bridge=bridge, progress=progress)


@pydicom_silenced()
def study_of(
    geometry: SeriesGeometry,
    item: DicomObject | None,
    findings: Sequence[Finding] = (),
    *,
    bridge: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Study:
    """The study of a CT that was chosen and of the structure set on it (None: no structures); as :func:`read_study`.

    ``findings`` come before those made here. What forbids planning (``geometry.refusals``) is for the caller to heed.
    """
    grid = geometry.grid
    found = [*findings, *geometry.findings]
    structures: tuple[Structure, ...] = ()
    if item is not None:
        progress(Progress("read", "structures"))
        structures, contours, structure_findings = read_structures(
            item.header, file=item.file, frame_of_reference_uid=grid.frame_of_reference_uid
        )
        check_planes(structures, grid, file=item.file)
        found.extend(structure_findings)
        found.extend(reference_findings(contours, geometry.slices, grid, file=item.file))
        for name, beyond in uncovered(structures, grid):
            message = f"ROI '{name}' reaches {beyond:.1f} mm beyond the CT: that part is not seen"
            found.append(Finding("warning", message, file=item.file, tag=at.tag_name("ContourData")))
    if bridge:
        structures, bridged = bridged_structures(structures, grid)
        found.extend(bridged)
    ct, pixel_findings = read_volume(geometry, progress)
    found.extend(pixel_findings)
    case = PatientCase(ct, structures, geometry.patient_position, tuple(found))
    return Study(case, source_of(geometry, item))


@pydicom_silenced()
def read_ct_source(ct_files: Sequence[Path]) -> StudySource:
    """The source of a CT series alone (no RTSTRUCT), from its files or folder: for writing a first structure set.

    Raises InputError if the files hold no regular CT series, or several.
    """
    scan = scan_study(ct_files)
    if scan.refusals:
        raise scan.refusals[0]
    found, _ = ct_series(scan)
    if len(found) != 1:
        labels = "; ".join(item.label for item in found)
        raise InputError(f"{len(found)} CT series found, expected one{': ' if labels else ''}{labels}")
    return source_of(series_geometry(found[0].objects), None)


def source_of(geometry: SeriesGeometry, structure_set: DicomObject | None) -> StudySource:
    """What the writers need of a CT and its structure set (or none).

    Raises InputError if the CT has no study identifier or a file changed meanwhile.
    """
    first = geometry.read_objects[0]
    with at.naming(first.file):
        return _source(geometry, structure_set, first)


def _source(geometry: SeriesGeometry, structure_set: DicomObject | None, first: DicomObject) -> StudySource:
    study_uid = at.text(first.header, "StudyInstanceUID")
    if not study_uid:
        raise InputError("is missing", file=first.file, tag=at.tag_name("StudyInstanceUID"))
    if not geometry.grid.frame_of_reference_uid:
        raise InputError("is missing", file=first.file, tag=at.tag_name("FrameOfReferenceUID"))
    files: dict[ByteSource, DicomObject] = {}
    for member in geometry.read_objects:
        files.setdefault(member.source, member)
    inputs = [InputObject(member.uid, member.sha256, "CT") for member in files.values()]
    dataset = None
    if structure_set is not None:
        inputs.append(InputObject(structure_set.uid, structure_set.sha256, "RTSTRUCT"))
        # Read again: reading values changes how pydicom holds them, and the writers copy the bytes.
        dataset = structure_set.load()
    # Attributes are copied from an untouched reading too.
    header = first.load()
    return StudySource(
        attributes=copied_attributes(header),
        slices=geometry.slices,
        series_instance_uid=at.text(first.header, "SeriesInstanceUID"),
        study_instance_uid=study_uid,
        frame_of_reference_uid=geometry.grid.frame_of_reference_uid,
        position_reference_indicator=at.text(first.header, "PositionReferenceIndicator"),
        grid=geometry.grid,
        structure_set=dataset,
        inputs=tuple(sorted(inputs, key=lambda entry: entry.sop_instance_uid)),
    )
