"""Accepting a job: a private copy of its input, verified byte by byte, with template and machine beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomplan.dicom.files import scan_study
from dicomplan.errors import DicomplanError
from dicomplan.jobs.durable import remove, sync, write_document
from dicomplan.jobs.owner import is_alive
from dicomplan.jobs.readiness import Present

JOB_FILE = "job.json"
"""What a worker reads of its job."""
INPUT_FOLDER = "input"
_PARTIAL = ".partial-"


class ChangedError(Exception):
    """A file changed between being looked at and being copied: it is looked at again."""


@dataclass(frozen=True)
class Copied:
    """A private copy that is complete, and the place it will have once the job is in the store."""

    partial: Path
    target: Path

    def put_in_place(self) -> None:
        """Rename it to its place; what a crash left there is removed first. Raises OSError."""
        remove(self.target)
        os.rename(self.partial, self.target)
        sync(self.target.parent)


def copy_input(
    work: Path, job: str, owner: str, inbox: Path, objects: Sequence[Present], files: Mapping[str, str], received_s: int
) -> Copied:
    """Copy a job's objects and recipe below ``work``. Files are numbered: their names say nothing of the patient.

    Raises ChangedError where a file is not what it was when it was looked at, OSError where it cannot be written.
    """
    partial = work / f"{_PARTIAL}{job}-{owner.replace('/', '_')}"
    remove(partial)
    folder = partial / INPUT_FOLDER
    folder.mkdir(parents=True, mode=0o700)
    try:
        written = _copy_objects(inbox, objects, folder)
        for name, text in files.items():
            path = partial / name
            path.write_text(text, encoding="utf-8")
            written.append(path)
        write_document(partial / JOB_FILE, {"schema": 1, "id": job, "received_s": received_s})
        for path in written:
            sync(path)
        sync(folder)
        sync(partial)
    except BaseException:
        remove(partial)
        raise
    return Copied(partial, work / job)


def _copy_objects(inbox: Path, objects: Sequence[Present], folder: Path) -> list[Path]:
    by_file: dict[str, list[Present]] = {}
    for one in sorted(objects, key=lambda item: item.content.uid):
        by_file.setdefault(one.path, []).append(one)
    written: list[Path] = []
    for name, members in by_file.items():
        for data, one in _bytes_of(inbox / name, members):
            if hashlib.sha256(data).hexdigest() != one.content.sha256:
                raise ChangedError
            path = folder / f"{len(written) + 1:05d}.dcm"
            path.write_bytes(data)
            written.append(path)
    return written


def _bytes_of(path: Path, members: Sequence[Present]) -> list[tuple[bytes, Present]]:
    try:
        if not members[0].in_zip:
            return [(path.read_bytes(), one) for one in members]
        by_uid = {item.uid: item for item in scan_study([path]).objects}
        return [(by_uid[one.content.uid].source.read(), one) for one in members]
    except (DicomplanError, KeyError, OSError) as error:
        raise ChangedError from error


def sweep_partial(work: Path) -> None:
    """Remove the copies that a crash left half-made; those of living watchers stay."""
    for path in work.glob(f"{_PARTIAL}*"):
        owner = path.name.removeprefix(_PARTIAL).partition("-")[2]
        if is_alive(owner) is not True:
            remove(path)
