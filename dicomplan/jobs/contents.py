"""What a file of the inbox holds, as small values: identifiers, positions, hashes; read to its end once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.byte_sources import file_source, is_archive
from dicomplan.dicom.files import DicomObject, Scan, pydicom_silenced, read_whole, scan_study
from dicomplan.dicom.read_structures import CLOSED_TYPES, contour_points
from dicomplan.dicom.select import ct_series, references_of
from dicomplan.errors import InputError

_PIECE = 1024 * 1024

_SEQUENCES = ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence")

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class SliceGeometry:
    """Where a CT slice lies: first pixel in mm (patient coordinates), unit axes, pixel spacing in mm, matrix."""

    origin_mm: Vector
    row_axis: Vector
    column_axis: Vector
    spacing_mm: tuple[float, float]
    matrix: tuple[int, int]


@dataclass(frozen=True)
class StructureReferences:
    """What an RTSTRUCT says: UIDs it refers to, corners (mm) of the box of its contours, and its names.

    ``whole``: it has every sequence that none may be without (type 1 of PS3.3 A.19.3: C.8.8.5, C.8.8.6, C.8.8.8); else it
    may be cut short between two elements, which nothing else in the file tells.
    """

    images: frozenset[str]
    series: frozenset[str]
    frames: frozenset[str]
    low_mm: Vector | None
    high_mm: Vector | None
    names: tuple[str, ...]
    label: str
    whole: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """One DICOM object of a file. ``kind``: ``CT`` (a slice to plan on), ``RTSTRUCT``, or another modality.

    ``patient``: a hash of identifier and name, for comparison only. ``size`` in bytes, pixels unpacked.
    ``description`` (study's and series') and ``station`` are for rules; they stay in memory.
    """

    uid: str
    sha256: str
    kind: str
    series_uid: str
    study_uid: str
    frame_uid: str
    patient: str
    size: int
    slice: SliceGeometry | None = None
    structures: StructureReferences | None = None
    descriptions: tuple[str, ...] = ()
    station: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class FileContents:
    """What a file holds: SHA-256 of the file, its size in bytes, its objects (several in a zip)."""

    sha256: str
    size: int
    objects: tuple[Content, ...]
    is_zip: bool = False


@pydicom_silenced()
def read_contents(path: Path) -> FileContents:
    """Read a DICOM file, or a zip of one study, to its end.

    Raises InputError where anything in it is damaged, cut short or no DICOM object, and where pixels are missing;
    UsageError where it cannot be opened. Sentences may name the file: they are for the caller to clean.
    """
    if is_archive(file_source(path).read(4)):
        scan = scan_study([path])
        if scan.refusals:
            raise scan.refusals[0]
        objects = tuple(_content(item, item.load()) for item in scan.objects)
        return FileContents(file_sha256(path), path.stat().st_size, objects, is_zip=True)
    item = read_whole(path)
    return FileContents(item.sha256, item.source.size, (_content(item, item.header),))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _content(item: DicomObject, dataset: Dataset) -> Content:
    header = item.header
    with at.naming(item.file):
        kind = item.modality
        if kind == "CT" and not ct_series(Scan((item,), ()))[0]:
            kind = "CT (no slice)"
        geometry = None
        if kind == "CT":
            _check_pixels(dataset)
            geometry = _slice(item)
        who = hashlib.sha256(f"{at.text(header, 'PatientID')}\n{at.text(header, 'PatientName')}".encode()).hexdigest()
        descriptions = (at.text(header, "StudyDescription"), at.text(header, "SeriesDescription"))
        return Content(
            uid=item.uid,
            sha256=item.sha256,
            kind=kind or "no modality",
            series_uid=at.text(header, "SeriesInstanceUID"),
            study_uid=at.text(header, "StudyInstanceUID"),
            frame_uid=at.text(header, "FrameOfReferenceUID"),
            patient=who,
            size=item.unpacked_bytes,
            slice=geometry,
            structures=_structures(dataset, item.file) if kind == "RTSTRUCT" else None,
            descriptions=tuple(text for text in descriptions if text),
            station=at.text(header, "StationName"),
        )


def _check_pixels(dataset: Dataset) -> None:
    """Refuse uncompressed pixels of another length than the header says; compressed ones are only asked to be there."""
    pixels = getattr(dataset, "PixelData", None)
    if not pixels:
        raise InputError("holds no pixels", tag=at.tag_name("PixelData"))
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is not None and syntax.is_compressed:
        return
    sizes = [
        int(getattr(dataset, name, None) or 1) for name in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
    ]
    wanted = int(np.prod(sizes, dtype=np.int64)) * int(getattr(dataset, "BitsAllocated", 0) or 0) // 8
    if len(pixels) not in (wanted, wanted + wanted % 2):
        raise InputError(f"found {len(pixels)} bytes of pixels, expected {wanted}", tag=at.tag_name("PixelData"))


def _slice(item: DicomObject) -> SliceGeometry | None:
    """Position of a single slice; None where it is not told in the usual way (multi-frame, damaged)."""
    header = item.header
    try:
        origin = at.numbers(header, "ImagePositionPatient", 3, file=item.file)
        axes = at.numbers(header, "ImageOrientationPatient", 6, file=item.file)
        spacing = at.numbers(header, "PixelSpacing", 2, file=item.file)
        matrix = (at.whole(header, "Rows", file=item.file), at.whole(header, "Columns", file=item.file))
    except InputError:
        return None
    return SliceGeometry(_vector(origin), _vector(axes[:3]), _vector(axes[3:]), (spacing[0], spacing[1]), matrix)


def _vector(values: Iterable[float]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _structures(dataset: Dataset, file: str) -> StructureReferences:
    references = references_of(dataset)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for roi in at.items(dataset, "ROIContourSequence"):
        for contour in at.items(roi, "ContourSequence"):
            if at.text(contour, "ContourGeometricType").upper() in CLOSED_TYPES:
                points = contour_points(contour, file=file)
                if len(points):
                    low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    rois = at.items(dataset, "StructureSetROISequence")
    names = tuple(at.text(item, "ROIName") for item in rois)
    drawn = bool(np.isfinite(low).all())
    return StructureReferences(
        images=references.images,
        series=references.series,
        frames=references.frames,
        low_mm=_vector(low) if drawn else None,
        high_mm=_vector(high) if drawn else None,
        names=names,
        label=at.text(dataset, "StructureSetLabel"),
        whole=all(name in dataset for name in _SEQUENCES),
    )
