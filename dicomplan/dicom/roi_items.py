"""The three sequence items of a ROI (structure set ROI, ROI contour, observation): rt-utils makes them, or we do.

Both ways end in :func:`fill_items`, which sets every label and all contours itself, so that the bytes do not depend on
whether rt-utils (and OpenCV, which it needs) could be loaded.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from dicomplan.dicom.decimals import decimal_text, point_texts, short_text
from dicomplan.dicom.source import PLANE_TOLERANCE_MM, SliceReference, StudySource
from dicomplan.events import Finding
from dicomplan.patient.case import Structure


@dataclass(frozen=True, eq=False)
class RoiItems:
    """The items of one ROI in StructureSetROI-, ROIContour- and RTROIObservationsSequence."""

    roi: Dataset
    contour: Dataset
    observation: Dataset


def make_items(
    structures: Sequence[Structure], source: StudySource
) -> tuple[tuple[RoiItems, ...], tuple[Finding, ...]]:
    """Items of new ROIs, complete; one warning when rt-utils cannot be loaded and dicomplan made them alone.

    Contours must lie on slices of the CT. Raises ValueError for a contour outside of it.
    """
    findings: tuple[Finding, ...] = ()
    try:
        made = _items_by_rt_utils(structures, source)
    except (ImportError, OSError) as error:
        message = (
            f"rt-utils could not be loaded ({type(error).__name__}), dicomplan wrote the derived ROIs itself;"
            " on Debian 'apt install libgl1 libglib2.0-0' brings what OpenCV needs"
        )
        findings = (Finding("warning", message),)
        made = tuple(RoiItems(Dataset(), Dataset(), Dataset()) for _ in structures)
    for structure, items in zip(structures, made, strict=True):
        fill_items(items, structure, source)
    return made, findings


def _items_by_rt_utils(structures: Sequence[Structure], source: StudySource) -> tuple[RoiItems, ...]:
    """Blank items from rt-utils, in memory: its masks round to whole pixels, so it is given an empty one.

    Raises ImportError or OSError when rt-utils or a shared library that OpenCV needs cannot be loaded.
    """
    from rt_utils.rtstruct import RTStruct

    slice_item = Dataset()
    slice_item.SOPClassUID = source.slices[0].sop_class_uid
    slice_item.SOPInstanceUID = source.slices[0].sop_instance_uid
    slice_item.ImagePositionPatient = list(source.slices[0].image_position)
    slice_item.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    slice_item.PixelSpacing = ["1", "1"]
    slice_item.SliceThickness = "1"
    frame = Dataset()
    frame.FrameOfReferenceUID = source.frame_of_reference_uid
    dataset = Dataset()
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    dataset.StructureSetROISequence = DicomSequence()
    dataset.ROIContourSequence = DicomSequence()
    dataset.RTROIObservationsSequence = DicomSequence()
    empty = np.zeros((1, 1, 1), dtype=bool)
    with contextlib.redirect_stdout(io.StringIO()):
        wrapper = RTStruct([slice_item], dataset)
        for structure in structures:
            wrapper.add_roi(empty, color=list(structure.color_rgb), name=structure.name)
    made = wrapper.ds
    return tuple(
        RoiItems(*triple)
        for triple in zip(
            made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence, strict=True
        )
    )


def fill_items(items: RoiItems, structure: Structure, source: StudySource) -> None:
    """Set number, labels, type, colour and contours of ``structure`` in its three items."""
    _clear(items)
    number = str(structure.number)
    items.roi.ROINumber = number
    items.roi.ReferencedFrameOfReferenceUID = source.frame_of_reference_uid
    items.roi.ROIName = short_text(structure.name, 64)
    items.roi.ROIGenerationAlgorithm = "AUTOMATIC"
    items.contour.ReferencedROINumber = number
    items.contour.ROIDisplayColor = [str(part) for part in structure.color_rgb]
    contours = [item for points in structure.contours if (item := contour_item(points, source)) is not None]
    if contours:
        items.contour.ContourSequence = DicomSequence(contours)
    items.observation.ObservationNumber = number
    items.observation.ReferencedROINumber = number
    items.observation.RTROIInterpretedType = structure.roi_type
    items.observation.ROIInterpreter = ""


def _clear(items: RoiItems) -> None:
    for item in (items.roi, items.contour, items.observation):
        for element in list(item.keys()):
            del item[element]


def image_reference(place: SliceReference) -> DicomSequence:
    """A ContourImageSequence that names one CT slice (or frame); empty for an interpolated one."""
    if not place.sop_instance_uid:
        return DicomSequence()
    image = Dataset()
    image.ReferencedSOPClassUID = place.sop_class_uid
    image.ReferencedSOPInstanceUID = place.sop_instance_uid
    if place.frame_number is not None:
        image.ReferencedFrameNumber = str(place.frame_number)
    return DicomSequence([image])


def contour_item(points_mm: np.ndarray[tuple[int, ...], np.dtype[np.float64]], source: StudySource) -> Dataset | None:
    """A closed contour (n, 3) in mm as an item of ContourSequence, or None if fewer than three printed points differ.

    Coordinates are printed to 0.001 mm; along the slice normal they are the slice's own printed position.
    Raises ValueError for a contour outside of the CT.
    """
    normal = source.grid.direction_matrix[:, 2]
    position = float(np.mean(points_mm @ normal))
    index = source.slice_index(position)
    if index is None:
        raise ValueError(f"a contour at {position:.3f} mm along the slice normal lies outside of the CT")
    place = source.slices[index]
    texts = point_texts(points_mm)
    axis = int(np.argmax(np.abs(normal)))
    if abs(normal[axis]) == 1 and abs(place.position_mm - position) <= PLANE_TOLERANCE_MM:
        printed = place.image_position[axis]
        printed = printed if len(printed) <= 16 else decimal_text(float(printed))
        for text in texts:
            text[axis] = printed
    kept = [text for previous, text in zip([texts[-1], *texts[:-1]], texts, strict=True) if text != previous]
    if len(kept) < 3:
        return None
    item = Dataset()
    if place.sop_instance_uid:
        item.ContourImageSequence = image_reference(place)
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = str(len(kept))
    item.ContourData = [value for text in kept for value in text]
    return item
