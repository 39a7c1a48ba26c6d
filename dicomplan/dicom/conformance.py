"""What DICOM objects for radiotherapy must hold: attributes that are missing or empty, values that contradict each other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.decimals import MAX_DECIMAL_CHARACTERS
from dicomplan.dicom.files import DicomObject, pydicom_silenced
from dicomplan.errors import InputError
from dicomplan.events import Finding


@dataclass(frozen=True)
class Requirements:
    """Attributes of a dataset: ``filled`` must be there with a value (type 1), ``present`` may be empty (type 2).

    ``items``: the same for the items of sequences, where these are there.
    """

    filled: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    items: Mapping[str, Requirements] = field(default_factory=dict)


_EVERY = Requirements(
    ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
     "ReferringPhysicianName", "AccessionNumber"),
)  # fmt: skip
"""Patient, General Study, General Series and SOP Common modules (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.12.1)."""

_PIXELS = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
           "PixelRepresentation")  # fmt: skip
_PLANE = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")

REQUIREMENTS: Mapping[str, Requirements] = {
    "CT": Requirements(
        (*_PIXELS, *_PLANE, "ImageType", "FrameOfReferenceUID", "RescaleIntercept", "RescaleSlope"),
        ("SliceThickness", "KVP", "AcquisitionNumber", "InstanceNumber", "PositionReferenceIndicator"),
    ),
    "RTSTRUCT": Requirements(
        ("StructureSetLabel",),
        ("StructureSetDate", "StructureSetTime", "Manufacturer"),
        {
            "StructureSetROISequence": Requirements(
                ("ROINumber", "ReferencedFrameOfReferenceUID"), ("ROIName", "ROIGenerationAlgorithm")
            ),
            "ROIContourSequence": Requirements(
                ("ReferencedROINumber",),
                (),
                {
                    "ContourSequence": Requirements(
                        ("ContourGeometricType", "NumberOfContourPoints", "ContourData"),
                        (),
                        {"ContourImageSequence": Requirements(("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))},
                    )
                },
            ),
            "RTROIObservationsSequence": Requirements(
                ("ObservationNumber", "ReferencedROINumber"), ("RTROIInterpretedType", "ROIInterpreter")
            ),
        },
    ),
    "RTPLAN": Requirements(
        ("RTPlanLabel", "RTPlanGeometry"),
        ("RTPlanDate", "RTPlanTime", "Manufacturer"),
        {
            "FractionGroupSequence": Requirements(
                ("FractionGroupNumber", "NumberOfBeams", "NumberOfBrachyApplicationSetups"),
                ("NumberOfFractionsPlanned",),
                {"ReferencedBeamSequence": Requirements(("ReferencedBeamNumber",))},
            ),
            "BeamSequence": Requirements(
                ("BeamNumber", "BeamType", "NumberOfWedges", "NumberOfCompensators", "NumberOfBoli", "NumberOfBlocks",
                 "NumberOfControlPoints", "ControlPointSequence", "BeamLimitingDeviceSequence"),
                ("TreatmentMachineName", "RadiationType"),
                {
                    "BeamLimitingDeviceSequence": Requirements(("RTBeamLimitingDeviceType", "NumberOfLeafJawPairs")),
                    "ControlPointSequence": Requirements(
                        ("ControlPointIndex",),
                        ("CumulativeMetersetWeight",),
                        {
                            "BeamLimitingDevicePositionSequence": Requirements(
                                ("RTBeamLimitingDeviceType", "LeafJawPositions")
                            )
                        },
                    ),
                },
            ),
            "DoseReferenceSequence": Requirements(
                ("DoseReferenceNumber", "DoseReferenceStructureType", "DoseReferenceType")
            ),
            "PatientSetupSequence": Requirements(("PatientSetupNumber",)),
        },
    ),
    "RTDOSE": Requirements(
        (*_PIXELS, *_PLANE, "FrameOfReferenceUID", "DoseUnits", "DoseType", "DoseSummationType", "DoseGridScaling"),
        ("Manufacturer", "PositionReferenceIndicator"),
    ),
}  # fmt: skip
"""By modality: attributes of type 1 and 2 of PS3.3 A.3, A.18 to A.20 and their modules, without the conditional ones that
other attributes decide about (those are in :func:`conformance_findings`)."""


@pydicom_silenced()
def conformance_findings(item: DicomObject) -> tuple[Finding, ...]:
    """What of a CT, RTSTRUCT, RTPLAN or RTDOSE does not conform; objects of other kinds have none.

    An attribute of type 1 that is missing or empty is an error, a missing one of type 2 a warning; of each kind and level
    one finding, which counts the items. Counts that do not agree with what they count, references within the object
    that lead nowhere, numbers that occur twice and decimal strings of more than 16 characters are errors.
    """
    requirements = REQUIREMENTS.get(item.modality)
    if requirements is None or item.kind != item.modality:
        return ()
    checks = {"RTSTRUCT": _structure_set, "RTPLAN": _plan, "RTDOSE": _dose}
    found = [*_missing(item.header, _EVERY, item.file), *_missing(item.header, requirements, item.file)]
    try:
        if item.modality in checks:
            found += checks[item.modality](item.header, item.file)
        found += _long_decimals(item.header, item.file)
    except InputError as error:
        found.append(Finding("error", f"a value {error.message}", file=item.file, tag=error.tag))
    return tuple(dict.fromkeys(found))


def _missing(dataset: Dataset, wanted: Requirements, file: str) -> Iterator[Finding]:
    counts: Counter[tuple[str, str, str]] = Counter()
    _count_missing([dataset], wanted, "", counts)
    for (severity, keyword, where), count in counts.items():
        of = f" in {count} item{'s' if count > 1 else ''} of {where}" if where else ""
        if severity == "error":
            yield Finding("error", f"{keyword} (type 1) is missing or empty{of}", file=file, tag=at.tag_name(keyword))
        else:
            yield Finding("warning", f"{keyword} (type 2) is missing{of}", file=file, tag=at.tag_name(keyword))


def _count_missing(
    datasets: list[Dataset], wanted: Requirements, where: str, counts: Counter[tuple[str, str, str]]
) -> None:
    for dataset in datasets:
        for keyword in wanted.filled:
            if keyword not in dataset or _is_empty(dataset, keyword):
                counts["error", keyword, where] += 1
        for keyword in wanted.present:
            if keyword not in dataset:
                counts["warning", keyword, where] += 1
    for sequence, more in wanted.items.items():
        inner = [one for dataset in datasets for one in _items(dataset, sequence)]
        _count_missing(inner, more, sequence, counts)


def _is_empty(dataset: Dataset, keyword: str) -> bool:
    element = dataset.get_item(keyword)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        # as stored: thousands of contours need not be converted
        binary = (element.VR or dictionary_VR(element.tag)) in ("US", "SS", "UL", "SL", "FL", "FD", "US or SS")
        return not (element.value if binary else element.value.strip(b" \0"))
    try:
        return at.value(dataset, keyword) in (None, "", []) or len(at.texts(dataset, keyword)) == 0
    except InputError:
        return False  # there, if unreadable: other findings tell, or a sequence


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    try:
        return at.items(dataset, keyword)
    except InputError:
        return []


def _structure_set(dataset: Dataset, file: str) -> Iterator[Finding]:
    rois = [at.text(roi, "ROINumber") for roi in at.items(dataset, "StructureSetROISequence")]
    yield from _twice(rois, "ROINumber", file)
    for sequence in ("ROIContourSequence", "RTROIObservationsSequence"):
        for number in {at.text(one, "ReferencedROINumber") for one in at.items(dataset, sequence)} - {"", *rois}:
            message = f"{sequence} refers to ROI {number}, which is not in StructureSetROISequence"
            yield Finding("error", message, file=file, tag=at.tag_name("ReferencedROINumber"))
    frames = {at.text(one, "FrameOfReferenceUID") for one in at.items(dataset, "ReferencedFrameOfReferenceSequence")}
    strangers = {at.text(roi, "ReferencedFrameOfReferenceUID") for roi in at.items(dataset, "StructureSetROISequence")}
    if strangers - frames - {""}:
        message = "ROIs lie in a frame of reference that ReferencedFrameOfReferenceSequence does not name"
        yield Finding("warning", message, file=file, tag=at.tag_name("ReferencedFrameOfReferenceUID"))


def _plan(dataset: Dataset, file: str) -> Iterator[Finding]:
    beams = at.items(dataset, "BeamSequence")
    numbers = [at.text(beam, "BeamNumber") for beam in beams]
    yield from _twice(numbers, "BeamNumber", file)
    for group in at.items(dataset, "FractionGroupSequence"):
        named = at.items(group, "ReferencedBeamSequence")
        yield from _counted(group, "NumberOfBeams", len(named), "ReferencedBeamSequence", file)
        for reference in named:
            number = at.text(reference, "ReferencedBeamNumber")
            if number and number not in numbers:
                message = f"the fraction group refers to beam {number}, which is not in the plan"
                yield Finding("error", message, file=file, tag=at.tag_name("ReferencedBeamNumber"))
    for beam, number in zip(beams, numbers, strict=True):
        points = at.items(beam, "ControlPointSequence")
        yield from _counted(
            beam, "NumberOfControlPoints", len(points), "ControlPointSequence", file, f"beam {number}: "
        )
        yield from _control_points(beam, points, number, file)
    if at.text(dataset, "RTPlanGeometry").upper() == "PATIENT" and not at.items(
        dataset, "ReferencedStructureSetSequence"
    ):
        message = "a plan of RTPlanGeometry PATIENT names no structure set (type 1C)"
        yield Finding("error", message, file=file, tag=at.tag_name("ReferencedStructureSetSequence"))


def _control_points(beam: Dataset, points: list[Dataset], number: str, file: str) -> Iterator[Finding]:
    weights = [at.optional_number(point, "CumulativeMetersetWeight", file=file) for point in points]
    known = [weight for weight in weights if weight is not None]
    tag = at.tag_name("CumulativeMetersetWeight")
    if any(later < earlier for earlier, later in itertools.pairwise(known)):
        yield Finding("error", f"beam {number}: the cumulative meterset weight falls", file=file, tag=tag)
    final = at.optional_number(beam, "FinalCumulativeMetersetWeight", file=file)
    if known and final is None:
        message = f"beam {number}: FinalCumulativeMetersetWeight (type 1C) is missing, control points have weights"
        yield Finding("error", message, file=file, tag=at.tag_name("FinalCumulativeMetersetWeight"))
    elif weights and weights[-1] is not None and final is not None and abs(weights[-1] - final) > 1e-4 * abs(final):
        message = f"beam {number}: the last control point has weight {weights[-1]:g}, the beam states {final:g}"
        yield Finding("error", message, file=file, tag=at.tag_name("FinalCumulativeMetersetWeight"))
    if points and not at.texts(points[0], "GantryAngle"):
        message = f"beam {number}: the first control point states no GantryAngle (type 1C)"
        yield Finding("error", message, file=file, tag=at.tag_name("GantryAngle"))
    pairs = {
        at.text(device, "RTBeamLimitingDeviceType"): at.optional_whole(device, "NumberOfLeafJawPairs", 0, file=file)
        for device in at.items(beam, "BeamLimitingDeviceSequence")
    }
    wrong: set[str] = set()
    for point in points:
        for device in at.items(point, "BeamLimitingDevicePositionSequence"):
            kind = at.text(device, "RTBeamLimitingDeviceType")
            found = len(at.texts(device, "LeafJawPositions"))
            if found and found != 2 * pairs.get(kind, 0) and kind not in wrong:
                wrong.add(kind)
                expected = f"{2 * pairs[kind]} expected" if kind in pairs else "the beam declares no such device"
                message = f"beam {number}: {found} positions of {kind or 'a device without type'}, {expected}"
                yield Finding("error", message, file=file, tag=at.tag_name("LeafJawPositions"))


def _dose(dataset: Dataset, file: str) -> Iterator[Finding]:
    frames = at.optional_whole(dataset, "NumberOfFrames", 1, file=file)
    offsets = at.texts(dataset, "GridFrameOffsetVector")
    if frames > 1 and len(offsets) != frames:
        message = f"GridFrameOffsetVector (type 1C) has {len(offsets)} values for {frames} frames"
        yield Finding("error", message, file=file, tag=at.tag_name("GridFrameOffsetVector"))
    summation = at.text(dataset, "DoseSummationType").upper()
    needing = ("PLAN", "MULTI_PLAN", "FRACTION", "BEAM", "BRACHY", "FRACTION_SESSION", "BEAM_SESSION", "CONTROL_POINT")
    if summation in needing and not at.items(dataset, "ReferencedRTPlanSequence"):
        message = f"a dose of summation type {summation} names no plan (ReferencedRTPlanSequence, type 1C)"
        yield Finding("error", message, file=file, tag=at.tag_name("ReferencedRTPlanSequence"))
    units = at.text(dataset, "DoseUnits").upper()
    if units and units not in ("GY", "RELATIVE"):
        yield Finding(
            "error", f"DoseUnits is {units}, GY or RELATIVE expected", file=file, tag=at.tag_name("DoseUnits")
        )
    scaling = at.optional_number(dataset, "DoseGridScaling", file=file)
    if scaling is not None and not (np.isfinite(scaling) and scaling > 0):
        message = f"DoseGridScaling is {scaling:g}, a positive number expected"
        yield Finding("error", message, file=file, tag=at.tag_name("DoseGridScaling"))


def _counted(
    dataset: Dataset, keyword: str, found: int, sequence: str, file: str, where: str = ""
) -> Iterator[Finding]:
    stated = at.optional_number(dataset, keyword, file=file)
    if stated is not None and stated != found:
        message = f"{where}{keyword} is {stated:g}, {sequence} has {found} items"
        yield Finding("error", message, file=file, tag=at.tag_name(keyword))


def _twice(numbers: list[str], keyword: str, file: str) -> Iterator[Finding]:
    for number, count in Counter(numbers).items():
        if count > 1 and number:
            yield Finding("error", f"{keyword} {number} occurs {count} times", file=file, tag=at.tag_name(keyword))


def _long_decimals(dataset: Dataset, file: str) -> Iterator[Finding]:
    """Decimal strings that are too long (PS3.5 6.2), outside of contours, where they would fill pages."""
    counts: Counter[str] = Counter()
    _count_long(dataset, counts)
    for keyword, count in counts.items():
        message = f"{keyword}: {count} decimal strings of more than {MAX_DECIMAL_CHARACTERS} characters"
        yield Finding("warning", message, file=file, tag=at.tag_name(keyword))


def _count_long(dataset: Dataset, counts: Counter[str]) -> None:
    for element in dataset:
        if element.VR == "SQ":
            if element.keyword != "ROIContourSequence":
                for item in element.value:
                    _count_long(item, counts)
        elif element.VR == "DS" and element.keyword:
            values = at.texts(dataset, element.keyword)
            counts[element.keyword] += sum(len(value) > MAX_DECIMAL_CHARACTERS for value in values)
            if not counts[element.keyword]:
                del counts[element.keyword]
