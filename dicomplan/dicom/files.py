"""Find the DICOM objects of a study: a folder (recursive), files, or a zip; everything else is left alone."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding, Progress, ProgressCallback, ignore_progress

MAX_ZIP_BYTES = 4 * 1024**3
"""Greatest total size of a zip's members, unpacked: a whole-body CT with doses is a quarter of it."""
MAX_ZIP_MEMBERS = 20_000
"""Greatest number of members of a zip."""

_PLANNED_ON = ("CT", "RTSTRUCT")

_UNDEFINED_LENGTH = 0xFFFFFFFF
_ELEMENT_HEADER_BYTES = 8
# Elements that a file without preamble may start with: file meta or SpecificCharacterSet .. SOPInstanceUID.
_BARE_STARTS = (b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x08\x00")


@dataclass(frozen=True, eq=False)
class DicomObject:
    """One DICOM object: where it is (for messages), the SHA-256 of its file, its header without pixels."""

    file: str
    sha256: str
    header: Dataset
    path: Path
    content: bytes | None = None

    @property
    def modality(self) -> str:
        """Modality (0008,0060), upper case; empty when absent."""
        return str(self.header.get("Modality") or "").strip().upper()

    @property
    def uid(self) -> str:
        """SOP instance UID of the dataset (not of the file meta)."""
        return str(self.header.get("SOPInstanceUID") or "")

    def load(self) -> Dataset:
        """The whole dataset, pixels included, freshly read. Raises InputError if the file changed or cannot be read."""
        content = self.content if self.content is not None else _read(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise InputError("the file changed while it was read", file=self.file)
        return _parse(content, self.file, pixels=True)


@dataclass(frozen=True, eq=False)
class Scan:
    """What a study holds: its objects (identical copies once, sorted by SOP instance UID) and what was left alone."""

    objects: tuple[DicomObject, ...]
    findings: tuple[Finding, ...]

    def of_modality(self, modality: str) -> tuple[DicomObject, ...]:
        """The objects of one modality."""
        return tuple(item for item in self.objects if item.modality == modality)


def scan_study(paths: Sequence[Path], progress: ProgressCallback = ignore_progress) -> Scan:
    """Read the headers of all DICOM objects under ``paths`` (folders, files, zips).

    Raises UsageError for a path that is not there; InputError for a DICOM file that cannot be read, for two different
    CT slices or structure sets with one SOP instance UID, for an unsafe zip, and when nothing is DICOM.
    """
    objects: dict[str, DicomObject] = {}
    not_dicom = copies = conflicts = 0
    for count, (file, path, content) in enumerate(_contents(paths)):
        if count % 50 == 0:
            progress(Progress("read", f"{count} files"))
        item = _object(file, path, content)
        if item is None:
            not_dicom += 1
            continue
        known = objects.get(item.uid)
        if known is None:
            objects[item.uid] = item
        elif known.sha256 == item.sha256 or known.load() == item.load():
            copies += 1
        elif item.modality not in _PLANNED_ON and known.modality not in _PLANNED_ON:
            conflicts += 1
        else:
            raise InputError(
                f"has the SOP instance UID of {known.file} with other content",
                file=file,
                tag="SOPInstanceUID (0008,0018)",
                hint="keep one of them",
            )
    if not objects:
        names = ", ".join(str(path) for path in paths)
        raise InputError(f"no DICOM files found in {names}")
    findings = []
    if not_dicom:
        findings.append(Finding("info", f"{not_dicom} files that are not DICOM objects were left alone"))
    if copies:
        findings.append(Finding("info", f"{copies} identical copies of objects were counted once"))
    if conflicts:
        message = f"{conflicts} objects have the SOP instance UID of another one and other content, left alone"
        findings.append(Finding("warning", message))
    others = Counter(item.modality or "no modality" for item in objects.values())
    for modality, number in sorted(others.items()):
        if modality not in _PLANNED_ON:
            findings.append(Finding("info", f"{number} objects of modality {modality} were left alone"))
    return Scan(tuple(objects[uid] for uid in sorted(objects)), tuple(findings))


@contextmanager
def pydicom_silenced() -> Iterator[None]:
    """Keep pydicom's warnings from stderr: they quote values of the file, and what matters becomes a finding or error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


def read_object(path: Path) -> tuple[DicomObject, Dataset]:
    """One DICOM file: the object and its whole dataset. Raises UsageError if it is not there, InputError if no DICOM."""
    if not path.is_file():
        raise UsageError("no such file", file=path)
    content = _read(path)
    item = _object(str(path), path, content)
    if item is None:
        raise InputError("is not a DICOM object", file=path)
    return item, _parse(content, str(path), pixels=True)


def _contents(paths: Sequence[Path]) -> Iterator[tuple[str, Path, bytes]]:
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
        elif path.exists():
            files = [path]
        else:
            raise UsageError("no such file or folder", file=path)
        for file in sorted(files):
            real = file.resolve()
            if real in seen or not file.is_file():
                continue
            seen.add(real)
            if file == path and zipfile.is_zipfile(file):
                yield from _zip_contents(file)
            else:
                yield str(file), file, _read(file, head_only_if_foreign=True)


def _zip_contents(path: Path) -> Iterator[tuple[str, Path, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) > MAX_ZIP_MEMBERS:
                raise InputError(f"the zip has {len(members)} members, at most {MAX_ZIP_MEMBERS} are read", file=path)
            left = MAX_ZIP_BYTES
            for member in sorted(members, key=lambda item: item.filename):
                _check_member(path, member)
                with archive.open(member) as stream:
                    content = stream.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise InputError(f"the zip unpacks to more than {MAX_ZIP_BYTES // 1024**3} GiB", file=path)
                if content[:4] == b"PK\x03\x04":
                    raise InputError(f"the zip holds another zip ('{member.filename}'): unpack it first", file=path)
                yield f"{path}/{member.filename}", path, content
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise InputError(f"the zip cannot be read: {error}", file=path) from error


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    mode = member.external_attr >> 16
    if name.startswith("/") or ".." in PurePosixPath(name).parts or ":" in name.split("/")[0]:
        raise InputError(f"the zip has an unsafe member name '{member.filename}'", file=path)
    if stat.S_ISLNK(mode):
        raise InputError(f"the zip holds a link, '{member.filename}'", file=path)
    if member.flag_bits & 1:
        raise InputError("the zip is encrypted", file=path)


def _read(path: Path, *, head_only_if_foreign: bool = False) -> bytes:
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
            if head_only_if_foreign and not _looks_like_dicom(head):
                return head
            return head + stream.read()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", file=path) from error


def _looks_like_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM" or head.startswith(_BARE_STARTS)


def _object(file: str, path: Path, content: bytes) -> DicomObject | None:
    if not _looks_like_dicom(content[:132]):
        return None
    certain = content[128:132] == b"DICM"
    try:
        header = _parse(content, file, pixels=False)
    except InputError:
        if certain:
            raise
        return None
    meta = getattr(header, "file_meta", None)
    if meta is not None and str(meta.get("MediaStorageSOPClassUID", "")) == "1.2.840.10008.1.3.10":
        return None  # a DICOMDIR lists files, it is no object of the study
    if not header.get("SOPInstanceUID"):
        if certain:
            raise InputError("is missing", file=file, tag="SOPInstanceUID (0008,0018)")
        return None
    return DicomObject(file, hashlib.sha256(content).hexdigest(), header, path, None if str(path) == file else content)


def _parse(content: bytes, file: str, *, pixels: bool) -> Dataset:
    try:
        with pydicom_silenced():
            dataset = pydicom.dcmread(io.BytesIO(content), force=True, stop_before_pixels=not pixels)
            whole = _is_whole(dataset, len(content) if pixels else None)
    except Exception as error:  # pydicom raises what its parser stumbles over
        raise InputError(f"the DICOM file is damaged or cut short ({type(error).__name__})", file=file) from error
    if not whole:
        raise InputError("the DICOM file is cut short", file=file)
    return dataset


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
    meta = getattr(dataset, "file_meta", None)
    deflated = meta is not None and meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if size is None or last is None or deflated:
        return True
    return not 0 < size - (last.value_tell + last.length) < _ELEMENT_HEADER_BYTES
