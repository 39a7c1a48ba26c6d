"""Accepting a job: a private copy of its input, verified byte by byte, with template and machine beside it.

The copy is a stored (uncompressed) zip, or several of a large study: a file for each slice would be synced and removed
one by one, which takes longer than all the rest of accepting a study.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomplan.dicom.files import scan_study
from dicomplan.errors import DicomplanError
from dicomplan.jobs.durable import remove, sync, write_document
from dicomplan.jobs.owner import is_alive
from dicomplan.jobs.readiness import Present

JOB_FILE = "job.json"
"""What a worker reads of its job."""
_INPUT_PATTERN = "input-*.zip"
_ZIP_BYTES, _ZIP_MEMBERS = (
    1024**3,
    10_000,
)  # what a zip holds before the next one begins; the reader takes up to four times
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
    partial.mkdir(parents=True, mode=0o700)
    try:
        written = _copy_objects(inbox, objects, partial)
        for name, text in files.items():
            path = partial / name
            path.write_text(text, encoding="utf-8")
            written.append(path)
        write_document(partial / JOB_FILE, {"schema": 1, "id": job, "received_s": received_s})
        for path in written:
            sync(path)
        sync(partial)
    except BaseException:
        remove(partial)
        raise
    return Copied(partial, work / job)


def input_paths(job_folder: Path) -> tuple[Path, ...]:
    """The private copy of a job's input; jobs that were accepted before there were zips have it file by file."""
    return tuple(sorted(job_folder.glob(_INPUT_PATTERN))) or (job_folder / "input",)


def _copy_objects(inbox: Path, objects: Sequence[Present], folder: Path) -> list[Path]:
    by_file: dict[str, list[Present]] = {}
    for one in sorted(objects, key=lambda item: item.content.uid):
        by_file.setdefault(one.path, []).append(one)
    verified = _verified(inbox, by_file)
    written: list[Path] = []
    data = next(verified, None)
    while data is not None:
        written.append(folder / _INPUT_PATTERN.replace("*", f"{len(written) + 1:03d}"))
        count = size = 0
        with zipfile.ZipFile(written[-1], "w", zipfile.ZIP_STORED) as archive:
            while data is not None and (not count or (count < _ZIP_MEMBERS and size + len(data) <= _ZIP_BYTES)):
                count, size = count + 1, size + len(data)
                archive.writestr(zipfile.ZipInfo(f"{count:05d}.dcm"), data)
                data = next(verified, None)
    return written


def _verified(inbox: Path, by_file: Mapping[str, Sequence[Present]]) -> Iterator[bytes]:
    for name, members in by_file.items():
        for data, one in _bytes_of(inbox / name, members):
            if hashlib.sha256(data).hexdigest() != one.content.sha256:
                raise ChangedError
            yield data


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
