"""Input of ended jobs moves out of the inbox, and what crashes left half-made goes: each step can be done twice."""

from __future__ import annotations

import contextlib
import os
import time

from dicomplan.jobs import delivering
from dicomplan.jobs.accepting import sweep_partial
from dicomplan.jobs.durable import FAILING, remove
from dicomplan.jobs.inbox import Inbox
from dicomplan.jobs.places import PROBE_PREFIX
from dicomplan.jobs.settings import Settings
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.values import Job

_EMPTY_FOLDER_S = 600.0
_KEPT_COPIES = ("received", "waiting", "running", "failed", "cancelled")
"""States of jobs that may still run: their private copies stay."""


def move_inputs(settings: Settings, store: JobStore, inbox: Inbox, known: set[str]) -> int:
    """Move the input of ended jobs out of the inbox, once their end is in the store; the number of files that stay.

    Those are in folders that may not be written, or on another file system; they are remembered, as with --keep-input,
    and tried again. ``known``: hashes of files that are inputs of jobs. Raises OSError for a disk that is full or fails.
    """
    outbox = str(settings.outbox)
    unmoved = {job.id: job for job in store.unmoved(outbox) if job.inbox == str(settings.inbox)}
    left: set[str] = set()
    moved: dict[str, Job] = {}
    stay = 0
    for name, one in list(inbox.index.items()):
        if one.sha256 not in known and one.error is None:
            continue
        of_file = [job for job in store.of_file(one.sha256, outbox) if job.state != "superseded"]
        if not of_file:
            continue
        if any(not job.is_final for job in of_file):
            left.update(job.id for job in of_file)
            continue
        try:
            if delivering.move_input(settings.inbox, of_file[-1], name, one.sha256):
                moved[of_file[-1].id] = of_file[-1]
        except OSError as error:
            if error.errno in FAILING:
                raise
            stay += 1
            left.update(job.id for job in of_file)
            continue
        inbox.forget(name)
    for job in moved.values():
        delivering.write_reason(settings.inbox, job)
    if moved:
        inbox.forget_recalled()
    _clear_folders(settings, inbox)
    if not inbox.is_read():
        return stay  # some files have not been looked at: they may belong to these jobs
    for job in unmoved.values():
        if job.id not in left:
            if job.state != "superseded" and job.id not in moved:
                delivering.write_reason(settings.inbox, job)
            store.set_moved(job.id)
    return stay


def _clear_folders(settings: Settings, inbox: Inbox) -> None:
    """Remove folders that have been empty for some time; a writer may just have made a younger one."""
    for folder in inbox.empty_folders:
        with contextlib.suppress(OSError):
            age = time.time() - os.stat(settings.inbox / folder).st_mtime
            if age > max(_EMPTY_FOLDER_S, 10 * settings.waits.quiet_s):
                delivering.clear_folder(settings.inbox, folder)


def sweep(settings: Settings, store: JobStore) -> None:
    """Remove what crashes left half-made: copies, attempts of jobs that have ended or do not run."""
    sweep_partial(settings.work)
    with contextlib.suppress(OSError):
        by_id = {job.id: job for job in store.jobs()}
        for path in settings.work.iterdir():
            job = by_id.get(path.name)
            if job is not None and job.state not in _KEPT_COPIES:
                remove(path)
        delivering.clear_unfinished(settings.inbox)
        for path in delivering.service_folder(settings.outbox).iterdir():
            if path.name.startswith(PROBE_PREFIX):
                path.unlink()
            job = by_id.get(path.name)
            if job is not None and job.state != "running":
                remove(path)
