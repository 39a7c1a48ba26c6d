"""From the job store to the outbox: jobs start, end, die, are handed back and taken over."""

from __future__ import annotations

from pathlib import Path

from dicomplan.jobs import delivering
from dicomplan.jobs.durable import remove
from dicomplan.jobs.owner import is_alive
from dicomplan.jobs.pool import Ended, Pool
from dicomplan.jobs.service_part import ServicePart, Shared
from dicomplan.jobs.trouble import PAUSE_S
from dicomplan.jobs.worker import EXIT_NO_PLACE

LEASE_S = 60.0
"""Length of a lease; it is renewed every quarter of it."""
MOST_BACK_OFF_S = 3600.0
"""Longest wait between two tries."""


class Runner(ServicePart):
    """Runs the jobs of a store, each exactly once, and puts their results in their place."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        settings = shared.settings
        self.pool = Pool(settings.workers, settings.threads, settings.memory_bytes, settings.timeout_s, settings.worker)
        self._ended: list[Ended] = []
        self._next_renewal_s = 0.0

    def start(self) -> None:
        """Start the jobs that may start and that there is room for."""
        if not self._troubles.may_start:
            return
        for job in self._store.claimable(self._outbox):
            if not self.pool.has_room(job):
                break
            folder = self._settings.work / job.id
            if not self._places.have_room(job.disk_bytes):
                break
            if not self._store.claim(job.id, self._owner, LEASE_S):
                continue
            if not folder.is_dir():
                self._store.end(job.id, self._owner, "failed", error="its private copy is gone")
                continue
            try:
                attempt = delivering.new_attempt(self._settings.outbox, job.id, self._owner)
                self.pool.start(job, folder, attempt)
            except BaseException:
                self._store.hand_back(job.id, self._owner)
                raise
            self._log.write("info", "started", job=job.id, attempt=job.attempts + 1)

    def reap(self) -> None:
        """Deal with the workers that ended."""
        self._ended += self.pool.reap()
        while self._ended:
            self._end(self._ended[0])  # stays in the list until it is dealt with
            self._ended.pop(0)

    def _end(self, ended: Ended) -> None:
        self._gauges.note_duration(ended.seconds)
        job, code = ended.job, ended.exit_code
        if ended.kind == "disk_full":
            self._troubles.note("disk", "disk full")
            self._troubles.pause()
            self._store.hand_back(job, self._owner, delay_s=PAUSE_S)
        elif code in (2, EXIT_NO_PLACE) and (problem := self._places.probe_outbox()) is not None:
            # a place that cannot be written: nothing is wrong with the job
            self._troubles.note("outbox", problem)
            self._store.hand_back(job, self._owner, delay_s=PAUSE_S)
        elif ended.kind == "outcome" and code in (0, 5, 6):
            if job in self._store.held(self._owner):
                self._publish(job, ended.folder, code)
        elif ended.kind == "outcome" and code in (3, 4):
            if self._store.end(job, self._owner, "refused", exit_code=code, error=ended.error):
                self._log.write("warning", "refused", job=job, reason=ended.error)
        else:
            self._gauges.deaths += 1
            self._died(job, ended)
        delivering.clear_attempts(self._settings.outbox, job)
        if self._store.job(job).state in ("done", "refused", "superseded"):
            remove(self._settings.work / job)

    def _died(self, job: str, ended: Ended) -> None:
        attempts = self._store.job(job).attempts
        delay = min(self._settings.retry_s * 4**attempts, MOST_BACK_OFF_S)
        error = ended.error or "the worker ended for no stated reason"
        state = self._store.died(job, self._owner, error, delay_s=delay, exit_code=ended.exit_code)
        if state is not None:
            level = "error" if state == "failed" else "warning"
            self._log.write(level, state, job=job, attempts=attempts + 1, reason=error)

    def _publish(self, job: str, attempt: Path, code: int | None) -> None:
        outbox = self._settings.outbox
        if not delivering.publish(outbox, job, attempt, self._settings.mode):
            error = "the worker left no result"
            self._store.died(job, self._owner, error, delay_s=self._settings.retry_s)
            return
        status = delivering.plan_status(outbox, job)
        if code is None:
            code = {"accepted": 0, "failed": 5, "not_deliverable": 6}.get(status or "", 0)
        if not self._store.end(job, self._owner, "done", exit_code=code, plan_status=status):
            if self._store.job(job).state in ("cancelled", "superseded"):
                remove(outbox / job)  # it was cancelled in the moment between
            return
        self._log.write("info", "done", job=job, plan_status=status, output=f"{outbox}/{job}")

    def renew(self, now_s: float) -> None:
        """Renew the leases, and stop workers of jobs that were cancelled or superseded."""
        stamp = self._store.stamp()
        if now_s >= self._next_renewal_s:
            held = self._store.renew(self._owner, LEASE_S)
            self._next_renewal_s = now_s + LEASE_S / 4
        elif self.pool.jobs and stamp != self._stamp:
            held = self._store.held(self._owner)
        else:
            return
        self._stamp = stamp
        for job in self.pool.jobs:
            if job not in held:
                self.pool.stop(job)
                delivering.clear_attempts(self._settings.outbox, job)
                if self._store.job(job).state == "superseded":
                    remove(self._settings.work / job)
                self._log.write("info", "stopped", job=job, state=self._store.job(job).state)

    def take_back(self) -> None:
        """Jobs whose watcher is gone: what it had finished is handed over, the rest runs again at no cost."""
        for job in self._store.orphaned(is_alive, self._outbox):
            if not self._store.adopt(job, self._owner, LEASE_S):
                continue
            outbox = self._settings.outbox
            attempt = delivering.finished_attempt(outbox, job.id)
            try:
                if delivering.is_published(outbox, job.id) or attempt is not None:
                    self._publish(job.id, attempt or outbox, None)
                    remove(self._settings.work / job.id)
                else:
                    self._store.hand_back(job.id, self._owner)
                    self._log.write("info", "handed_back", job=job.id)
                delivering.clear_attempts(outbox, job.id)
            except BaseException:
                self._store.hand_back(job.id, self._owner)
                raise

    def hand_back_all(self) -> None:
        """Stop the workers and hand their jobs back: no attempt is counted, nothing is half-written."""
        for job, _ in self.pool.stop_all():
            with self._troubles.watching("store"):
                self._store.hand_back(job, self._owner)
                delivering.clear_attempts(self._settings.outbox, job)
                self._log.write("info", "handed_back", job=job)
