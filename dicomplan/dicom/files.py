"""Find the DICOM objects of a study and read their headers; everything else is listed and left alone."""

from __future__ import annotations

import hashlib
import io
import warnings
import zlib
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomplan.dicom.byte_sources import MAX_OBJECT_BYTES, ByteSource, Skipped, byte_sources, file_source, is_archive
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding, Progress, ProgressCallback, ignore_progress

MAX_STUDY_BYTES = 20 * 10**9
"""Greatest size of a study, pixels unpacked: a thousand slices, ten doses and a deformable 4D CT are a quarter of it."""
MAX_INFLATED_BYTES = 512 * 1024**2
"""Greatest size of one object of the deflated transfer syntax, inflated."""
MAX_SEQUENCE_DEPTH = 32
"""Greatest depth of nested sequences; the deepest of DICOM's own RT objects has eight."""

_PLANNED_ON = ("CT", "RTSTRUCT")
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ELEMENT_HEADER_BYTES = 8
_DICOMDIR = "1.2.840.10008.1.3.10"
_ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
# Elements that a file without preamble may start with: file meta or SpecificCharacterSet .. SOPInstanceUID.
_BARE_STARTS = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x08\x00", b"\x00\x08\x00")
# The file meta information of real files ends within a few hundred bytes.
_META_BYTES = 16 * 1024
_PIECE_BYTES = 4 * 1024**2
_META_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


@dataclass(frozen=True, eq=False)
class DicomObject:
    """One DICOM object: where it is (for messages), its header without pixels, and where its bytes lie.

    ``frame``: index of the frame that this stands for, in a multi-frame image that is taken apart into slices (then
    ``header`` is that frame's own); None for a whole object.
    """

    file: str
    header: Dataset
    source: ByteSource
    frame: int | None = None

    @property
    def modality(self) -> str:
        """Modality (0008,0060), upper case; empty when absent or unreadable."""
        return _text(self.header, "Modality").upper()

    @property
    def uid(self) -> str:
        """SOP instance UID of the dataset (not of the file meta)."""
        return _text(self.header, "SOPInstanceUID")

    @property
    def kind(self) -> str:
        """The modality for people; ion and brachytherapy plans are named."""
        if self.modality == "RTPLAN":
            if _text(self.header, "SOPClassUID") == _ION_PLAN:
                return "RTPLAN (ions)"
            if "ApplicationSetupSequence" in self.header:
                return "RTPLAN (brachytherapy)"
        return self.modality or "no modality"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file, hexadecimal. Raises UsageError if it cannot be read."""
        return hashlib.sha256(self.source.read()).hexdigest()

    def load(self) -> Dataset:
        """The whole dataset, pixels included, freshly read. Raises InputError if the file changed or cannot be read."""
        content = self.source.read()
        digest = hashlib.sha256(content).hexdigest()
        if self.__dict__.setdefault("sha256", digest) != digest:
            raise InputError("the file changed while it was read", file=self.file)
        # A frame's header is put together from parts of the file: it tells nothing of the others.
        known = self.header if self.frame is None else None
        return _parse(io.BytesIO(content), self.file, pixels=True, size=len(content), known=known)

    @property
    def unpacked_bytes(self) -> int:
        """Size with pixels unpacked, as the header claims it; at least the size of the file."""
        counts = [_count(self.header, name) for name in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")]
        pixels = max(counts[0], 0) * max(counts[1], 0) * max(counts[2], 1) * max(counts[3], 1)
        return max(self.source.size, pixels * max(_count(self.header, "BitsAllocated"), 8) // 8)


@dataclass(frozen=True, eq=False)
class Scan:
    """What a study holds: its objects (identical copies once, sorted by SOP instance UID) and what was left alone.

    ``refusals``: objects that belong to the study but cannot be used (damaged, two of one identifier). Nothing is
    planned on a study that has any.
    """

    objects: tuple[DicomObject, ...]
    findings: tuple[Finding, ...]
    refusals: tuple[InputError, ...] = ()

    def of_modality(self, modality: str) -> tuple[DicomObject, ...]:
        """The objects of one modality."""
        return tuple(item for item in self.objects if item.modality == modality)


@contextmanager
def pydicom_silenced() -> Iterator[None]:
    """Keep pydicom's warnings from stderr: they quote values of the file, and what matters becomes a finding or error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


