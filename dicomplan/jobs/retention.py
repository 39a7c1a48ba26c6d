"""What may be removed after some time: off by default, and never a result that nobody has taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dicomplan.jobs.delivering import input_folders
from dicomplan.jobs.durable import remove
from dicomplan.jobs.store import JobStore

_DAY_S = 86400.0


@dataclass(frozen=True)
class Retention:
    """Days after the end of a job until its moved input and its result go; None: never.

    A result only goes once it was handed over completely. The job's record stays: it is what keeps the job from running
    a second time.
    """

    processed_days: float | None = None
    refused_days: float | None = None
    results_days: float | None = None


def apply_retention(rules: Retention, store: JobStore, outbox: str, now_s: float) -> Iterator[tuple[str, str]]:
    """Remove what the rules let go; yields job and what was removed. ``now_s``: seconds since 1970."""
    if rules == Retention():
        return
    for job in store.jobs(outbox=outbox):
        if not job.is_final or job.ended_s is None:
            continue
        days = (now_s - job.ended_s) / _DAY_S
        limit = rules.processed_days if job.state == "done" else rules.refused_days
        if limit is not None and days > limit and job.moved:
            for folder in input_folders(Path(job.inbox), job.id):
                if folder.exists() and remove(folder):
                    yield job.id, "input"
        delivered = job.state == "done" and job.handed_over
        result = Path(outbox) / job.id
        if rules.results_days is not None and days > rules.results_days and delivered and result.exists():
            remove(result)
            yield job.id, "result"
