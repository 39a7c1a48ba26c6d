"""The watch service: one loop that scans, accepts, runs, hands over and clears up, each step safe to be done again."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dicomplan import __version__
from dicomplan.jobs import delivering, estimates
from dicomplan.jobs.accepting import ChangedError, copy_input, sweep_partial
from dicomplan.jobs.contents import Content
from dicomplan.jobs.durable import DISK_FULL, NO_PLACE, remove
from dicomplan.jobs.first_seen import Moment, elapsed_s, present_moment
from dicomplan.jobs.health import Gauges
from dicomplan.jobs.inbox import Inbox
from dicomplan.jobs.inbox_lock import InboxLock
from dicomplan.jobs.owner import is_alive, this_owner
from dicomplan.jobs.pool import WORKER, Ended, Pool
from dicomplan.jobs.readiness import Present, Ready, Refused, Waits, decide
from dicomplan.jobs.retention import Retention, apply_retention
from dicomplan.jobs.rules import Rule, Rules
from dicomplan.jobs.scan import SERVICE_FOLDER
from dicomplan.jobs.service_log import ServiceLog
from dicomplan.jobs.store import JobStore
from dicomplan.jobs.values import ACTIVE, Job, JobFile, NewJob, job_id, job_key
from dicomplan.jobs.worker import EXIT_NO_PLACE

LEASE_S = 60.0
"""Length of a lease; it is renewed every quarter of it."""
_LOOK_S = 2.0  # reading new files is interrupted after this, so that jobs start and end meanwhile
_FULL_PAUSE_S = 5.0
_MOST_BACK_OFF_S = 3600.0
_EMPTY_FOLDER_S = 600.0
_WORKER_TICK_S = 0.2
_LONGEST_POLL_S = 60.0
_BEAT_EVERY_S = 5.0
_PROBE_EVERY_S = 15.0
_RETENTION_EVERY_S = 3600.0
_UNLISTED = "folders"
"""Trouble that makes health fail and holds nothing up: a part of the inbox cannot be seen."""

HandOver = Callable[[JobStore, Job], bool]
"""Sends the result of a job; whether everything was taken. Called in a thread of its own, with a store of its own."""


@dataclass(frozen=True, eq=False)
class Settings:
    """What a watcher runs with. Seconds and bytes; ``mode``: that of result folders; ``receipt``: the time of receipt,
    seconds since 1970; ``moment``: the present, for waits that outlast the service; ``hand_over``: sends results (None:
    nobody is sent any)."""

    inbox: Path
    outbox: Path
    store: Path
    rules: Rules
    waits: Waits = field(default_factory=Waits)
    workers: int = 1
    threads: int = 1
    memory_bytes: int | None = None
    timeout_s: float = 7200.0
    retry_s: float = 30.0
    poll_s: float = 5.0
    min_free_bytes: int = 200_000_000
    grace_s: float = 20.0
    keep_input: bool = False
    replan: bool = False
    mode: int = 0o700
    retention: Retention = field(default_factory=Retention)
    worker: Sequence[str] = WORKER
    receipt: Callable[[], int] = lambda: int(time.time())
    moment: Callable[[], Moment] = present_moment
    hand_over: HandOver | None = None

    @property
    def work(self) -> Path:
        """Folder of private copies, beside the store."""
        return self.store.with_name(f"{self.store.stem}.work")


class Service:
    """A watcher. :meth:`tick` does what is due; :meth:`run` calls it until :meth:`stop`."""

    def __init__(self, settings: Settings, store: JobStore, log: ServiceLog, lock: InboxLock) -> None:
        self.settings = settings
        self.gauges = Gauges()
        self._store = store
        self._log = log
        self._lock = lock
        self._owner = this_owner()
        self._outbox = str(settings.outbox)
        self._keep_input = settings.keep_input or not lock.writable
        self._inbox = Inbox(settings.inbox, settings.waits.quiet_s)
        now, now_s = settings.moment(), time.monotonic()
        self._inbox.first_seen_s = {
            sha256: now_s - elapsed_s(then, now) for sha256, then in store.first_seen(str(settings.inbox)).items()
        }
        self._pool = Pool(
            settings.workers, settings.threads, settings.memory_bytes, settings.timeout_s, settings.worker
        )
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._hurried = threading.Event()
        self._ended: list[Ended] = []
        self._known: set[str] = set()
        self._stamp: tuple[int, int] | None = None
        self._next_scan_s = 0.0
        self._next_renewal_s = 0.0
        self._next_retention_s = 0.0
        self._next_beat_s = 0.0
        self._next_probe_s = 0.0
        self._paused_until_s = 0.0
        self._looking = False
        self._sender: threading.Thread | None = None
        self._send_after_s: dict[str, tuple[float, int]] = {}
        settings.work.mkdir(parents=True, exist_ok=True, mode=0o700)

    # Outside

    def wake(self) -> None:
        """Scan soon: something changed in the inbox (or so it is said)."""
        self._wake.set()

    def stop(self) -> None:
        """End the loop after the present step."""
        self._stopping.set()
        self._wake.set()

    def hurry(self) -> None:
        """Do not wait for running jobs any longer: they are handed back."""
        self._hurried.set()

    def run(self) -> None:
        """Work until :meth:`stop`; then wait ``grace_s`` for running jobs and hand back the rest."""
        self.sweep()
        while not self._stopping.is_set():
            delay = self.tick(time.monotonic())
            if self._wake.wait(delay) and not self._stopping.is_set():
                self._wake.clear()
                self._next_scan_s = min(self._next_scan_s, time.monotonic() + min(1.0, self.settings.poll_s))
        self._shut_down()

    def tick(self, now_s: float) -> float:
        """Everything that is due at a monotonic time; seconds until there may be more to do."""
        with self._watching("store"):
            self._beat(now_s)
            self._renew(now_s)
            self._reap()
            self._take_back()
            if self._scan(now_s):
                self._decide(now_s)
                self._move(now_s)
            self._check_places(now_s)
            self._start(now_s)
            self._send(now_s)
            self._retain(now_s)
            self.gauges.jobs = self._store.counts(self._outbox)
        self.gauges.running = len(self._pool.jobs)
        if self._looking:
            return 0.0
        wait = max(self._next_scan_s - time.monotonic(), 0.0)
        return min(wait, _WORKER_TICK_S) if self._pool.jobs else min(wait, self.settings.poll_s)

    @contextlib.contextmanager
    def _watching(self, subject: str) -> Iterator[None]:
        """Trouble of disk or store ends a step, not the service: it is told, and everything is tried again."""
        try:
            yield
            self._clear(subject)
        except sqlite3.OperationalError as error:
            full = "full" in str(error)
            self._trouble("disk" if full else subject, "disk full" if full else "the job store cannot be used")
            self._pause()
        except OSError as error:
            if error.errno not in NO_PLACE:
                raise
            self._trouble("disk" if error.errno in DISK_FULL else "place", f"{error.strerror}")
            self._pause()

    def _pause(self) -> None:
        self._paused_until_s = time.monotonic() + _FULL_PAUSE_S
        self._next_scan_s = max(self._next_scan_s, time.monotonic() + min(1.0, self.settings.poll_s))

    def _trouble(self, subject: str, text: str) -> None:
        self.gauges.trouble[subject] = text
        self._log.once(f"trouble {subject}", "error", "trouble", subject=subject, reason=text)

    def _clear(self, subject: str) -> None:
        if self.gauges.trouble.pop(subject, None) is not None and self._log.forget(f"trouble {subject}"):
            self._log.write("info", "well_again", subject=subject)

    def _beat(self, now_s: float) -> None:
        """Keep the lock of the inbox: never in the bare mount point of a share that is gone."""
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + _BEAT_EVERY_S
            if self._lock.trouble() is None:
                with contextlib.suppress(OSError):
                    self._lock.beat()

    # Looking at the inbox

    def _scan(self, now_s: float) -> bool:
        """Scan and read, if it is due; whether there is something to decide on."""
        if not self._looking and now_s < self._next_scan_s:
            return False
        if not self._looking:
            began, began_cpu = time.monotonic(), time.thread_time()
            trouble, unlisted = self._lock.trouble(), 0
            if trouble is None:
                snapshot = self._inbox.scan(now_s)
                trouble, unlisted = snapshot.trouble, len(snapshot.unlisted)
            self.gauges.last_scan_s = time.monotonic() - began
            # idle costs less than one hundredth of a core, however many files lie in the inbox
            rest = min(200.0 * (time.thread_time() - began_cpu), _LONGEST_POLL_S)
            self._next_scan_s = now_s + max(self.settings.poll_s, rest)
            if trouble is not None:
                self._trouble("inbox", trouble)
                return False
            self._clear("inbox")
            if unlisted:
                self._trouble(_UNLISTED, f"folders of the inbox that cannot be listed: {unlisted}")
            else:
                self._clear(_UNLISTED)
        self._looking = self._inbox.look(now_s, _LOOK_S)
        due = self._inbox.next_due_s(now_s)
        if due is not None:
            self._next_scan_s = min(self._next_scan_s, now_s + max(due + 0.01, 0.1))
        self._refresh()
        return True

    def _refresh(self) -> None:
        stamp = self._store.stamp()
        if stamp != self._stamp:
            self._known = self._store.containers(self._outbox, self.settings.rules.config, self.settings.replan)
            self._stamp = stamp

    def _decide(self, now_s: float) -> None:
        # most of the time nothing is new, and ten thousand files may be kept
        new = any(one.contents and one.sha256 not in self._known for one in self._inbox.index.values())
        objects = self._inbox.present(self._known) if new else []
        fresh = [one for one in objects if one.fresh]
        self.gauges.waiting_files = (
            len({one.path for one in fresh}) + len(self._inbox.watched.seen) - len(self._inbox.index)
        )
        if fresh:
            objects = self._with_recalled(objects, fresh)
            decisions = decide(
                objects,
                now_s,
                self.settings.waits,
                choose=self.settings.rules.choose(),
                busy_folders=self._inbox.busy_folders(),
            )
            for one in decisions:
                if isinstance(one, Refused):
                    self._refuse(one.objects, one.reason)
                elif isinstance(one, Ready) and self._may_take():
                    self._accept(one)
        else:
            self._inbox.forget_recalled()
        for _, item in self._inbox.unreadable(now_s, self.settings.waits.give_up_s):
            if item.sha256 not in self._known:
                file = JobFile("", item.sha256, "unreadable", item.sha256, item.state.size)
                self._add_refused([file], f"unreadable: {item.error}", "", "")
        self._refresh()
        self._note_first_seen(now_s)

    def _note_first_seen(self, now_s: float) -> None:
        """Keep since when files wait, so that waits go on when the service starts again."""
        inbox = self._inbox
        waiting = {one.sha256: name for name, one in inbox.index.items() if one.sha256 not in self._known}
        new = {sha256: name for sha256, name in waiting.items() if sha256 not in inbox.first_seen_s}
        # what has not been read yet may be what an earlier process saw
        gone = [
            sha256
            for sha256 in inbox.first_seen_s
            if sha256 not in waiting and (inbox.is_read() or sha256 in self._known)
        ]
        if not new and not gone:
            return
        now = self.settings.moment()
        since_s = {sha256: inbox.since_s(name) for sha256, name in new.items()}
        moments = {sha256: now.before(now_s - since) for sha256, since in since_s.items()}
        self._store.note_first_seen(str(self.settings.inbox), moments, gone)
        inbox.first_seen_s.update(since_s)
        for sha256 in gone:
            del inbox.first_seen_s[sha256]

    def _with_recalled(self, objects: list[Present], fresh: Sequence[Present]) -> list[Present]:
        """With the input of earlier jobs that a new structure set or a late slice belongs to."""
        jobs: dict[str, Job] = {}
        for series in {one.content.series_uid for one in fresh if one.content.kind == "CT"}:
            for job in self._store.of_series(series, self._outbox):
                if job.structure_set_uid:
                    jobs[job.id] = job
        for one in fresh:
            refers = one.content.structures
            if refers is not None:
                found = self._store.of_objects(sorted(refers.images), self._outbox)
                found += [job for uid in refers.series for job in self._store.of_series(uid, self._outbox)]
                jobs.update({job.id: job for job in found})
        there = {(one.content.uid, one.content.sha256) for one in objects}
        extra: dict[tuple[str, str], Present] = {}
        for job in jobs.values():
            if job.is_final:
                for one in self._inbox.recall(job.id):
                    extra.setdefault((one.content.uid, one.content.sha256), one)
        return objects + [one for key, one in extra.items() if key not in there]

    # Accepting

    def _may_take(self) -> bool:
        return not self.gauges.trouble.keys() - {_UNLISTED} and time.monotonic() >= self._paused_until_s

    def _files(self, planned: Sequence[Present], others: Sequence[Present] = ()) -> list[JobFile]:
        return [
            JobFile(one.content.uid, one.content.sha256, one.content.kind, one.container_sha256, one.content.size, on)
            for group, on in ((planned, True), (others, False))
            for one in group
        ]

    def _accept(self, ready: Ready) -> None:
        settings = self.settings
        contents = [one.content for one in ready.slices]
        rule = settings.rules.match(ready.structure_set.content, contents)
        if rule is None:
            fresh = [one for one in (ready.structure_set, *ready.slices, *ready.others) if one.fresh]
            self._refuse(fresh, "no rule fits this study")
            return
        planned = (ready.structure_set, *ready.slices)
        files = self._files(planned, ready.others)
        recipe = rule.recipe
        key = job_key(files, recipe.template_sha256, recipe.machine_sha256, __version__)
        generation = 0
        same = self._store.find(key, self._outbox)
        if same is not None:
            if not (settings.replan and same.is_final and same.moved and ready.structure_set.fresh):
                self._take_along(same, files)
                return
            generation = same.generation + 1
        related = self._related(ready.structure_set)
        here = {(item.uid, item.sha256) for item in files if item.planned_on}
        earlier = {
            job.id: {(item.uid, item.sha256) for item in self._store.files(job.id) if item.planned_on}
            for job in related
        }
        if generation == 0 and any(here <= old for old in earlier.values()):
            return  # a part of what a job has: the rest is being moved
        outdated = [job for job in related if earlier[job.id] <= here]
        new = self._new_job(key, generation, rule, ready, contents)
        if outdated:
            new = replace(new, follows=outdated[-1].id)
        if not self._has_space(new.disk_bytes):
            return
        try:
            copied = copy_input(
                settings.work, new.id, self._owner, settings.inbox, planned, recipe.files, new.received_s
            )
        except ChangedError:
            for one in planned:
                self._inbox.index.pop(one.path, None)
            self._inbox.forget_recalled()
            return
        active = [job.id for job in outdated if job.state in ACTIVE]
        try:
            if not self._store.add(new, files, active, copied.put_in_place):
                return  # another watcher was quicker
        finally:
            remove(copied.partial)
        self._log.write(
            "info", "accepted", job=new.id, template=rule.recipe.name, images=len(ready.slices), follows=new.follows
        )
        for job in active:
            self._log.write("info", "superseded", job=job, by=new.id)

    def _related(self, structure_set: Present) -> list[Job]:
        """Earlier jobs on the same structure set, under the same configuration."""
        found = self._store.of_structures(structure_set.content.uid, self._outbox)
        return [job for job in found if job.config == self.settings.rules.config and job.state != "cancelled"]

    def _new_job(self, key: str, generation: int, rule: Rule, ready: Ready, contents: Sequence[Content]) -> NewJob:
        settings = self.settings
        template = rule.recipe.template
        everything = [*contents, ready.structure_set.content]
        return NewJob(
            id=job_id(key, self._outbox, generation),
            key=key,
            generation=generation,
            config=settings.rules.config,
            inbox=str(settings.inbox),
            outbox=self._outbox,
            template=rule.recipe.name,
            version=__version__,
            received_s=settings.receipt(),
            structure_set_uid=ready.structure_set.content.uid,
            series_uid=contents[0].series_uid,
            memory_bytes=estimates.memory_bytes(contents, template),
            disk_bytes=estimates.disk_bytes(everything, template),
        )

    def _take_along(self, job: Job, files: Sequence[JobFile]) -> None:
        """Files that came later and belong to a job that is there move with it (a copy, an image nobody plans on)."""
        there = {item.container_sha256 for item in self._store.files(job.id)}
        more = [item for item in files if item.container_sha256 not in there]
        config = self.settings.rules.config
        if more or job.moved or job.config != config:
            self._store.add_files(job.id, more, config)

    def _refuse(self, objects: Sequence[Present], reason: str) -> None:
        fresh = [one for one in objects if one.fresh]
        if not fresh:
            return
        sets = [one.content for one in objects if one.content.kind == "RTSTRUCT"]
        series = sorted({one.content.series_uid for one in objects if one.content.kind == "CT"})
        if len(sets) == 1 and sets[0].structures is not None and not series:
            series = sorted(sets[0].structures.series)
        uid = sets[0].uid if len(sets) == 1 else ""
        self._add_refused(self._files(fresh), reason, uid, series[0] if series else "")

    def _add_refused(self, files: Sequence[JobFile], reason: str, structure_set_uid: str, series_uid: str) -> None:
        settings = self.settings
        key = job_key(files, "refused", settings.rules.config, reason)
        same = self._store.find(key, self._outbox)
        if same is not None:
            self._take_along(same, ())
            return
        new = NewJob(
            id=job_id(key, self._outbox, 0),
            key=key,
            generation=0,
            config=settings.rules.config,
            inbox=str(settings.inbox),
            outbox=self._outbox,
            template="",
            version=__version__,
            received_s=settings.receipt(),
            structure_set_uid=structure_set_uid,
            series_uid=series_uid,
            state="refused",
            error=reason,
        )
        if self._store.add(new, files):
            self._log.write("warning", "refused", job=new.id, reason=reason)

    # Space

    def _has_space(self, more_bytes: int) -> bool:
        """Whether private copies and results have room for so much more; else health is red until they have."""
        for place in (self.settings.work, self.settings.outbox):
            if shutil.disk_usage(place).free < more_bytes + self.settings.min_free_bytes:
                self._trouble("disk", "not enough free space: no study is taken")
                self._pause()
                return False
        return True

    def _check_places(self, now_s: float) -> None:
        """Whether the outbox can be written, and whether there is room again."""
        if "disk" in self.gauges.trouble and time.monotonic() >= self._paused_until_s and self._has_space(0):
            self._clear("disk")
        if time.monotonic() >= self._paused_until_s:
            self._clear("place")
        if "outbox" in self.gauges.trouble or now_s >= self._next_probe_s:
            self._next_probe_s = now_s + _PROBE_EVERY_S
            problem = self._probe_outbox()
            if problem is None:
                self._clear("outbox")
            else:
                self._trouble("outbox", problem)

    def _probe_outbox(self) -> str | None:
        """Why the outbox cannot be written; None if it can. Raises OSError if it is full."""
        probe = self.settings.outbox / SERVICE_FOLDER / f".probe-{os.getpid()}"
        try:
            delivering.service_folder(self.settings.outbox)
            probe.write_bytes(b"x")
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            return f"the outbox cannot be written: {error.strerror}"
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return None

    # Running

    def _start(self, now_s: float) -> None:
        # jobs run on private copies: an inbox that is gone does not hold them up
        if (
            self.gauges.trouble.keys() - {"inbox", _UNLISTED}
            or time.monotonic() < self._paused_until_s
            or self._stopping.is_set()
        ):
            return
        for job in self._store.claimable(self._outbox):
            if not self._pool.has_room(job):
                break
            folder = self.settings.work / job.id
            if not self._has_space(job.disk_bytes):
                break
            if not self._store.claim(job.id, self._owner, LEASE_S):
                continue
            if not folder.is_dir():
                self._store.end(job.id, self._owner, "failed", error="its private copy is gone")
                continue
            try:
                attempt = delivering.new_attempt(self.settings.outbox, job.id, self._owner)
                self._pool.start(job, folder, attempt)
            except BaseException:
                self._store.hand_back(job.id, self._owner)
                raise
            self._log.write("info", "started", job=job.id, attempt=job.attempts + 1)

    def _reap(self) -> None:
        self._ended += self._pool.reap()
        while self._ended:
            self._end(self._ended[0])  # stays in the list until it is dealt with
            self._ended.pop(0)

    def _end(self, ended: Ended) -> None:
        self.gauges.note_duration(ended.seconds)
        job, code = ended.job, ended.exit_code
        if ended.kind == "disk_full":
            self._trouble("disk", "disk full")
            self._pause()
            self._store.hand_back(job, self._owner, delay_s=_FULL_PAUSE_S)
        elif code in (2, EXIT_NO_PLACE) and (problem := self._probe_outbox()) is not None:
            # a place that cannot be written: nothing is wrong with the job
            self._trouble("outbox", problem)
            self._store.hand_back(job, self._owner, delay_s=_FULL_PAUSE_S)
        elif ended.kind == "outcome" and code in (0, 5, 6):
            if job in self._store.held(self._owner):
                self._publish(job, ended.folder, code)
        elif ended.kind == "outcome" and code in (3, 4):
            if self._store.end(job, self._owner, "refused", exit_code=code, error=ended.error):
                self._log.write("warning", "refused", job=job, reason=ended.error)
        else:
            self.gauges.deaths += 1
            self._died(job, ended)
        delivering.clear_attempts(self.settings.outbox, job)
        if self._store.job(job).state in ("done", "refused", "superseded"):
            remove(self.settings.work / job)

    def _died(self, job: str, ended: Ended) -> None:
        attempts = self._store.job(job).attempts
        delay = min(self.settings.retry_s * 4**attempts, _MOST_BACK_OFF_S)
        error = ended.error or "the worker ended for no stated reason"
        state = self._store.died(job, self._owner, error, delay_s=delay, exit_code=ended.exit_code)
        if state is not None:
            level = "error" if state == "failed" else "warning"
            self._log.write(level, state, job=job, attempts=attempts + 1, reason=error)

    def _publish(self, job: str, attempt: Path, code: int | None) -> None:
        outbox = self.settings.outbox
        if not delivering.publish(outbox, job, attempt, self.settings.mode):
            error = "the worker left no result"
            self._store.died(job, self._owner, error, delay_s=self.settings.retry_s)
            return
        status = delivering.plan_status(outbox, job)
        if code is None:
            code = {"accepted": 0, "failed": 5, "not_deliverable": 6}.get(status or "", 0)
        if not self._store.end(job, self._owner, "done", exit_code=code, plan_status=status):
            if self._store.job(job).state in ("cancelled", "superseded"):
                remove(outbox / job)  # it was cancelled in the moment between
            return
        self._log.write("info", "done", job=job, plan_status=status, output=f"{outbox}/{job}")

    def _renew(self, now_s: float) -> None:
        """Renew the leases, and stop workers of jobs that were cancelled or superseded."""
        if now_s >= self._next_renewal_s:
            held = self._store.renew(self._owner, LEASE_S)
            self._next_renewal_s = now_s + LEASE_S / 4
        elif self._pool.jobs and self._store.stamp() != self._stamp:
            held = self._store.held(self._owner)
        else:
            return
        for job in self._pool.jobs:
            if job not in held:
                self._pool.stop(job)
                delivering.clear_attempts(self.settings.outbox, job)
                if self._store.job(job).state == "superseded":
                    remove(self.settings.work / job)
                self._log.write("info", "stopped", job=job, state=self._store.job(job).state)

    def _take_back(self) -> None:
        """Jobs whose watcher is gone: what it had finished is handed over, the rest runs again at no cost."""
        for job in self._store.orphaned(is_alive, self._outbox):
            if not self._store.adopt(job, self._owner, LEASE_S):
                continue
            outbox = self.settings.outbox
            attempt = delivering.finished_attempt(outbox, job.id)
            try:
                if delivering.is_published(outbox, job.id) or attempt is not None:
                    self._publish(job.id, attempt or outbox, None)
                    remove(self.settings.work / job.id)
                else:
                    self._store.hand_back(job.id, self._owner)
                    self._log.write("info", "handed_back", job=job.id)
                delivering.clear_attempts(outbox, job.id)
            except BaseException:
                self._store.hand_back(job.id, self._owner)
                raise

    # Clearing up

    def _move(self, now_s: float) -> None:
        """Move the input of ended jobs out of the inbox, once their end is in the store."""
        unmoved = [job for job in self._store.unmoved(self._outbox) if job.inbox == str(self.settings.inbox)]
        if self._keep_input or self._looking:
            return
        jobs = {job.id: job for job in unmoved}
        left: set[str] = set()
        moved: dict[str, Job] = {}
        for name, one in list(self._inbox.index.items()):
            if one.sha256 not in self._known and one.error is None:
                continue
            of_file = [job for job in self._store.of_file(one.sha256, self._outbox) if job.state != "superseded"]
            if not of_file:
                continue
            if any(not job.is_final for job in of_file):
                left.update(job.id for job in of_file)
                continue
            if delivering.move_input(self.settings.inbox, of_file[-1], name, one.sha256):
                moved[of_file[-1].id] = of_file[-1]
            del self._inbox.index[name]
            self._inbox.watched.seen.pop(name, None)
        for job in moved.values():
            delivering.write_reason(self.settings.inbox, job)
        if moved:
            self._inbox.forget_recalled()
        self._clear_folders()
        if len(self._inbox.index) < len(self._inbox.watched.seen):
            return  # some files have not been looked at: they may belong to these jobs
        for job in jobs.values():
            if job.id not in left:
                if job.state != "superseded" and job.id not in moved:
                    delivering.write_reason(self.settings.inbox, job)
                self._store.set_moved(job.id)

    def _clear_folders(self) -> None:
        """Remove folders that have been empty for some time; a writer may just have made a younger one."""
        for folder in self._inbox.empty_folders:
            with contextlib.suppress(OSError):
                age = time.time() - os.stat(self.settings.inbox / folder).st_mtime
                if age > max(_EMPTY_FOLDER_S, 10 * self.settings.waits.quiet_s):
                    delivering.clear_folder(self.settings.inbox, folder)

    def kill_workers(self) -> None:
        """Kill the workers and tell nobody: what the death of this process does."""
        self._pool.stop_all()

    def sweep(self) -> None:
        """Remove what crashes left half-made: copies, attempts of jobs that have ended or do not run."""
        sweep_partial(self.settings.work)
        with contextlib.suppress(OSError):
            by_id = {job.id: job for job in self._store.jobs()}
            kept = ("received", "waiting", "running", "failed", "cancelled")
            for path in self.settings.work.iterdir():
                job = by_id.get(path.name)
                if job is not None and job.state not in kept:
                    remove(path)
            delivering.clear_unfinished(self.settings.inbox)
            for path in delivering.service_folder(self.settings.outbox).iterdir():
                if path.name.startswith(".probe-"):
                    path.unlink()
                job = by_id.get(path.name)
                if job is not None and job.state != "running":
                    remove(path)

    def _retain(self, now_s: float) -> None:
        if now_s >= self._next_retention_s:
            self._next_retention_s = now_s + _RETENTION_EVERY_S
            for job, what in apply_retention(self.settings.retention, self._store, self._outbox, time.time()):
                self._log.write("info", "removed", job=job, what=what)

    def _send(self, now_s: float) -> None:
        """Hand finished results over, one at a time, in a thread that cannot hold up the loop."""
        hand_over = self.settings.hand_over
        if hand_over is None or (self._sender is not None and self._sender.is_alive()):
            return
        for job in self._store.not_handed_over(self._outbox):
            due, tries = self._send_after_s.get(job.id, (0.0, 0))
            if now_s < due:
                continue
            delay = min(self.settings.retry_s * 2**tries, _MOST_BACK_OFF_S)
            self._send_after_s[job.id] = (now_s + delay, tries + 1)
            self._sender = threading.Thread(target=self._send_one, args=(hand_over, job), daemon=True)
            self._sender.start()
            return

    def _send_one(self, hand_over: HandOver, job: Job) -> None:
        try:
            with JobStore(self.settings.store) as store:
                sent = hand_over(store, job)
                if sent:
                    store.set_handed_over(job.id)
            self._log.write("info" if sent else "warning", "handed_over" if sent else "not_handed_over", job=job.id)
            self.gauges.handover_failures += not sent
        except Exception as error:
            # whatever a network does, the job has ended well
            self.gauges.handover_failures += 1
            self._log.write("warning", "not_handed_over", job=job.id, reason=type(error).__name__)

    def _shut_down(self) -> None:
        """Finish what ends within the grace, hand back the rest: no attempt is counted, nothing is half-written."""
        until = time.monotonic() + self.settings.grace_s
        while self._pool.jobs and time.monotonic() < until and not self._hurried.is_set():
            with self._watching("store"):
                self._reap()
                self._renew(time.monotonic())
            time.sleep(_WORKER_TICK_S / 2)
        for job, _ in self._pool.stop_all():
            with self._watching("store"):
                self._store.hand_back(job, self._owner)
                delivering.clear_attempts(self.settings.outbox, job)
                self._log.write("info", "handed_back", job=job)
        self._log.write("info", "stopped")