@pydicom_silenced()
def scan_study(
    paths: Sequence[Path],
    progress: ProgressCallback = ignore_progress,
    *,
    max_study_size: int = MAX_STUDY_BYTES,
) -> Scan:
    """Read the headers of all DICOM objects under ``paths`` (folders, files, zips); pixels stay where they are.

    Raises UsageError for a path that is not there; InputError for an unsafe zip, when nothing is DICOM, and when the
    objects, pixels unpacked as their headers claim, are larger than ``max_study_size`` bytes. Damaged objects, and two
    different ones with one SOP instance UID, become refusals of the scan (a warning, if neither is CT nor RTSTRUCT).
    """
    objects: dict[str, DicomObject] = {}
    refusals: list[InputError] = []
    skipped, counts = Skipped(), Counter[str]()
    total = 0
    for count, source in enumerate(byte_sources(paths, skipped)):
        if count % 50 == 0:
            progress(Progress("read", f"{count} files"))
        try:
            item = _object(source, counts)
        except InputError as error:
            refusals.append(error)
            continue
        if item is None:
            continue
        known = objects.get(item.uid)
        if known is None:
            total += item.unpacked_bytes
            if total > max_study_size:
                raise InputError(
                    f"the study is larger than {max_study_size / 1e9:g} GB with this object",
                    file=item.file,
                    hint="give a part of it, or a larger --max-study-size",
                )
            objects[item.uid] = item
        elif _same(known, item):
            counts["copies"] += 1
        elif not {item.modality, known.modality} & set(_PLANNED_ON):
            counts["conflicts"] += 1
        else:
            refusals.append(
                InputError(
                    f"has the SOP instance UID of {known.file} with other content",
                    file=item.file,
                    tag="SOPInstanceUID (0008,0018)",
                    hint="keep one of them",
                )
            )
    if not objects:
        if refusals:
            raise refusals[0]
        names = ", ".join(str(path) for path in paths)
        raise InputError(f"no DICOM files found in {names}")
    return Scan(tuple(objects[uid] for uid in sorted(objects)), tuple(_scan_findings(counts, skipped)), tuple(refusals))


def _scan_findings(counts: Counter[str], skipped: Skipped) -> Iterator[Finding]:
    if counts["foreign"]:
        yield Finding("info", f"{counts['foreign']} files that are not DICOM objects were left alone")
    if counts["directories"]:
        yield Finding("info", f"{counts['directories']} DICOMDIR files were left alone")
    if counts["archives"]:
        yield Finding("info", f"{counts['archives']} zip files inside of a folder were not opened")
    if counts["unidentified"]:
        message = f"{counts['unidentified']} DICOM files without a SOP instance UID were left alone"
        yield Finding("warning", message, tag="SOPInstanceUID (0008,0018)")
    if counts["unreadable"]:
        message = f"{counts['unreadable']} files that begin like DICOM without a preamble cannot be read, left alone"
        yield Finding("warning", message)
    if counts["copies"]:
        yield Finding("info", f"{counts['copies']} identical copies of objects were counted once")
    if counts["conflicts"]:
        message = (
            f"{counts['conflicts']} objects have the SOP instance UID of another one and other content, left alone"
        )
        yield Finding("warning", message)
    if skipped.links:
        yield Finding("warning", f"{skipped.links} links that lead out of the folder were not followed")
    if skipped.special_files:
        yield Finding("info", f"{skipped.special_files} devices, sockets and FIFOs were not opened")
    for folder in skipped.folders:
        yield Finding("warning", "a folder cannot be read", file=folder)


def left_alone(scan: Scan, used: Sequence[str] = _PLANNED_ON) -> tuple[Finding, ...]:
    """One finding for each kind of object that is not of a modality in ``used``."""
    others = Counter(item.kind for item in scan.objects if item.modality not in used)
    return tuple(
        Finding("info", f"{others[kind]} objects of modality {kind} were left alone") for kind in sorted(others)
    )


@pydicom_silenced()
def read_object(path: Path) -> tuple[DicomObject, Dataset]:
    """One DICOM file: the object and its whole dataset. Raises UsageError if it is not there, InputError if no DICOM."""
    if not path.is_file():
        raise UsageError("no such file", file=path)
    item = _object(file_source(path), Counter())
    if item is None:
        raise InputError("is not a DICOM object", file=path)
    return item, item.load()


def _looks_like_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or head.startswith(_BARE_STARTS)


def _object(source: ByteSource, counts: Counter[str]) -> DicomObject | None:
    """The object in a file; None, and counted why, if it is none. Raises InputError for a damaged one."""
    head = source.read(132)
    if not _looks_like_dicom(head):
        counts["archives" if is_archive(head) else "foreign"] += 1
        return None
    certain = head[128:132] == b"DICM"
    if source.size > MAX_OBJECT_BYTES:
        if not certain:
            counts["foreign"] += 1
            return None
        raise InputError(f"is larger than {MAX_OBJECT_BYTES // 1024**3} GiB", file=source.name)
    try:
        with source.open() as stream:
            header = _parse(stream, source.name, pixels=False)
        item = DicomObject(source.name, header, source)
        directory = _meta_text(header, "MediaStorageSOPClassUID") == _DICOMDIR
        uid, modality = item.uid, item.modality
    except InputError:
        if certain:
            raise
        counts["unreadable" if head.startswith(_BARE_STARTS[:-1]) else "foreign"] += 1
        return None
    if directory:
        counts["directories"] += 1
        return None
    if uid:
        return item
    if certain and modality in ("", *_PLANNED_ON):
        raise InputError("is missing", file=source.name, tag="SOPInstanceUID (0008,0018)")
    counts["unidentified" if certain else "foreign"] += 1
    return None


