"""From a worker's folder to the outbox, and from the inbox to where processed input lies: each step can be done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dicomplan.jobs.contents import file_sha256
from dicomplan.jobs.durable import remove, set_modes, sync, write_document
from dicomplan.jobs.scan import READY_FILE, SERVICE_FOLDER
from dicomplan.jobs.values import Job
from dicomplan.jobs.worker import RESULT_FOLDER

PROCESSED, REFUSED = "processed", "refused"
REASON_FILE = "reason.json"
_SHARED_MODE = 0o700


def service_folder(place: Path) -> Path:
    """``PLACE/.dicomplan``, made if absent. Raises OSError."""
    folder = place / SERVICE_FOLDER
    folder.mkdir(mode=_SHARED_MODE, exist_ok=True)
    return folder


def attempts_folder(outbox: Path, job: str) -> Path:
    """Where the attempts of a job build their results."""
    return outbox / SERVICE_FOLDER / job


def new_attempt(outbox: Path, job: str, owner: str) -> Path:
    """A new folder for one attempt of a job; earlier ones are removed. Raises OSError."""
    folder = service_folder(outbox) / job
    remove(folder)
    attempt = folder / owner.replace("/", "_")
    attempt.mkdir(parents=True, mode=_SHARED_MODE)
    return attempt


def is_published(outbox: Path, job: str) -> bool:
    """Whether the result of a job is in its place: it comes there whole or not at all."""
    return (outbox / job / "plan.json").is_file()


def publish(outbox: Path, job: str, attempt: Path, mode: int) -> bool:
    """Put the finished result of an attempt in its place, durably. False if there is none.

    The worker has synced its files. One that is already there (a crash came between here and the store) stays.
    Raises OSError.
    """
    result = attempt / RESULT_FOLDER
    if not is_published(outbox, job):
        if not (result / "plan.json").is_file():
            return False
        set_modes(result, mode)
        sync(result)
        os.rename(result, outbox / job)
    sync(outbox)
    sync(outbox / SERVICE_FOLDER)
    return True


def finished_attempt(outbox: Path, job: str) -> Path | None:
    """An attempt of a job whose result is whole: its service died before it could be put in place."""
    folder = attempts_folder(outbox, job)
    for attempt in sorted(folder.glob("*")):
        if (attempt / RESULT_FOLDER / "plan.json").is_file():
            return attempt
    return None


def plan_status(outbox: Path, job: str) -> str | None:
    """``status`` of a published result."""
    try:
        document = json.loads((outbox / job / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(document.get("status", "")) or None


def clear_attempts(outbox: Path, job: str) -> None:
    """Remove what attempts of a job left in the service's folder."""
    remove(attempts_folder(outbox, job))


# Input


def input_folder(inbox: Path, job: Job) -> Path:
    """Where the input of an ended job lies: ``processed`` for those that were planned, ``refused`` for all others."""
    return inbox / SERVICE_FOLDER / (PROCESSED if job.state == "done" else REFUSED) / job.id


def input_folders(inbox: Path, job: str) -> Iterable[Path]:
    """The folders in which input of a job may lie."""
    return [inbox / SERVICE_FOLDER / kind / job for kind in (PROCESSED, REFUSED)]


def move_input(inbox: Path, job: Job, name: str, sha256: str) -> bool:
    """Move one file of the inbox to its job's input folder, under the name it had. False if it is gone.

    A file of that name that is there already is replaced if it is the same, else the new one gets a number.
    Raises OSError.
    """
    target = input_folder(inbox, job) / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=_SHARED_MODE)
    number = 1
    while target.exists() and file_sha256(target) != sha256:
        number += 1
        path = Path(name)
        target = input_folder(inbox, job) / path.with_name(f"{path.stem}~{number}{path.suffix}")
    try:
        os.rename(inbox / name, target)
    except FileNotFoundError:
        return False
    return True


def write_reason(inbox: Path, job: Job) -> None:
    """Say beside the moved input how its job ended. Raises OSError."""
    folder = input_folder(inbox, job)
    folder.mkdir(parents=True, exist_ok=True, mode=_SHARED_MODE)
    document: Mapping[str, object] = {
        "schema": 1,
        "job": job.id,
        "state": job.state,
        "plan_status": job.plan_status,
        "reason": job.error,
        "output": job.output,
    }
    write_document(folder / REASON_FILE, document)
    sync(folder.parent)


def clear_unfinished(inbox: Path) -> None:
    """Remove documents that a crash left half-written in the service's folder. Raises OSError."""
    for pattern in (".*.tmp", f"{PROCESSED}/*/.*.tmp", f"{REFUSED}/*/.*.tmp"):
        for path in (inbox / SERVICE_FOLDER).glob(pattern):
            path.unlink(missing_ok=True)


def clear_folder(inbox: Path, folder: str) -> None:
    """Remove a folder of the inbox that holds nothing (but a ``.ready`` file, which goes with its study)."""
    path = inbox / folder
    try:
        names = os.listdir(path)
        if names == [READY_FILE]:
            os.unlink(path / READY_FILE)
        elif names:
            return
        os.rmdir(path)
    except OSError:
        return  # somebody writes there, or it is gone
