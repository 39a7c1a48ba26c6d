"""What all written objects share: copied patient and study attributes, equipment, file meta, saving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomplan import __version__
from dicomplan.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER, Identity
from dicomplan.dicom.source import StudySource

PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientNames",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "EthnicGroup",
    "Occupation",
    "AdditionalPatientHistory",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyID",
)
"""Attributes of the Patient, General Study and Patient Study modules that are copied as they are."""

_TYPE_2 = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
)


def _is_sequence(tag: BaseTag, element: DataElement | RawDataElement) -> bool:
    if element.VR == "SQ":
        return True
    if element.VR not in (None, "UN"):
        return False
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def copy_elements(source: Dataset, tags: Iterable[BaseTag] | None = None, *, raw: bool = True) -> Dataset:
    """A new dataset with elements of ``source`` (all, or ``tags``), sequences item by item.

    ``raw``: values keep their bytes as read (only right while source and target have the same character set and the
    source is little endian); otherwise they are decoded, and encoded anew on saving.
    """
    raw = raw and source.original_encoding[1] is not False
    copy = Dataset()
    copy._parent_encoding = source._character_set
    for tag in list(source.keys()) if tags is None else tags:
        if tag not in source or tag.element == 0:
            continue
        element = source.get_item(tag)
        if _is_sequence(tag, element):
            items = source[tag].value or []
            copy.add_new(tag, "SQ", DicomSequence([copy_elements(item, raw=raw) for item in items]))
        elif raw and isinstance(element, RawDataElement):
            value = element.value or b""
            if len(value) % 2:
                value += b" "
            copy[tag] = element._replace(value=value, length=len(value))
        else:
            converted = source[tag]
            copy[tag] = DataElement(tag, converted.VR, converted.value, already_converted=True)
    if raw:
        # Tells pydicom that raw values may be written as they are.
        copy.set_original_encoding(True, True, copy._character_set)
    return copy


def copied_attributes(header: Dataset) -> Dataset:
    """The patient and study attributes of a CT header, raw."""
    return copy_elements(header, [Tag(keyword) for keyword in PATIENT_AND_STUDY])


def character_set(dataset: Dataset) -> tuple[str, ...]:
    """SpecificCharacterSet as a tuple of its values; empty when absent."""
    value = dataset.get("SpecificCharacterSet")
    if not value:
        return ()
    return (str(value),) if isinstance(value, str) else tuple(str(part) for part in value)


def can_encode(texts: Iterable[str], charset: Sequence[str]) -> bool:
    """Whether all ``texts`` can be written in a SpecificCharacterSet (PS3.3 C.12.1.1.2; none: ASCII)."""
    names = ["ascii"] if not any(charset) else [str(name) for name in convert_encodings(list(charset))]
    for text in texts:
        for name in names:
            try:
                text.encode(name)
            except (UnicodeEncodeError, LookupError):
                continue
            break
        else:
            return False
    return True


def new_object(
    source: StudySource,
    identity: Identity,
    *,
    role: str,
    modality: str,
    sop_class_uid: str,
    series_number: int,
    series_description: str,
    texts: Iterable[str] = (),
) -> Dataset:
    """A dataset in the study, patient and frame of reference of ``source``, with its own series and equipment.

    ``role`` makes the identifiers. ``texts``: every text of the new object that may hold letters outside of ASCII; if
    the CT's character set cannot hold them, the object is written in ISO_IR 192 (and the copied texts with it).
    """
    charset = character_set(source.attributes)
    if can_encode(texts, charset):
        dataset = copy_elements(source.attributes)
    else:
        # Decoding happens in place: of a copy, for the next object may still want the bytes.
        dataset = copy_elements(copy_elements(source.attributes), raw=False)
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    dataset.StudyInstanceUID = source.study_instance_uid
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = identity.uid(role)
    dataset.InstanceCreationDate = identity.date
    dataset.InstanceCreationTime = identity.time
    dataset.Modality = modality
    dataset.SeriesInstanceUID = identity.uid(f"{role} series")
    dataset.SeriesNumber = str(series_number)
    dataset.SeriesDate = identity.date
    dataset.SeriesTime = identity.time
    dataset.SeriesDescription = series_description
    dataset.OperatorsName = ""
    dataset.InstanceNumber = "1"
    dataset.FrameOfReferenceUID = source.frame_of_reference_uid
    dataset.PositionReferenceIndicator = source.position_reference_indicator
    set_equipment(dataset)
    return dataset


def set_equipment(dataset: Dataset) -> None:
    """Write dicomplan as the equipment that made the object."""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = __version__


def save(dataset: Dataset, path: Path, *, implicit_vr: bool = True) -> None:
    """Write ``dataset`` as a DICOM file, little endian; RT objects in Implicit VR, for contours longer than 64 kB."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit_vr else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    dataset.save_as(path, implicit_vr=implicit_vr, little_endian=True, enforce_file_format=True)
