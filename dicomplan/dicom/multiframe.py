"""Enhanced (multi-frame) CT taken apart into slices, so that the rest of the room knows only slices."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject
from dicomplan.errors import InputError

ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""SOP classes Enhanced CT and Legacy Converted Enhanced CT Image Storage (PS3.4 B.5)."""
MAX_FRAMES = 20_000
"""Greatest number of frames of one image: ten times the slices of a whole-body CT of 1 mm."""

# Functional group macros (PS3.3 C.7.6.16.2) and what a slice needs of them.
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
}
_OF_THE_IMAGE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientPosition",
    "Rows",
    "Columns",
    "BitsAllocated",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "LossyImageCompression",
)


def slices_of(objects: Sequence[DicomObject]) -> tuple[DicomObject, ...]:
    """The slices of a series: single-frame images as they are, enhanced images frame by frame.

    A frame's header holds what its functional groups (its own, else the shared ones) and the image say of it.
    Raises InputError for an image without functional groups or with another number of frames than it states.
    """
    slices: list[DicomObject] = []
    for item in objects:
        if at.text(item.header, "SOPClassUID") in ENHANCED_CT:
            slices.extend(_frames(item))
        else:
            slices.append(item)
    return tuple(slices)


def _frames(item: DicomObject) -> list[DicomObject]:
    with at.naming(item.file):
        count = at.optional_whole(item.header, "NumberOfFrames", 1, file=item.file)
        if not 0 < count <= MAX_FRAMES:
            raise InputError(f"found {count}, expected 1 to {MAX_FRAMES}", tag=at.tag_name("NumberOfFrames"))
        own = at.items(item.header, "PerFrameFunctionalGroupsSequence")
        shared = at.items(item.header, "SharedFunctionalGroupsSequence")[:1]
        if len(own) != count:
            raise InputError(
                f"found {len(own)} items, expected one for each of {count} frames",
                tag=at.tag_name("PerFrameFunctionalGroupsSequence"),
            )
        return [
            DicomObject(item.file, _header(item.header, [groups, *shared]), item.source, frame)
            for frame, groups in enumerate(own)
        ]


def _header(image: Dataset, groups: Sequence[Dataset]) -> Dataset:
    header = Dataset()
    for keyword in _OF_THE_IMAGE:
        _copy(image, keyword, header)
    for macro, keywords in _GROUPS.items():
        for group in groups:
            found = at.items(group, macro)
            if found:
                for keyword in keywords:
                    _copy(found[0], keyword, header)
                break
    return header


def _copy(source: Dataset, keyword: str, target: Dataset) -> None:
    if at.value(source, keyword) is not None:
        target[keyword] = source[tag_for_keyword(keyword) or keyword]
