"""What a job is: its states, its key, its record in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["received", "waiting", "running", "done", "failed", "refused", "cancelled", "superseded"]

STATES: tuple[State, ...] = (
    "received",
    "waiting",
    "running",
    "done",
    "failed",
    "refused",
    "cancelled",
    "superseded",
)
"""All states of a job. ``received``: accepted, never tried; ``waiting``: to be tried again; the last five are final."""
ACTIVE: tuple[State, ...] = ("received", "waiting", "running")
"""States of a job that still has to end."""
MAX_ATTEMPTS = 3
"""Deaths of its worker after which a job has failed."""


@dataclass(frozen=True)
class JobFile:
    """One input of a job: SOP instance UID, SHA-256 of the object, modality, and SHA-256 of the file it came in.

    ``container_sha256`` differs from ``sha256`` for a member of a zip. ``planned_on``: part of the job's key and of its
    private copy; the others only move with it. ``size`` in bytes.
    """

    uid: str
    sha256: str
    kind: str
    container_sha256: str
    size: int
    planned_on: bool = True


@dataclass(frozen=True)
class NewJob:
    """A job to be stored. ``received_s``: time of receipt, seconds since 1970: the creation time of all its outputs.

    ``config``: hash of templates, machines, rules and version that the watcher ran with. ``generation``: 0, and one more
    for each time that the same key was planned again on purpose. ``memory_bytes`` and ``disk_bytes`` are estimates.
    ``follows``: the job that an input arriving late made out of date.
    """

    id: str
    key: str
    generation: int
    config: str
    inbox: str
    outbox: str
    template: str
    version: str
    received_s: int
    structure_set_uid: str
    series_uid: str
    memory_bytes: int = 0
    disk_bytes: int = 0
    follows: str | None = None
    state: State = "received"
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job(NewJob):
    """A job as the store holds it. Times are seconds since 1970; ``owner`` holds the lease of a running job."""

    superseded_by: str | None
    plan_status: str | None
    exit_code: int | None
    attempts: int
    owner: str | None
    lease_until_s: float
    not_before_s: float
    started_s: float | None
    ended_s: float | None
    moved: bool
    handed_over: bool

    @property
    def output(self) -> str | None:
        """Folder of the result; None while there is none."""
        return f"{self.outbox}/{self.id}" if self.state == "done" else None

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in ACTIVE

    def document(self) -> dict[str, object]:
        """The job as ``jobs list --json`` prints it."""
        return {
            "id": self.id,
            "state": self.state,
            "plan_status": self.plan_status,
            "attempts": self.attempts,
            "error": self.error,
            "output": self.output,
            "template": self.template,
            "version": self.version,
            "received_s": self.received_s,
            "started_s": self.started_s,
            "ended_s": self.ended_s,
            "follows": self.follows,
            "superseded_by": self.superseded_by,
            "handed_over": self.handed_over,
        }


def job_key(files: Iterable[JobFile], template_sha256: str, machine_sha256: str, version: str) -> str:
    """The key that a job runs once for: its inputs in any order, template, machine and version; hexadecimal SHA-256."""
    inputs = sorted({(item.uid, item.sha256) for item in files if item.planned_on})
    return digest([inputs, template_sha256, machine_sha256, version])


def job_id(key: str, outbox: str, generation: int) -> str:
    """The name of a job, its result folder and its input folder: 16 hexadecimal digits."""
    return digest([key, outbox, generation])[:16]


def digest(value: object) -> str:
    """Hexadecimal SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
