"""``dicomplan jobs``: look at the jobs of the folder service, and cancel or retry them."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dicomplan.cli.options import Commands, Parser
from dicomplan.cli.session import Session, printable, table
from dicomplan.errors import UsageError

if TYPE_CHECKING:
    from dicomplan.jobs.store import JobStore
    from dicomplan.jobs.values import Job

_STATES = ("received", "waiting", "running", "done", "failed", "refused", "cancelled", "superseded")


def add(commands: Commands) -> None:
    """Add the command ``jobs`` and its actions to the command line."""
    actions = Commands(commands.add("jobs", "list, show, retry and cancel jobs of the folder service"), "actions")
    listing = actions.add("list", "list all jobs, the oldest first", list_jobs)
    listing.add_argument(
        "--state", action="append", choices=_STATES, help="only jobs in this state; may be given again"
    )
    _add_store(listing)
    for name, text, run in (
        ("show", "show one job, its inputs and what was sent of it", show_job),
        ("retry", "let a failed or cancelled job run again", retry_job),
        ("cancel", "cancel a job that has not ended", cancel_job),
    ):
        parser = actions.add(name, text, run)
        parser.add_argument("job", metavar="JOB", help="the job's identifier, or its first digits")
        _add_store(parser)


def _add_store(parser: Parser) -> None:
    parser.add_argument("--store", metavar="FILE", help="job store (default: below $XDG_STATE_HOME/dicomplan)")


def _open(options: argparse.Namespace) -> JobStore:
    from dicomplan.jobs.store import JobStore
    from dicomplan.jobs.store_place import default_store

    return JobStore(Path(options.store) if options.store else default_store(), must_exist=True)


def list_jobs(options: argparse.Namespace, session: Session) -> int:
    """Print all jobs."""
    with _open(options) as store:
        jobs = store.jobs(options.state or ())
    rows = [("job", "state", "plan", "attempts", "received", "error or output")]
    rows += [
        (
            job.id,
            job.state,
            job.plan_status or "-",
            str(job.attempts),
            _time(job.received_s),
            job.error or job.output or "",
        )
        for job in jobs
    ]
    text = table(rows) if jobs else "no jobs"
    session.result(text, {"schema": 1, "jobs": [job.document() for job in jobs]})
    return 0


def show_job(options: argparse.Namespace, session: Session) -> int:
    """Print one job."""
    with _open(options) as store:
        job = store.job(options.job)
        files, sent = store.files(job.id), store.handovers(job.id)
    document = {
        **job.document(),
        "exit_code": job.exit_code,
        "inputs": [{"sop_instance_uid": one.uid, "sha256": one.sha256, "kind": one.kind} for one in files],
        "handovers": [
            {"destination": one.destination, "file": one.file, "sop_instance_uid": one.uid, "sent": one.sent}
            | {"status": one.status, "attempts": one.attempts}
            for one in sent
        ],
    }
    rows = [_row(key, value) for key, value in job.document().items() if value is not None]
    kinds = sorted({one.kind for one in files})
    rows.append(("inputs", ", ".join(f"{sum(one.kind == kind for one in files)} {kind}" for kind in kinds)))
    rows += [(f"{one.file} to {one.destination}", printable(one.status)) for one in sent]
    session.result(table(rows), {"schema": 1, "job": document})
    return 0


def retry_job(options: argparse.Namespace, session: Session) -> int:
    """Let a job run again. Raises UsageError (2) where its state forbids it."""
    with _open(options) as store:
        job = store.job(options.job)
        if not store.retry(job.id):
            hint = "hand the study in again under `watch --replan`" if job.is_final else "it has not ended"
            raise UsageError(f"the job is {job.state}: only failed and cancelled jobs are tried again", hint=hint)
        job = store.job(job.id)
    return _told(job, session)


def cancel_job(options: argparse.Namespace, session: Session) -> int:
    """Cancel a job; the watcher that runs it stops its worker. Raises UsageError (2) if it has ended."""
    with _open(options) as store:
        job = store.job(options.job)
        if not store.cancel(job.id):
            raise UsageError(f"the job is {store.job(job.id).state}: it has ended already")
        job = store.job(job.id)
    return _told(job, session)


def _told(job: Job, session: Session) -> int:
    session.result(f"{job.id}: {job.state}", {"schema": 1, "job": job.document()})
    return 0


def _row(key: str, value: object) -> tuple[str, str]:
    if key.endswith("_s") and isinstance(value, int | float):
        return key.removesuffix("_s"), _time(value)
    if isinstance(value, bool):
        return key.replace("_", " "), "yes" if value else "no"
    return key.replace("_", " "), printable(str(value))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
