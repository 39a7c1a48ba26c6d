"""Which study is meant: what every command that reads one is asked, the objects it finds, and the CT chosen of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicomplan.dicom.ct_geometry import SeriesGeometry, series_geometry
from dicomplan.dicom.files import MAX_STUDY_BYTES, DicomObject, Scan, scan_study
from dicomplan.dicom.read import read_study
from dicomplan.dicom.select import Series, ct_series, select
from dicomplan.dicom.source import Study
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding, ProgressCallback
from dicomplan.geometry.frames import PATIENT_POSITIONS
from dicomplan.workflow.documents import as_finding


@dataclass(frozen=True)
class StudyRequest:
    """Which study (folders, files, zips), and the options that choose in it.

    ``structure_set`` and ``series`` choose among several, ``patient_position`` states what the headers do not,
    ``repair`` interpolates single missing CT slices; ``max_study_size`` in bytes. See :func:`dicomplan.dicom.read.read_study`.
    """

    study: tuple[Path, ...]
    structure_set: str | None = field(default=None, kw_only=True)
    series: str | None = field(default=None, kw_only=True)
    patient_position: str | None = field(default=None, kw_only=True)
    repair: bool = field(default=False, kw_only=True)
    max_study_size: int = field(default=MAX_STUDY_BYTES, kw_only=True)

    def read(self, progress: ProgressCallback, *, bridge: bool = False) -> Study:
        """The study as planning reads it. ``bridge``: ROIs are filled on CT planes that they leave out."""
        return read_study(
            self.study,
            structure_set=self.structure_set,
            series=self.series,
            patient_position=self.patient_position,
            repair=self.repair,
            bridge=bridge,
            max_study_size=self.max_study_size,
            progress=progress,
        )

    def scan(self, progress: ProgressCallback) -> Scan:
        """The study's objects, whatever they are. Raises UsageError for an unknown patient position."""
        if self.patient_position is not None and self.patient_position not in PATIENT_POSITIONS:
            raise UsageError(f"patient position '{self.patient_position}' is not one of {', '.join(PATIENT_POSITIONS)}")
        return scan_study(self.study, progress, max_study_size=self.max_study_size)

    def sound_scan(self, progress: ProgressCallback) -> Scan:
        """As :meth:`scan`. Raises InputError for a damaged or ambiguous study."""
        scan = self.scan(progress)
        if scan.refusals:
            raise scan.refusals[0]
        return scan


@dataclass(frozen=True, eq=False)
class ChosenCT:
    """The CT series that was chosen (None: no CT), its geometry, the structure set on it (or None), and findings."""

    geometry: SeriesGeometry | None
    structure_set: DicomObject | None
    findings: tuple[Finding, ...]


def chosen_ct(scan: Scan, request: StudyRequest, *, with_structures: bool = True) -> ChosenCT:
    """The CT series and, if ``with_structures`` and there are any, the structure set on it.

    What forbids only planning becomes a warning. Raises InputError for several candidates and a CT that is no regular
    grid, UsageError for a choice that is not there.
    """
    series, findings = ct_series(scan)
    sets = scan.of_modality("RTSTRUCT") if with_structures else ()
    item: DicomObject | None = None
    if series and sets:
        selection = select(scan, structure_set=request.structure_set, series=request.series, repair=request.repair)
        chosen, item, findings = selection.series, selection.structure_set, selection.findings
    else:
        if request.structure_set is not None and with_structures:
            raise UsageError(f"no structure set is '{request.structure_set}' on a CT of this study")
        if not series:
            if request.series is not None:
                raise UsageError(f"no CT series is '{request.series}'")
            more = [Finding("warning", "no CT: structures are not converted")] if sets else []
            return ChosenCT(None, None, (*findings, *more))
        chosen = _only_series(series, request.series)
    geometry = series_geometry(chosen.objects, request.patient_position, repair=request.repair)
    warnings = [as_finding(refusal, "warning") for refusal in geometry.refusals]
    return ChosenCT(geometry, item, (*findings, *geometry.findings, *warnings))


def _only_series(all_series: Sequence[Series], wanted: str | None) -> Series:
    if wanted is not None:
        all_series = [item for item in all_series if wanted in (item.uid, item.text("SeriesDescription"))]
        if not all_series:
            raise UsageError(f"no CT series is '{wanted}'", hint="give its UID or its description")
    if len(all_series) > 1:
        listed = "; ".join(item.label for item in all_series)
        raise InputError(f"{len(all_series)} CT series could be meant: {listed}", hint="choose one with --series")
    return all_series[0]