def _same(first: DicomObject, second: DicomObject) -> bool:
    """Whether two objects of one identifier are copies: equal bytes, or equal values in another encoding."""
    if first.sha256 == second.sha256:
        return True
    try:
        return bool(first.load() == second.load())
    except InputError:
        raise
    except Exception:  # comparing converts every value, and pydicom raises what it stumbles over
        return False


def _parse(
    stream: BinaryIO, file: str, *, pixels: bool, size: int | None = None, known: Dataset | None = None
) -> Dataset:
    """The dataset in ``stream``; the depth of elements that ``known``, read from the same bytes before, has is not
    looked at again: that takes most of the time."""
    _check_deflated(stream, file)
    try:
        dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
        whole = _is_whole(dataset, size)
        deep = _is_deeper(dataset, MAX_SEQUENCE_DEPTH, () if known is None else known.keys())
    except RecursionError as error:
        raise InputError("its sequences are nested too deep", file=file) from error
    except Exception as error:  # pydicom raises what its parser stumbles over
        raise InputError(f"the DICOM file is damaged or cut short ({type(error).__name__})", file=file) from error
    if not whole:
        raise InputError("the DICOM file is cut short", file=file)
    if deep:
        raise InputError(f"its sequences are nested deeper than {MAX_SEQUENCE_DEPTH}", file=file)
    return dataset


def _check_deflated(stream: BinaryIO, file: str) -> None:
    """Refuse an object of the deflated transfer syntax that inflates beyond reason, before pydicom inflates it."""
    head = stream.read(_META_BYTES)
    stream.seek(0)
    meta = head[132:]
    stated = meta.startswith(_META_GROUP_LENGTH)
    length = int.from_bytes(meta[8:12], "little") if stated else 0
    if stated and length > _META_BYTES // 2:
        raise InputError(f"the file meta information has {length} bytes", file=file)
    if DeflatedExplicitVRLittleEndian.encode() not in meta:
        return
    if not stated:
        raise InputError("a deflated object without the length of its file meta information", file=file)
    stream.seek(144 + length)
    inflated = _inflated_bytes(stream.read(), MAX_INFLATED_BYTES)
    stream.seek(0)
    if inflated > MAX_INFLATED_BYTES:
        raise InputError(f"the object inflates to more than {MAX_INFLATED_BYTES // 1024**2} MiB", file=file)


def _inflated_bytes(packed: bytes, most: int) -> int:
    """Size that a raw deflate stream inflates to, counted piece by piece until it is beyond ``most``; 0 if damaged."""
    inflater, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while packed and not inflater.eof and count <= most:
            count += len(inflater.decompress(packed, _PIECE_BYTES))
            packed = inflater.unconsumed_tail
    except zlib.error:
        return 0
    return count


def _is_whole(dataset: Dataset, size: int | None) -> bool:
    """Whether all values have their stated length (pydicom takes what is left of a cut file without a word).

    ``size``: length of the file if it was read to the end; fewer bytes after the last value than a tag and its length
    take are the start of an element that was cut off.
    """
    last: RawDataElement | None = None
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
            last = None
            continue
        if len(element.value or b"") != element.length:
            return False
        last = element
    deflated = _meta_text(dataset, "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if size is None or last is None or deflated:
        return True
    return not 0 < size - (last.value_tell + last.length) < _ELEMENT_HEADER_BYTES


def _is_deeper(dataset: Dataset, depth: int, known: Container[BaseTag] = ()) -> bool:
    """Whether sequences are nested deeper than ``depth``; reads all of them but those of the ``known`` tags."""
    layer = list(_nested(dataset, known))
    for _ in range(depth):
        if not layer:
            return False
        layer = [item for part in layer for item in _nested(part)]
    return bool(layer)


def _nested(dataset: Dataset, known: Container[BaseTag] = ()) -> Iterator[Dataset]:
    for tag in list(dataset.keys()):
        if tag in known:
            continue
        element = dataset.get_item(tag)
        if element.VR is None or (element.VR == "UN" and isinstance(element, RawDataElement)):
            try:
                sequence = dictionary_VR(tag) == "SQ"
            except KeyError:
                continue
        else:
            sequence = element.VR == "SQ"
        if sequence:
            value = dataset[tag].value
            if isinstance(value, DicomSequence):
                yield from value


def _meta_text(dataset: Dataset, keyword: str) -> str:
    meta = getattr(dataset, "file_meta", None)
    return "" if meta is None else _text(meta, keyword)


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return str(dataset.get(keyword) or "").strip()
    except Exception:  # pydicom raises what its conversion stumbles over; unreadable counts as absent
        return ""


def _count(dataset: Dataset, keyword: str) -> int:
    try:
        return int(_text(dataset, keyword) or 0)
    except ValueError:
        return 0
