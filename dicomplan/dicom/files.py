"""Find the DICOM objects of a study and read their headers; everything else is listed and left alone."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydicom.dataset import Dataset

from dicomplan.dicom.byte_sources import MAX_OBJECT_BYTES, ByteSource, Skipped, byte_sources, file_source, is_archive
from dicomplan.dicom.parsing import meta_text, parse, text_or_empty
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding, Progress, ProgressCallback, ignore_progress

MAX_STUDY_BYTES = 20 * 10**9
"""Greatest size of a study, pixels unpacked: a thousand slices, ten doses and a deformable 4D CT are a quarter of it."""

_PLANNED_ON = ("CT", "RTSTRUCT")
_DICOMDIR = "1.2.840.10008.1.3.10"
_ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
# Elements that a file without preamble may start with: file meta or SpecificCharacterSet .. SOPInstanceUID.
_BARE_STARTS = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x08\x00", b"\x00\x08\x00")


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
        return text_or_empty(self.header, "Modality").upper()

    @property
    def uid(self) -> str:
        """SOP instance UID of the dataset (not of the file meta)."""
        return text_or_empty(self.header, "SOPInstanceUID")

    @property
    def kind(self) -> str:
        """The modality for people; ion and brachytherapy plans are named."""
        if self.modality == "RTPLAN":
            if text_or_empty(self.header, "SOPClassUID") == _ION_PLAN:
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
        return parse(io.BytesIO(content), self.file, pixels=True, size=len(content), known=known)

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


@pydicom_silenced()
def read_whole(path: Path) -> DicomObject:
    """One DICOM file, read and parsed once: its ``header`` is the whole dataset, pixels included.

    Raises UsageError if it is not there or cannot be read, InputError if it is no DICOM object or not whole.
    """
    item = _object(file_source(path), Counter(), whole=True)
    if item is None:
        raise InputError("is not a DICOM object", file=path)
    return item


def _looks_like_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or head.startswith(_BARE_STARTS)


def _object(source: ByteSource, counts: Counter[str], *, whole: bool = False) -> DicomObject | None:
    """The object in a file; None, and counted why, if it is none. Raises InputError for a damaged one.

    ``whole``: its header is the whole dataset, as :meth:`DicomObject.load` gives it.
    """
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
        if whole:
            content = source.read()
            item = DicomObject(
                source.name, parse(io.BytesIO(content), source.name, pixels=True, size=len(content)), source
            )
            item.__dict__["sha256"] = hashlib.sha256(content).hexdigest()
        else:
            with source.open() as stream:
                item = DicomObject(source.name, parse(stream, source.name, pixels=False), source)
        header = item.header
        directory = meta_text(header, "MediaStorageSOPClassUID") == _DICOMDIR
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


def _count(dataset: Dataset, keyword: str) -> int:
    try:
        return int(text_or_empty(dataset, keyword) or 0)
    except ValueError:
        return 0
