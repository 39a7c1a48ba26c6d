"""Where results go: ``AE@HOST:PORT`` (DICOM C-STORE) or an http address (STOW-RS); and which files, in which order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dicomplan.dicom.files import pydicom_silenced
from dicomplan.errors import InputError, UsageError

_ORDER = ("RTSTRUCT.dcm", "RTPLAN.dcm", "failed/RTPLAN.dcm", "RTDOSE.dcm")
_AE = re.compile(r"(?P<title>[ -~]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@/\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Destination:
    """A receiver: application entity title, host and port (C-STORE), or ``url`` (STOW-RS)."""

    text: str
    title: str = ""
    host: str = ""
    port: int = 0
    url: str = ""


@dataclass(frozen=True)
class ResultFile:
    """One DICOM file to be sent: its path, its name within the result, its identifiers."""

    path: Path
    name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str


@dataclass(frozen=True)
class Sent:
    """How sending one file ended: whether it was taken, the receiver's status (or why there is none), tries."""

    file: ResultFile
    taken: bool
    status: str
    attempts: int


Report = Callable[[Sent], None]


def destination(text: str) -> Destination:
    """The destination of ``AE@HOST:PORT`` or ``http(s)://...``. Raises UsageError."""
    if re.match(r"https?://", text):
        return Destination(text, url=text.rstrip("/"))
    match = _AE.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536 or not match["title"].strip() or "\\" in match["title"]:
        raise UsageError(f"'{text}' is no destination", hint="write AE@HOST:PORT, or an http address for STOW-RS")
    return Destination(text, match["title"].strip(), match["host"].strip("[]"), int(match["port"]))


def result_files(path: Path, *, include_failed: bool = False) -> tuple[tuple[ResultFile, ...], int]:
    """The files of a result folder in the order RTSTRUCT, RTPLAN, RTDOSE, and how many were left out as failed.

    A failed plan and its doses are left out unless ``include_failed``. A single DICOM file is sent as it is.
    Raises UsageError where there is nothing to send, InputError for a file that is no DICOM.
    """
    if path.is_file():
        return (_result_file(path, path.name),), 0
    names = [name for name in _ORDER if (path / name).is_file()]
    names += sorted(item.name for item in path.glob("RTDOSE_*.dcm"))
    if not names:
        raise UsageError("there is no RTSTRUCT.dcm, RTPLAN.dcm or RTDOSE.dcm to send", file=path)
    left: list[str] = []
    if _is_failed(path) and not include_failed:
        left = [name for name in names if name != "RTSTRUCT.dcm"]
    return tuple(_result_file(path / name, name) for name in names if name not in left), len(left)


def _is_failed(path: Path) -> bool:
    try:
        status = json.loads((path / "plan.json").read_text(encoding="utf-8")).get("status")
    except (OSError, ValueError, AttributeError):
        status = None
    return status == "failed" or (path / "failed").is_dir()


@pydicom_silenced()
def _result_file(path: Path, name: str) -> ResultFile:
    import pydicom

    try:
        dataset = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
        )
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        return ResultFile(
            path,
            name,
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
            syntax,
            str(dataset.get("StudyInstanceUID", "")),
        )
    except (pydicom.errors.InvalidDicomError, AttributeError) as error:
        raise InputError("is not a DICOM file", file=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", file=path) from error
